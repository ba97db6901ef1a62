#!/usr/bin/env bash
# Stage 4: render and score the objects of test_scripts/reverse_semantic.sh.
# Usage: [OBJ= DATA= LOGS= CODES= CONFIG=] result_scripts/reverse_semantic.sh [options of test.py]
set -euo pipefail
source "$(dirname "$0")/../common.sh"
exec "$PYTHON" test.py -c "test_configs/$CONFIG.yml" \
    --data_root "$DATA/$OBJ/$OBJ.test" --obj_name "$OBJ" \
    --resume auto --logging_root "$LOGS" --log_dir "$OBJ/reverse_semantic_results" --point_cloud \
    --checkpoint_path "${CODES:-$LOGS/$OBJ/reverse_semantic}" --eval_mode srn "$@"
