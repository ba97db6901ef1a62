#!/usr/bin/env bash
# Stage 3: fit latent codes of unseen objects to views 64 and 104 of each.
# Usage: [OBJ= DATA= LOGS= SRN= CONFIG= RESUME=] test_scripts/two_shot.sh [options of train.py]
set -euo pipefail
source "$(dirname "$0")/../common.sh"
exec "${TRAIN[@]}" train.py -c "train_configs/${CONFIG}_codes.yml" \
    --data_root "$DATA/$OBJ/$OBJ.test" --obj_name "$OBJ" \
    --resume auto --logging_root "$LOGS" --log_dir "$OBJ/two_shot" --class_weight 0 \
    --checkpoint_path "$SRN" "${FIT[@]}" --specific_observation_idcs 64,104 "$@"
