#!/usr/bin/env bash
# Stage 1: pretrain an SRN on posed images.
# Usage: [OBJ= DATA= LOGS= CONFIG= VAL=] training_scripts/vanilla_srn.sh [options of train.py]
set -euo pipefail
source "$(dirname "$0")/../common.sh"
exec "${TRAIN[@]}" train.py -c "train_configs/$CONFIG.yml" \
    --data_root "$DATA/$OBJ/$OBJ.train" "${VALIDATION[@]}" --obj_name "$OBJ" \
    --resume auto --logging_root "$LOGS" --log_dir "$OBJ/vanilla_srn" --class_weight 0 "$@"
