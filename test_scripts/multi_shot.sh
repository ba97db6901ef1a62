#!/usr/bin/env bash
# Stage 3: fit latent codes of unseen objects to up to 50 views of each.
# Usage: [OBJ= DATA= LOGS= SRN= CONFIG= RESUME=] test_scripts/multi_shot.sh [options of train.py]
set -euo pipefail
source "$(dirname "$0")/../common.sh"
exec "${TRAIN[@]}" train.py -c "train_configs/${CONFIG}_codes.yml" \
    --data_root "$DATA/$OBJ/$OBJ.test" --obj_name "$OBJ" \
    --resume auto --logging_root "$LOGS" --log_dir "$OBJ/multi_shot" --class_weight 0 \
    --checkpoint_path "$SRN" "${FIT[@]}" --max_num_observations_train 50 "$@"
