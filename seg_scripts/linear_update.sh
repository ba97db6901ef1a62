#!/usr/bin/env bash
# Stage 2: train a linear head from the SRN's features to classes.
# Usage: [OBJ= DATA= LOGS= SRN= CONFIG= VAL= SELECTION=] seg_scripts/linear_update.sh [options of train.py]
set -euo pipefail
source "$(dirname "$0")/../common.sh"
exec "${TRAIN[@]}" train.py -c "train_configs/${CONFIG}_linear_update.yml" \
    --data_root "$DATA/$OBJ/$OBJ.train" "${VALIDATION[@]}" --obj_name "$OBJ" \
    --resume auto --logging_root "$LOGS" --log_dir "$OBJ/linear_update" \
    --model_type linear --checkpoint_path "$SRN" "${LABELS[@]}" "$@"
