#!/usr/bin/env bash
# Stage 1 of SRN 2019: pretrain on cars.
# Usage: [OBJ= DATA= LOGS= CONFIG= VAL=] training_scripts/cars.sh [options of train.py]
set -euo pipefail
export OBJ=${OBJ:-Car} CONFIG=${CONFIG:-cars}
source "$(dirname "$0")/../common.sh"
exec "${TRAIN[@]}" train.py -c "train_configs/$CONFIG.yml" --data_root "$DATA/$OBJ/$OBJ.train" "${VALIDATION[@]}" \
    --resume auto --logging_root "$LOGS" --log_dir "$OBJ/vanilla_srn" --class_weight 0 "$@"
