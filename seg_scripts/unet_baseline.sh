#!/usr/bin/env bash
# Stage 2, the paper's baseline: train a 2-D U-Net on images that the SRN renders.
# Usage: [OBJ= DATA= LOGS= SRN= CONFIG= VAL= SELECTION=] seg_scripts/unet_baseline.sh [options of train.py]
set -euo pipefail
source "$(dirname "$0")/../common.sh"
exec "${TRAIN[@]}" train.py -c "train_configs/${CONFIG}_unet_baseline.yml" \
    --data_root "$DATA/$OBJ/$OBJ.train" "${VALIDATION[@]}" --obj_name "$OBJ" \
    --resume auto --logging_root "$LOGS" --log_dir "$OBJ/unet_baseline" \
    --model_type unet --checkpoint_path "$SRN" "${LABELS[@]}" "$@"
