#!/usr/bin/env bash
# Stage 2, what the paper compares with: a 2-D U-Net on the SRN's rendered images. Usage: as linear_update.sh
set -euo pipefail
source "$(dirname "$0")/../common.sh"
exec "${TRAIN[@]}" train.py -c "train_configs/${CONFIG}_unet_baseline.yml" \
    --data_root "$DATA/$OBJ/$OBJ.train" "${VALIDATION[@]}" --obj_name "$OBJ" \
    --logging_root "$LOGS" --log_dir "$OBJ/unet_baseline" \
    --model_type unet --checkpoint_path "$SRN" "$@"
