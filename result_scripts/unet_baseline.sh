#!/usr/bin/env bash
# Stage 4: render and score the training objects in views that were not trained on; classes by the U-Net baseline.
# Usage: [OBJ= DATA= LOGS= VAL= SRN= HEAD= CONFIG=] result_scripts/unet_baseline.sh [options of test.py]
set -euo pipefail
STAGE2=unet_baseline
source "$(dirname "$0")/../common.sh"
exec "$PYTHON" test.py -c "test_configs/$CONFIG.yml" --img_sidelength 128 \
    --data_root "$NOVEL" --obj_name "$OBJ" \
    --resume auto --logging_root "$LOGS" --log_dir "$OBJ/unet_baseline_results" --point_cloud \
    --checkpoint_path "$SRN" --eval_mode unet --unet_path "$HEAD" "$@"
