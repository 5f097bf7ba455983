#!/usr/bin/env bash
# The trainer on a GPU: the checks that need one, then every figure, as JSON in one folder.
#
#   bench/gpu.sh pack          where there is a network: put what the GPU machine may lack into .gpu/
#   bench/gpu.sh [OUT]         on the GPU machine; OUT is bench-gpu by default
#   bench/gpu.sh rehearse [OUT]    the same commands on a CPU, small: does the script itself work?
#
# The GPU machine needs a python with torch and torchvision for its GPU (PYTHON=python3); the rest is pure Python or
# small wheels that `pack` fetches for that machine's version (GPU_PYTHON=3.12). Put your own captions, one a line,
# into .gpu/captions.txt to measure with their lengths.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}

if [ "${1:-}" = pack ]; then
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
    "$PYTHON" -m pip install --quiet --upgrade --no-deps --target .gpu/site --only-binary=:all: \
        --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 --platform any \
        --python-version "${GPU_PYTHON:-3.12}" \
        open_clip_torch==3.3.0 ftfy wcwidth tyro typeguard docstring_parser braceexpand orjson simplejpeg \
        faiss-cpu opencv-python-headless
    web=../shared/data/text/img2dataset_test_10000.parquet
    if [ ! -e .gpu/captions.txt ] && [ -e "$web" ]; then
        "$PYTHON" -c "
import pyarrow.parquet as pq, sys
texts = pq.read_table(sys.argv[1])['TEXT'].to_pylist()
open('.gpu/captions.txt', 'w').write('\n'.join(' '.join(t.split()) for t in texts if t))" "$web"
    fi
    du -sh .gpu
    exit
fi

# Device and sizes: loss batches, step models and batches, the large batch and its pieces, what is checked.
if [ "${1:-}" = rehearse ]; then
    shift
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
    device=cpu losses=(256 1024) models=(ViT-B-32) batches=(8) large=(16 --accumulate 2) timed=(--steps 1 --warm 1)
    checked=(--model tiny --count 40) searched=(20000)
    uname -a
else
    device=cuda losses=(1024 2048 4096 8192 16384 32768) models=(ViT-B-32 ViT-B-16 ViT-L-14) batches=(2048 1024 320)
    large=(32768 --accumulate 8) timed=(--steps 10 --warm 3)
    checked=(--model ViT-B-32 --count 256) searched=(1000000 10000000)
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
fi
out=${1:-bench-gpu}
mkdir -p "$out"
export PYTHONPATH="$PWD:$PWD/.gpu/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
captions=()
[ -e .gpu/captions.txt ] && captions=(--captions .gpu/captions.txt)

"$PYTHON" -m bench.train_gpu_checks --device $device "${checked[@]}" | tee "$out/checks.json"
"$PYTHON" -m bench.train_loss --device $device --batches "${losses[@]}" | tee "$out/loss.json"
"$PYTHON" -m bench.train_step --device $device --models "${models[@]}" --batches "${batches[@]}" "${timed[@]}" \
    "${captions[@]}" --out "$out/step.json"
"$PYTHON" -m bench.train_step --device $device --models ViT-B-32 --batches "${large[@]}" --steps 3 --warm 1 \
    --only ours "${captions[@]}" --out "$out/large-batch.json"
"$PYTHON" -m bench.detector_gpu --device $device --out "$out/detector.json"
"$PYTHON" -m bench.overlap_search --device $device --references "${searched[@]}" | tee "$out/overlap.txt"
