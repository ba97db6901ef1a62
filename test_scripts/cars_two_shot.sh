#!/usr/bin/env bash
# Stage 3 of SRN 2019: fit latent codes of unseen cars to two views of each.
# Usage: [OBJ= DATA= LOGS= SRN= CONFIG= RESUME=] test_scripts/cars_two_shot.sh [options of train.py]
set -euo pipefail
export OBJ=${OBJ:-Car} CONFIG=${CONFIG:-cars}
source "$(dirname "$0")/../common.sh"
exec "${TRAIN[@]}" train.py -c "train_configs/${CONFIG}_two_shot.yml" --data_root "$DATA/$OBJ/$OBJ.test" \
    --resume auto --logging_root "$LOGS" --log_dir "$OBJ/two_shot" --class_weight 0 --checkpoint_path "$SRN" "${FIT[@]}" "$@"
