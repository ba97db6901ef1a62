#!/usr/bin/env bash
# Stage 2, first part: choose the ten objects and three views of each whose label maps teach most.
# Usage: [OBJ= DATA= LOGS= SRN= SELECTION=] seg_scripts/suggest_labels.sh [options of suggest_labels.py]
set -euo pipefail
source "$(dirname "$0")/../common.sh"
exec "$PYTHON" suggest_labels.py --data_root "$DATA/$OBJ/$OBJ.train" --checkpoint_path "$SRN" --out "$SELECTION" "$@"
