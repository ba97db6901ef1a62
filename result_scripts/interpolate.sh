#!/usr/bin/env bash
# Film the way from a training object to the next. Usage: [OBJ= DATA= LOGS= SRN= HEAD=] interpolate.sh [more flags]
set -euo pipefail
source "$(dirname "$0")/../common.sh"
exec "$PYTHON" interpolate.py \
    --data_root "$DATA/$OBJ/$OBJ.train" \
    --logging_root "$LOGS" --log_dir "$OBJ/interpolation" \
    --checkpoint_path "$SRN" --linear_path "$HEAD" "$@"
