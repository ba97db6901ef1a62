# Sourced by every stage script: sets where data and runs are. An environment variable of the same name overrides a
# default. Its paths are relative to the caller's folder; the defaults connect the stages to each other.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
OBJ=${OBJ:-Chair}                                            # class: Chair, Table, ...
DATA=$(realpath -m "${DATA:-$root/data/demo}")               # holds $OBJ/$OBJ.train, $OBJ/$OBJ.test, ...
LOGS=$(realpath -m "${LOGS:-$root/logs/demo}")               # holds a folder per run
CONFIG=${CONFIG:-demo}                                       # name of the files in train_configs/ and test_configs/
VAL=$(realpath -m "${VAL:-$DATA/$OBJ/$OBJ.train_val}")       # the training objects in other views
EVAL_MODE=${EVAL_MODE:-linear}                               # source of the classes: linear, mlp, unet or srn
[ "$EVAL_MODE" != unet ] || STAGE2=unet_baseline
SRN=$(realpath -m "${SRN:-$LOGS/$OBJ/${STAGE1:-vanilla_srn}}")    # run folder or .pth file of stage 1
HEAD=$(realpath -m "${HEAD:-$LOGS/$OBJ/${STAGE2:-linear_update}}") # run folder or .pth file of stage 2
SELECTION=$(realpath -m "${SELECTION:-$LOGS/$OBJ/label_selection.json}")  # of suggest_labels.sh; without it, stage 2 asks CONFIG
LABELS=()
[ ! -f "$SELECTION" ] || LABELS=(--label_selection "$SELECTION")
CODES=${CODES:+$(realpath -m "$CODES")}                      # run folder or .pth file of stage 3
case $EVAL_MODE in
    srn) CLASSES=(--eval_mode srn); [ ! -f "$DATA/$OBJ/$OBJ-level-1.txt" ] || CLASSES+=(--obj_name "$OBJ") ;;
    unet) CLASSES=(--eval_mode unet --obj_name "$OBJ" --unet_path "$HEAD") ;;
    *) CLASSES=(--eval_mode "$EVAL_MODE" --obj_name "$OBJ" --linear_path "$HEAD") ;;
esac
[ -z "${RESUME:-}" ] && FIT=(--overwrite_embeddings) || FIT=(--freeze_networks --resume never)  # RESUME=1: fit SRN further
NOVEL=$([ -d "$VAL" ] && echo "$VAL" || echo "$DATA/$OBJ/$OBJ.train")  # test.py does not score the views trained on
[ -d "$VAL" ] && VALIDATION=(--val_root "$VAL") || VALIDATION=(--no_validation)
venv=$root/.venv/bin/python
PYTHON=${PYTHON:-$([ -x "$venv" ] && echo "$venv" || echo python3)}
read -ra TRAIN <<< "${LAUNCH:-}"  # LAUNCH="torchrun --nproc_per_node=4": stages 1 to 3 in 4 processes
[ "${TRAIN[0]:-}" != torchrun ] || TRAIN=("$PYTHON" -m torch.distributed.run "${TRAIN[@]:1}")  # of the same PyTorch
export PET_SIGNALS_TO_HANDLE=${PET_SIGNALS_TO_HANDLE:-SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1}  # that torchrun passes on
[ ${#TRAIN[@]} != 0 ] || TRAIN=("$PYTHON")
cd "$root"
