#!/usr/bin/env bash
# Stage 4 of SRN 2019: render and score the cars of test_scripts/cars_two_shot.sh.
# Usage: [OBJ= DATA= LOGS= CODES= CONFIG=] result_scripts/cars_two_shot.sh [options of test.py]
set -euo pipefail
export OBJ=${OBJ:-Car} CONFIG=${CONFIG:-cars}
source "$(dirname "$0")/../common.sh"
exec "$PYTHON" test.py -c "test_configs/${CONFIG}_few_shot_novel_view.yml" --data_root "$DATA/$OBJ/$OBJ.test" \
    --resume auto --logging_root "$LOGS" --log_dir "$OBJ/two_shot_results" --checkpoint_path "${CODES:-$LOGS/$OBJ/two_shot}" "$@"
