#!/usr/bin/env bash
# Film the way from one object to the next while the camera goes round.
# Usage: [OBJ= DATA= SPLIT=train LOGS= SRN= HEAD= EVAL_MODE=linear|mlp|srn] result_scripts/interpolate.sh [options of interpolate.py]
set -euo pipefail
source "$(dirname "$0")/../common.sh"
[ "$EVAL_MODE" = srn ] && CLASSES=() || CLASSES=(--linear_path "$HEAD")
exec "$PYTHON" interpolate.py \
    --data_root "$DATA/$OBJ/$OBJ.${SPLIT:-train}" \
    --resume auto --logging_root "$LOGS" --log_dir "$OBJ/interpolation" \
    --checkpoint_path "$SRN" "${CLASSES[@]}" "$@"
