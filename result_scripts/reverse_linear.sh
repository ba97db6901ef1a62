#!/usr/bin/env bash
# Stage 4: render and score the objects of test_scripts/reverse_linear.sh.
# Usage: [OBJ= DATA= LOGS= CODES= HEAD= EVAL_MODE= CONFIG=] result_scripts/reverse_linear.sh [options of test.py]
set -euo pipefail
source "$(dirname "$0")/../common.sh"
exec "$PYTHON" test.py -c "test_configs/$CONFIG.yml" \
    --data_root "$DATA/$OBJ/$OBJ.test" \
    --resume auto --logging_root "$LOGS" --log_dir "$OBJ/reverse_linear_results" --point_cloud \
    --checkpoint_path "${CODES:-$LOGS/$OBJ/reverse_linear}" "${CLASSES[@]}" "$@"
