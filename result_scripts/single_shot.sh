#!/usr/bin/env bash
# Stage 4: render and score what single_shot.sh fitted. Usage: [OBJ= DATA= LOGS= CODES= HEAD= EVAL_MODE= CONFIG=] single_shot.sh [more flags]
set -euo pipefail
source "$(dirname "$0")/../common.sh"
exec "$PYTHON" test.py -c "test_configs/$CONFIG.yml" \
    --data_root "$DATA/$OBJ/$OBJ.test" --obj_name "$OBJ" \
    --logging_root "$LOGS" --log_dir "$OBJ/single_shot_results" --point_cloud \
    --checkpoint_path "${CODES:-$LOGS/$OBJ/single_shot}" "${CLASSES[@]}" "$@"
