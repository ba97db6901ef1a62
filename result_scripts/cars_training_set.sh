#!/usr/bin/env bash
# Stage 4 of SRN 2019: render and score the training cars in views that were not trained on.
# Usage: [OBJ= DATA= LOGS= VAL= SRN= CONFIG=] result_scripts/cars_training_set.sh [options of test.py]
set -euo pipefail
export OBJ=${OBJ:-Car} CONFIG=${CONFIG:-cars}
source "$(dirname "$0")/../common.sh"
exec "$PYTHON" test.py -c "test_configs/${CONFIG}_training_set_novel_view.yml" --data_root "$NOVEL" \
    --resume auto --logging_root "$LOGS" --log_dir "$OBJ/training_set_results" --checkpoint_path "$SRN" "$@"
