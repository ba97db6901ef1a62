# Sourced by every stage script: where things are. Each line can be overridden by an environment variable.
# Paths given there are relative to the caller's folder; the defaults chain the stages inside the project.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
OBJ=${OBJ:-Chair}                                            # class: Chair, Table, ...
DATA=$(realpath -m "${DATA:-$root/data/demo}")               # holds $OBJ/$OBJ.train, $OBJ/$OBJ.test, ...
LOGS=$(realpath -m "${LOGS:-$root/logs/demo}")               # holds a folder per run
CONFIG=${CONFIG:-demo}                                       # which of train_configs/ and test_configs/
VAL=$(realpath -m "${VAL:-$DATA/$OBJ/$OBJ.train_val}")       # the training instances from other views
EVAL_MODE=${EVAL_MODE:-linear}                               # where classes come from: linear, mlp, unet or srn
[ "$EVAL_MODE" != unet ] || STAGE2=unet_baseline
SRN=$(realpath -m "${SRN:-$LOGS/$OBJ/${STAGE1:-vanilla_srn}}")    # run folder or .pth file of stage 1
HEAD=$(realpath -m "${HEAD:-$LOGS/$OBJ/${STAGE2:-linear_update}}") # run folder or .pth file of stage 2
CODES=${CODES:+$(realpath -m "$CODES")}                      # run folder or .pth file of stage 3
case $EVAL_MODE in
    srn) CLASSES=(--eval_mode srn) ;;
    unet) CLASSES=(--eval_mode unet --unet_path "$HEAD") ;;
    *) CLASSES=(--eval_mode "$EVAL_MODE" --linear_path "$HEAD") ;;
esac
[ -z "${RESUME:-}" ] && FIT=(--overwrite_embeddings) || FIT=(--freeze_networks)  # RESUME=1: go on with the codes of SRN
NOVEL=$([ -d "$VAL" ] && echo "$VAL" || echo "$DATA/$OBJ/$OBJ.train")  # result scripts leave out the views trained on
[ -d "$VAL" ] && VALIDATION=(--val_root "$VAL") || VALIDATION=(--no_validation)
venv=$root/.venv/bin/python
PYTHON=${PYTHON:-$([ -x "$venv" ] && echo "$venv" || echo python3)}
read -ra TRAIN <<< "${LAUNCH:-}"  # LAUNCH="torchrun --nproc_per_node=4": stages 1 to 3 in 4 processes
[ "${TRAIN[0]:-}" != torchrun ] || TRAIN=("$PYTHON" -m torch.distributed.run "${TRAIN[@]:1}")  # that of the same PyTorch
[ ${#TRAIN[@]} != 0 ] || TRAIN=("$PYTHON")
cd "$root"
