#!/usr/bin/env bash
# Stage 4: render and score the training objects in views not trained on. Usage: [OBJ= DATA= LOGS= VAL= SRN= HEAD= EVAL_MODE= CONFIG=] train_val.sh [more flags]
set -euo pipefail
source "$(dirname "$0")/../common.sh"
exec "$PYTHON" test.py -c "test_configs/$CONFIG.yml" \
    --data_root "$NOVEL" --obj_name "$OBJ" \
    --logging_root "$LOGS" --log_dir "$OBJ/train_val_results" --point_cloud \
    --checkpoint_path "$SRN" "${CLASSES[@]}" "$@"
