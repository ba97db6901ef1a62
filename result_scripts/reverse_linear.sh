#!/usr/bin/env bash
# Stage 4: render and score what reverse_linear.sh fitted. Usage: [OBJ= DATA= LOGS= CODES= HEAD= EVAL_MODE= CONFIG=] reverse_linear.sh [more flags]
set -euo pipefail
source "$(dirname "$0")/../common.sh"
exec "$PYTHON" test.py -c "test_configs/$CONFIG.yml" \
    --data_root "$DATA/$OBJ/$OBJ.test" --obj_name "$OBJ" \
    --logging_root "$LOGS" --log_dir "$OBJ/reverse_linear_results" --point_cloud \
    --checkpoint_path "${CODES:-$LOGS/$OBJ/reverse_linear}" "${CLASSES[@]}" "$@"
