#!/usr/bin/env bash
# Stage 1, SRN 2019: pretrain on Shepard-Metzler objects. Usage: as cars.sh
set -euo pipefail
export OBJ=${OBJ:-ShepardMetzler} CONFIG=${CONFIG:-shepard_metzler}
source "$(dirname "$0")/../common.sh"
exec training_scripts/cars.sh "$@"
