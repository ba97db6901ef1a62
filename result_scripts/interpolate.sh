#!/usr/bin/env bash
# Film the way from an object to the next. Usage: [OBJ= DATA= SPLIT=train LOGS= SRN= HEAD= EVAL_MODE=linear|mlp|srn] interpolate.sh [more flags]
set -euo pipefail
source "$(dirname "$0")/../common.sh"
[ "$EVAL_MODE" = srn ] && CLASSES=() || CLASSES=(--linear_path "$HEAD")
exec "$PYTHON" interpolate.py \
    --data_root "$DATA/$OBJ/$OBJ.${SPLIT:-train}" \
    --logging_root "$LOGS" --log_dir "$OBJ/interpolation" \
    --checkpoint_path "$SRN" "${CLASSES[@]}" "$@"
