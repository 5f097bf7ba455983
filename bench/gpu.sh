#!/usr/bin/env bash
# The trainer on a GPU: the checks that need one, then every figure, as JSON in one folder.
#
#   bench/gpu.sh pack          where there is a network: put what the GPU machine may lack into .gpu/
#   bench/gpu.sh [OUT]         on the GPU machine; OUT is bench-gpu by default. About 9 minutes on one H200.
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
        open_clip_torch==3.3.0 ftfy wcwidth tyro typeguard docstring_parser braceexpand orjson simplejpeg
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

out=${1:-bench-gpu}
mkdir -p "$out"
export PYTHONPATH="$PWD:$PWD/.gpu/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
captions=()
[ -e .gpu/captions.txt ] && captions=(--captions .gpu/captions.txt)
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader | tee "$out/device.txt"

"$PYTHON" -m bench.train_gpu_checks | tee "$out/checks.json"
"$PYTHON" -m bench.train_loss --device cuda | tee "$out/loss.json"
"$PYTHON" -m bench.train_step --models ViT-B-32 ViT-B-16 ViT-L-14 --batches 2048 1024 320 \
    "${captions[@]}" --out "$out/step.json"
"$PYTHON" -m bench.train_step --models ViT-B-32 --batches 32768 --accumulate 8 --steps 3 --only ours \
    "${captions[@]}" --out "$out/batch-32768.json"
"$PYTHON" -m bench.detector_gpu --out "$out/detector.json"
