#!/usr/bin/env bash
# Measure on a GPU: parity, training, rendering, the demo, fitting, the linear update, a profile. From any folder:
#     bench/gpu.sh                  # SECONDS_IN_ALL=570 OUT=logs/gpu DEVICE=cuda PYTHON=python3 are the defaults
#     PARTS="parity training" bench/gpu.sh                                   # these parts only
# Each part has a time limit and writes its log and JSON to $OUT as it ends; parts that do not fit are skipped.
# On a machine without network, wheels in .whl/ and the demo's data in .demo/demo.tgz are used where they exist.
set -u
cd "$(dirname "$0")/.."
OUT=${OUT:-logs/gpu} DEVICE=${DEVICE:-cuda} PYTHON=${PYTHON:-python3} SECONDS_IN_ALL=${SECONDS_IN_ALL:-570}
mkdir -p "$OUT" data
export PYTHONUNBUFFERED=1
if [ -d .whl ]; then
    site=$(mktemp -d)
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .whl/*.whl || exit 1
    export PYTHONPATH=$site
fi
[ ! -f .demo/demo.tgz ] || [ -d data/demo ] || tar -xzf .demo/demo.tgz -C data

part() {  # NAME SECONDS COMMAND...
    [[ " ${PARTS:-$1} " == *" $1 "* ]] || return 0
    local name=$1 limit=$2 left=$((SECONDS_IN_ALL - SECONDS)) start=$SECONDS code
    shift 2
    [ "$left" -ge 5 ] || { echo "== $name: skipped, no time left"; return; }
    timeout -k 5 $((limit < left ? limit : left)) "$@" > "$OUT/$name.log" 2>&1
    code=$?
    echo "== $name: exit code $code after $((SECONDS - start)) s (limit $limit s)"
    tail -n "${LINES_SHOWN:-12}" "$OUT/$name.log"
}
bench() {  # NAME SECONDS MODULE OPTION...
    part "$1" "$2" "$PYTHON" -m "bench.$3" "${@:4}" --device "$DEVICE" --json "$OUT/$1.json"
}

part machine 30 "$PYTHON" -c "import sys, torch; print(sys.version, torch.__version__, torch.cuda.get_device_name(), torch.cuda.mem_get_info())"
part nowait 30 "$PYTHON" -m pytest -q -p no:cacheprovider tests/training/test_loop.py -k wait_for_the_gpu
part parity 60 "$PYTHON" -m pytest -q -p no:cacheprovider tests/test_parity.py -k cuda
LINES_SHOWN=8 bench training 60 training --reference --batches 1,8 --steps 10
LINES_SHOWN=30 bench trace 30 trace
LINES_SHOWN=14 part demo 150 "$PYTHON" demo.py
bench rendering 60 rendering --reference --sides 64,128,512
LINES_SHOWN=8 bench training_bf16 45 training --precision bfloat16 --batches 1,8,32 --steps 10
LINES_SHOWN=20 bench trace_bf16 30 trace --precision bfloat16
LINES_SHOWN=16 bench fitting 60 fitting --reference --budget 10
LINES_SHOWN=12 bench update 45 linear_update --reference
LINES_SHOWN=8 bench training_semantic 40 training --semantic --batches 8 --steps 5
LINES_SHOWN=8 bench training_compiled 110 training --precision bfloat16 --batches 8 --compile
echo "all: $SECONDS s"
