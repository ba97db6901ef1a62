#!/usr/bin/env bash
# Stage 1 with labels: pretrain an SRN jointly with its segmentation U-Net.
# Usage: [OBJ= DATA= LOGS= CONFIG= VAL=] training_scripts/semantic_srn.sh [options of train.py]
set -euo pipefail
source "$(dirname "$0")/../common.sh"
exec "${TRAIN[@]}" train.py -c "train_configs/${CONFIG}_semantic.yml" \
    --data_root "$DATA/$OBJ/$OBJ.train" "${VALIDATION[@]}" --obj_name "$OBJ" \
    --resume auto --logging_root "$LOGS" --log_dir "$OBJ/semantic_srn" --class_weight 8 "$@"
