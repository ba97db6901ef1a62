#!/usr/bin/env bash
# Stage 4 of SRN 2019: render and score the Shepard-Metzler objects in views that were not trained on.
# Usage: [OBJ= DATA= LOGS= VAL= SRN= CONFIG=] result_scripts/shepard_metzler.sh [options of test.py]
set -euo pipefail
export OBJ=${OBJ:-ShepardMetzler} CONFIG=${CONFIG:-shepard_metzler}
source "$(dirname "$0")/../common.sh"
exec result_scripts/cars_training_set.sh "$@"
