#!/usr/bin/env bash
# Stage 4: render and score the training objects in views that were not trained on.
# Usage: [OBJ= DATA= LOGS= VAL= SRN= HEAD= EVAL_MODE= CONFIG=] result_scripts/train_val.sh [options of test.py]
set -euo pipefail
source "$(dirname "$0")/../common.sh"
exec "$PYTHON" test.py -c "test_configs/$CONFIG.yml" \
    --data_root "$NOVEL" \
    --resume auto --logging_root "$LOGS" --log_dir "$OBJ/train_val_results" --point_cloud \
    --checkpoint_path "$SRN" "${CLASSES[@]}" "$@"
