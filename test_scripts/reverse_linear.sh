#!/usr/bin/env bash
# Stage 3, reverse: fit latent codes to the label map of view 65 through the linear head; no image is read.
# Usage: [OBJ= DATA= LOGS= SRN= HEAD= CONFIG= RESUME=] test_scripts/reverse_linear.sh [options of train.py]
set -euo pipefail
source "$(dirname "$0")/../common.sh"
exec "${TRAIN[@]}" train.py -c "train_configs/${CONFIG}_codes.yml" \
    --data_root "$DATA/$OBJ/$OBJ.test" --obj_name "$OBJ" \
    --resume auto --logging_root "$LOGS" --log_dir "$OBJ/reverse_linear" --class_weight 8 --linear_path "$HEAD" \
    --checkpoint_path "$SRN" "${FIT[@]}" --specific_observation_idcs 65 "$@"
