#!/usr/bin/env bash
# Stage 3, reverse: fit latent codes to the label map of view 65 through the semantic SRN's U-Net; no image is read.
# Usage: [OBJ= DATA= LOGS= SRN= CONFIG= RESUME=] test_scripts/reverse_semantic.sh [options of train.py]
set -euo pipefail
STAGE1=semantic_srn
source "$(dirname "$0")/../common.sh"
exec "${TRAIN[@]}" train.py -c "train_configs/${CONFIG}_codes.yml" \
    --data_root "$DATA/$OBJ/$OBJ.test" --obj_name "$OBJ" \
    --resume auto --logging_root "$LOGS" --log_dir "$OBJ/reverse_semantic" \
    --class_weight 8 --l1_weight 0 --rays_per_image 0 --foreground_fraction 0 \
    --checkpoint_path "$SRN" "${FIT[@]}" --specific_observation_idcs 65 "$@"
