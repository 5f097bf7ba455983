#!/usr/bin/env bash
# The trainer on a GPU: the checks that need one, then every figure, as JSON in one folder. 6 minutes on an H200.
#
#   bench/gpu.sh pack              where there is a network: put what the GPU machine may lack into .gpu/
#   bench/gpu.sh [OUT]             on the GPU machine; OUT is bench-gpu by default
#   bench/gpu.sh models [OUT]      models that take a GPU's time, untimed and so side by side, in 5 minutes: bench.curation
#                                  on both pools, bench.figure2, bench.detector_train; OUT.tgz has each result as soon as
#                                  there is one. With the checks and figures, that is 12 minutes at most.
#   bench/gpu.sh rehearse [models] [OUT]    the same commands on a CPU, small: does the script itself work?
#
# Each section has its own limit, and none stops the next. What compiles runs twice: first all beside each other, so
# that the compiler's cache is filled, then one by one to be measured. SECTIONS="step train" takes some alone,
# BUDGET=300 stops after so many seconds, 400 by default.
#
# The GPU machine needs a python with torch and torchvision for its GPU (PYTHON=python3); the rest is pure Python or
# small wheels that `pack` fetches for that machine's version (GPU_PYTHON=3.12), with open_clip's main branch from a
# checkout (OPEN_CLIP=DIR) or 3.3.0, photographs and captions of the sample data beside the checkout, and the
# compiled extensions. Put your own captions, one a line, into .gpu/captions.txt to measure with their lengths, and your
# own photographs, folders or tars, into .gpu/detector/photos to train the detector on.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}

pack() {
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
    rm -rf .gpu/site .gpu/open_clip .gpu/built
    mkdir -p .gpu
    "$PYTHON" -m pip install --quiet --upgrade --no-deps --no-compile --target .gpu/site --only-binary=:all: \
        --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux_2_28_x86_64 --platform any \
        --python-version "${GPU_PYTHON:-3.12}" \
        braceexpand can-ada docstring_parser ftfy jinja2 markupsafe msgspec orjson publicsuffixlist simplejpeg typeguard \
        'tyro<2' wcwidth webdataset xxhash 'zstandard<1' || exit
    rm -f .gpu/site/zstandard/_cffi*.so && strip --strip-debug .gpu/site/*/*.so
    if [ -n "${OPEN_CLIP:-}" ]; then
        git -C "$OPEN_CLIP" archive HEAD src/open_clip | tar x -C .gpu && mv .gpu/src .gpu/open_clip || exit
        rm -rf .gpu/open_clip/open_clip/audio/*.npz
    else
        "$PYTHON" -m pip install --quiet --no-deps --no-compile --target .gpu/open_clip open_clip_torch==3.3.0 || exit
    fi
    find dedup pipeline -name '*.abi3.so' | tar c -T - | (mkdir -p .gpu/built && tar x -C .gpu/built)
    web=../shared/data/text/img2dataset_test_10000.parquet photos=../shared/data/images/clothing_cc0
    cifar10=../shared/data/images/cifar10-images.tar.gz
    [ -e .gpu/texts.parquet ] || [ ! -e "$web" ] || cp "$web" .gpu/texts.parquet
    [ -e .gpu/cifar10-images.tar.gz ] || [ ! -e "$cifar10" ] || cp "$cifar10" .gpu/
    if [ -e "$cifar10" ]; then
        pack_pool curation
        pack_pool plentiful --largest 40000 --exponent 2 --words 10
    fi
    if [ ! -e .gpu/captions.txt ] && [ -e "$web" ]; then
        "$PYTHON" -c "
import pyarrow.parquet as pq, sys
texts = pq.read_table(sys.argv[1])['TEXT'].to_pylist()
open('.gpu/captions.txt', 'w').write('\n'.join(' '.join(t.split()) for t in texts if t))" "$web"
    fi
    if [ ! -e .gpu/photos ] && [ -e "$photos" ]; then
        for kind in "$photos"/train/*; do
            for split in train:60 test:20; do
                to=.gpu/photos/${split%:*}/$(basename "$kind")
                mkdir -p "$to"
                find "$photos/${split%:*}/$(basename "$kind")" -name '*.jpg' | sort | head -n "${split#*:}" | xargs cp -t "$to"
            done
        done
    fi
    du -sh .gpu/*
}

# NAME OPTION...: put a pool of bench.curation, untrained, into .gpu/NAME.tgz.
pack_pool() {
    local name=$1 folder
    shift
    [ -e ".gpu/$name.tgz" ] && return
    folder=$(mktemp -d)
    "$PYTHON" -m bench.curation "$folder" --seeds 0 --device cpu "$@" && tar czf ".gpu/$name.tgz" -C "$folder" .
    rm -rf "$folder"
}

if [ "${1:-}" = pack ]; then
    pack
    exit
fi

# Device and sizes.
rehearse='' models=''
[ "${1:-}" = rehearse ] && rehearse=1 && shift
[ "${1:-}" = models ] && models=1 && shift
if [ -n "$rehearse" ]; then
    device=cpu losses=(256 1024) step=(--models tiny --batches 16) large=(16 --accumulate 2) timed=(--steps 2 --warm 2)
    many=(--models tiny --batches 8) checked=(--model tiny --count 40) searched=(20000 40000) model=tiny
    loading=(--workers 1 --batch 64 --seconds 2) slower=10
    training=(--model tiny --batch-size 64 --steps 30 --checkpoint-every 10 --kill-at 25 --device cpu)
    choosing=(--arms raw text balanced score --seeds 1 --samples 256 --jobs 2 --decoders 0 --workers 1)
    figuring=(--seeds 1 --seen 512 --photographs 500 --test 100 --points 2 --jobs 2 --decoders 0)
    detecting=(--seconds 150 --image-size 32 --batch-size 32 --background 20 --decoders 0)
    uname -a
else
    device=cuda losses=(1024 2048 4096 8192 16384 32768) step=(--models ViT-B-32 --batches 2048 --pool 8192)
    large=(32768 --accumulate 16) timed=(--steps 6 --warm 3) many=(--models ViT-L-14 --batches 320)
    checked=(--model ViT-B-32 --count 256) searched=(1000000 10000000) model=ViT-B-32
    loading=(--batch 2048 --seconds 5) training=(--vocab clip --device cuda) slower=1
    # 13 models at a time and two detectors of seven decoders each on 16 cores: a tiny model's step is mostly launches.
    choosing=(--samples 128000 --jobs 4 --decoders 1 --workers 4 --minutes 4.5)
    figuring=(--jobs 5 --decoders 1) detecting=(--seconds 270)
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
fi
out=${1:-bench-gpu}
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ -d .gpu/built ] && cp -rn .gpu/built/. .
export PYTHONPATH="$PWD:$PWD/.gpu/open_clip:$PWD/.gpu/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export TORCHINDUCTOR_CACHE_DIR="$work/inductor" HF_HUB_OFFLINE=1
captions=() photos=() pictures=()
[ -e .gpu/captions.txt ] && captions=(--captions .gpu/captions.txt)
[ -e .gpu/photos ] && photos=(--photos .gpu/photos/train) pictures=(--photos .gpu/photos)

wanted() { [ -z "${SECTIONS:-}" ] || [[ " $SECTIONS " == *" $1 "* ]]; }

# NAME SECONDS COMMAND: run it within its limit, its output in OUT/NAME.log and the end of that here.
section() {
    local name=$1 limit=$(($2 * slower)) began=$SECONDS status left=$((${BUDGET:-400} * slower - SECONDS))
    shift 2
    wanted "$name" || return 0
    [ "$left" -ge 10 ] || { echo "== $name: no time"; return 0; }
    [ "$limit" -le "$left" ] || limit=$left
    timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1
    status=$?
    echo "== $name: exit $status after $((SECONDS - began)) s, $SECONDS s in all"
    tail -n "${LINES_OF:-40}" "$out/$name.log" | cut -c 1-300
    save
}

# OUT.tgz is OUT so far; one writer at a time.
save() {
    (flock 9; tar czf "$out.part" -C "$out" .; mv "$out.part" "$out.tgz") 9>"$work/lock" 2>/dev/null
}

# NAME SECONDS COMMAND: run it beside others, where no time is taken: to check, or to fill the compiler's cache.
beside() {
    local name=$1 limit=$(($2 * slower))
    shift 2
    wanted "$name" || return 0
    (
        timeout -k 5 "$limit" "$@" >"$out/$name.first.log" 2>&1
        echo "== $name: exit $? at $SECONDS s"
        [ -z "${LINES_OF:-}" ] || tail -n "$LINES_OF" "$out/$name.first.log" | cut -c 1-300
    ) &
}

# Copy what the models' runs have so far: results and curves, and of weights the detectors' alone.
gather() {
    local file to
    for file in "$work"/{curation,plentiful}/{*-*.json,index.html} "$work"/figure2/figure2.* \
        "$work"/figure2/*-[0-9]/metrics.jsonl "$work"/detectors/*/{metrics.jsonl,detector.safetensors}; do
        to=$out/${file#"$work"/}
        [ -e "$file" ] && mkdir -p "$(dirname "$to")" && cp "$file" "$to"
    done
    save
}

models() {
    local own=.gpu/detector/photos photographs=.gpu/photos/train pool
    if [ -e $own ]; then
        photographs=$(find $own -name '*.tar' | sort)
        photographs=${photographs:-$own}
    fi
    export OMP_NUM_THREADS=1
    # shellcheck disable=SC2086 # several tars
    LINES_OF=12 section detectors 290 "$PYTHON" -m bench.detector_train "$work/detectors" $photographs --device $device \
        "${detecting[@]}" &
    for pool in curation plentiful; do
        [ -e ".gpu/$pool.tgz" ] && wanted "$pool" || continue
        mkdir "$work/$pool" && tar xzf ".gpu/$pool.tgz" -C "$work/$pool"
        LINES_OF=40 section "$pool" 300 "$PYTHON" -m bench.curation "$work/$pool" --device $device "${choosing[@]}" &
    done
    LINES_OF=40 section figure2 300 "$PYTHON" -m bench.figure2 "$work/figure2" --archive .gpu/cifar10-images.tar.gz \
        --texts .gpu/texts.parquet --device $device "${figuring[@]}" &
    while [ -n "$(jobs -r)" ]; do
        sleep 15
        gather
    done
    gather
    echo "== $SECONDS s"
}

if [ -n "$models" ]; then
    models
    exit
fi

stepping=("$PYTHON" -m bench.train_step --device $device --bucketed "${captions[@]}")

LINES_OF=28 beside checks 120 "$PYTHON" -m bench.train_gpu_checks --device $device "${checked[@]}"
beside step 120 "${stepping[@]}" "${step[@]}" --steps 2 --warm 3 --out "$work/warm.json"
beside detector 120 "$PYTHON" -m bench.detector_gpu --device $device
# In CPU time, on a core of its own.
LINES_OF=26 beside loader 100 taskset -c "$(($(nproc) - 1))" "$PYTHON" -m bench.train_loader "${photos[@]}" --seconds 4
wait
echo "== beside each other: $SECONDS s"
LINES_OF=60 section step 100 "${stepping[@]}" "${step[@]}" "${timed[@]}" --out "$out/step.json"
LINES_OF=12 section loss 40 "$PYTHON" -m bench.train_loss --device $device --batches "${losses[@]}"
LINES_OF=40 section train 110 "$PYTHON" -m bench.train_restart "$work/train" "${pictures[@]}" "${training[@]}"
LINES_OF=4 section search 60 "$PYTHON" -m bench.overlap_search --device $device --references "${searched[@]}"
LINES_OF=40 section detector 50 "$PYTHON" -m bench.detector_gpu --device $device --out "$out/detector.json"
LINES_OF=22 section loading 40 "$PYTHON" -m bench.train_loader "${photos[@]}" --shorter 256 --device $device "${loading[@]}"
LINES_OF=25 section large 60 "$PYTHON" -m bench.train_step --device $device --models $model --batches "${large[@]}" \
    --steps 2 --warm 1 --only ours "${captions[@]}" --out "$out/large.json"
LINES_OF=40 section many 120 "${stepping[@]}" "${many[@]}" --only ours open_clip_compiled "${timed[@]}" --out "$out/many.json"
echo "== $SECONDS s"
