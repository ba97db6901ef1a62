#!/usr/bin/env bash
# Stage 4, SRN 2019: the Shepard-Metzler objects in views not trained on. Usage: as cars_training_set.sh
set -euo pipefail
export OBJ=${OBJ:-ShepardMetzler} CONFIG=${CONFIG:-shepard_metzler}
source "$(dirname "$0")/../common.sh"
exec result_scripts/cars_training_set.sh "$@"
