#!/usr/bin/env bash
# Stage 1 of SRN 2019: pretrain on Shepard-Metzler objects.
# Usage: [OBJ= DATA= LOGS= CONFIG= VAL=] training_scripts/shepard_metzler.sh [options of train.py]
set -euo pipefail
export OBJ=${OBJ:-ShepardMetzler} CONFIG=${CONFIG:-shepard_metzler}
source "$(dirname "$0")/../common.sh"
exec training_scripts/cars.sh "$@"
