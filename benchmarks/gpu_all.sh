#!/bin/bash
# Everything that is to be known of a GPU, in one go of about six minutes on an H200:
#   bash benchmarks/gpu_all.sh CONFIG_DIR FOLDER     CONFIG_DIR: SD 1.5's configs and tokenizer, as for core.py
# Run it in the checkout, with the project's Python first in PATH. What each part printed is in FOLDER/NAME.log, the end of it here.
set -u
config=$1 out=$2
mkdir -p "$out"
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 TRANSFORMERS_VERBOSITY=error
sd15="--model sd15 --config-dir $config --device cuda --dtype fp16"

part() { # NAME SECONDS LINES COMMAND..: run a command, show the last lines of what it printed
    local name=$1 limit=$2 lines=$3 began=$SECONDS
    shift 3
    timeout "$limit" "$@" >"$out/$name.log" 2>&1
    echo "== $name: exit code $?, $((SECONDS - began)) s"
    tail -"$lines" "$out/$name.log" | cut -c1-700
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
part checks 120 16 python3 benchmarks/gpu.py --config-dir "$config" --out "$out/checks"
part core128 90 1 python3 benchmarks/core.py $sd15 --batch 128 --per-image 7 --rounds 3 --no-memory
part core32 90 1 python3 benchmarks/core.py $sd15 --batch 32 --per-image 7 --rounds 3
part loop 60 1 python3 benchmarks/gpu_loop.py --config-dir "$config" --out "$out/loop" --images 120 --batches 64
part ablation 60 1 python3 benchmarks/ablation.py $sd15 --images 4 --per-image 7 --batch 64 --sample 6 --rounds 1
part read_only 60 1 python3 benchmarks/read_only.py $sd15 --batch 32 --rounds 3
part readings 60 1 python3 benchmarks/readings.py $sd15 --batch 4 --rounds 2
part run 90 10 python3 -m attrbind_exp.run tracker=none text_processor=ablation hydra.run.dir="$out/run"
