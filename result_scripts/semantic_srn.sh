#!/usr/bin/env bash
# Stage 4: render and score the training objects in views that were not trained on; classes by the semantic SRN's U-Net.
# Usage: [OBJ= DATA= LOGS= VAL= SRN= CONFIG=] result_scripts/semantic_srn.sh [options of test.py]
set -euo pipefail
STAGE1=semantic_srn
source "$(dirname "$0")/../common.sh"
exec "$PYTHON" test.py -c "test_configs/$CONFIG.yml" \
    --data_root "$NOVEL" --obj_name "$OBJ" \
    --resume auto --logging_root "$LOGS" --log_dir "$OBJ/semantic_srn_results" --point_cloud \
    --checkpoint_path "$SRN" --eval_mode srn "$@"
