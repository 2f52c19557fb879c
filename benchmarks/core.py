"""Our core, the published recipe and a bare UNet pass, side by side in one process, on one model.

    python benchmarks/core.py --model bundled
    python benchmarks/core.py --model sd15 --config-dir DIR    # SD 1.5's configs and tokenizer; weights are random

All three go from latents and text embeddings to their result, in turn within each round, and a ratio is taken within a
round. Peak memory is that of a fresh process that does one thing: the resident set on a CPU, allocated bytes on CUDA.
The last line is one JSON object.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from attrbind_exp.backbones.backbone import Embedding, encode_images
from attrbind_exp.backbones.stable_diffusion import StableDiffusion
from attrbind_exp.config import PACKAGE
from attrbind_exp.data.images import read_image
from attrbind_exp.data.refer import load_refer
from attrbind_exp.edits import Averaging, NounChunk, Variant
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.types import LayerChoice, MapSettings
from benchmarks.measure import Clock, forget_peak, resident_peak, wait_for
from benchmarks.models import EXPRESSIONS, TIMESTEP, WEIGHTS, build_model
from tests.oracle import reference_heat_map

Work = Callable[[int], Tensor]  # does its work for so many expressions


def build_work(model: StableDiffusion, batch: int, per_image: int) -> dict[str, Work]:
    """The three things to compare: "reference", "ours" and "bare".

    Each does its work for the first n of `batch` expressions, of which `per_image` at a time are about one image, and
    returns what comes out: heat maps (n, H, W), or of the bare pass the predicted noise (n, c, h, w).
    """
    segmenter = Segmenter(model, maps=MapSettings((TIMESTEP,), layers=LayerChoice(weights=WEIGHTS)))
    prompts = segmenter.prepare([EXPRESSIONS[i % len(EXPRESSIONS)] for i in range(batch)])
    # Every expression gets an alpha of its own, so that no two passes are alike.
    variants = [Variant("ours", (NounChunk(), Averaging(round(0.9 - 0.01 * i, 2)))) for i in range(batch)]
    embeddings = [segmenter.edit([p], [v])[0].embedding(0) for p, v in zip(prompts, variants, strict=True)]
    stacked = Embedding.stack(embeddings)
    uncond = model.encode_text([""])[0].states
    owner = [i // per_image for i in range(batch)]  # the image of every expression
    scenes = load_refer(str(PACKAGE / "assets"), "shapes", "made", "val").samples
    ids = [str(i) for i in range(owner[-1] + 1)]
    latents = encode_images(model, [read_image(scenes[i].image_path) for i in range(len(ids))])
    noisy = model.add_noise(latents, ids, TIMESTEP, 0, 0)[owner]

    def reference(n: int) -> Tensor:
        rows = [
            (model.unet, noisy[i : i + 1], TIMESTEP, embeddings[i].keys, uncond, list(prompts[i].q), WEIGHTS)
            for i in range(n)
        ]
        return torch.stack([reference_heat_map(*row, model.size) for row in rows])

    def ours(n: int) -> Tensor:
        images = owner[n - 1] + 1
        completed = segmenter.complete(latents[:images], ids[:images], prompts[:n], embeddings[:n], 0, n, owner[:n])
        return segmenter.heat_maps(completed, model.size, [(None, None)] * n)  # where a run counts them

    @torch.no_grad()
    def bare(n: int) -> Tensor:
        return model.denoise(noisy[:n], TIMESTEP, Embedding(stacked.keys[:n]))

    return {"reference": reference, "ours": ours, "bare": bare}


def seconds_each(work: Work, count: int, device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Seconds an expression of one call for `count` of them, until the device is done.

    The second call in a row is timed, as in a run. The first one finds memory as the work before it left it, and waits
    for pages: 5 % of ours on SD 1.5.
    """
    work(count)
    wait_for(device)
    start = clock()
    work(count)
    wait_for(device)
    return (clock() - start) / count


def peak_memory(args: argparse.Namespace, name: str) -> dict[str, float]:
    """What `measure_once` finds in a fresh process that does the work `name` alone."""
    command = [sys.executable, __file__, "--only", name, "--model", args.model, "--batch", str(args.batch)]
    command += ["--per-image", str(args.per_image), "--device", args.device, "--dtype", args.dtype]
    command += ["--config-dir", args.config_dir] if args.config_dir else []
    # glibc raises this limit by itself and then keeps what was freed: peaks of the same pass were 0.4 GB apart.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1048576"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def measure_once(model: StableDiffusion, work: Work, count: int) -> dict[str, float]:
    """The memory of the model's "weights" and the "peak" during one call, in MB."""
    if model.device.type == "cuda":
        before = torch.cuda.memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
        work(count)
        return {"weights": before, "peak": torch.cuda.max_memory_allocated() / 2**20}
    parts = (model.unet, model.vae, model.text_encoder)
    weights = sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
    forget_peak()
    work(count)
    return {"weights": weights / 2**20, "peak": resident_peak()}


def compare_memory(memory: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Ratios of peaks, and of peaks beyond the weights."""
    beyond = {name: found["peak"] - found["weights"] for name, found in memory.items()}
    return {
        "memory_ours_over_bare": round(memory["ours"]["peak"] / memory["bare"]["peak"], 3),
        "memory_over_weights_ours_over_bare": round(beyond["ours"] / beyond["bare"], 3),
        "memory_reference_over_ours": round(memory["reference"]["peak"] / memory["ours"]["peak"], 3),
    }


def spread(values: Sequence[float]) -> str:
    """Median [least, most] of values, as text."""
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def parse_arguments() -> argparse.Namespace:
    """What was typed, with the defaults that depend on the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["bundled", "sd15"], default="bundled")
    parser.add_argument("--config-dir", help="SD 1.5's configs and tokenizer, for --model sd15")
    parser.add_argument("--batch", type=int, help="expressions at once (bundled 32, sd15 4)")
    parser.add_argument("--per-image", type=int, default=4, help="expressions about one image (4; RefCOCO has 7)")
    parser.add_argument("--rounds", type=int, help="(bundled 7, sd15 3)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="time that the process computes, not wall time: for a machine that others use, with --threads 1, since "
        "waiting threads count",
    )
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave peak memory out")
    parser.add_argument("--only", choices=["reference", "ours", "bare"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.batch = args.batch or (32 if args.model == "bundled" else 4)
    args.rounds = args.rounds or (7 if args.model == "bundled" else 3)
    return args


def main() -> None:
    args = parse_arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    model = build_model(args.model, args.config_dir, args.device, args.dtype)
    work = build_work(model, args.batch, args.per_image)
    # The reference goes one prompt at a time. With SD 1.5 one of them is timed; all would take minutes.
    counts = {"reference": args.batch if args.model == "bundled" else 1, "ours": args.batch, "bare": args.batch}
    if args.only:
        count = 1 if args.only == "reference" else args.batch
        print(json.dumps(measure_once(model, work[args.only], count)))
        return
    for name in ("bare", "ours"):
        work[name](1 if args.model == "sd15" else args.batch)  # warms up
    n = counts["reference"]
    difference = (work["reference"](n).cpu() - work["ours"](args.batch)[:n]).abs().max().item()
    clock = time.process_time if args.cpu_time else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(args.rounds):
        for name, action in work.items():
            times[name].append(seconds_each(action, counts[name], model.device, clock))
        print("round: " + ", ".join(f"{name} {values[-1]:.3f} s" for name, values in times.items()), flush=True)
    memory = {name: peak_memory(args, name) for name in work} if args.memory else {}
    report(args, model, times, memory, difference)


def report(
    args: argparse.Namespace,
    model: StableDiffusion,
    times: Mapping[str, Sequence[float]],
    memory: Mapping[str, Mapping[str, float]],
    difference: float,
) -> None:
    """Print what was measured: lines to read, then one JSON object."""
    ratios = {
        "reference_over_ours": [a / b for a, b in zip(times["reference"], times["ours"], strict=True)],
        "ours_over_bare": [a / b for a, b in zip(times["ours"], times["bare"], strict=True)],
    }
    size, threads = list(model.size), torch.get_num_threads()
    print(
        f"{args.model} at {size[0]} x {size[1]} px, batch {args.batch}, {args.per_image} an image, {args.dtype}, "
        f"{args.rounds} rounds, {model.device.type}, {threads} threads, {platform.processor() or platform.machine()}"
    )
    for name, values in times.items():
        print(f"{name:10} {1000 * statistics.median(values):9.1f} ms an expression")
    for name, found in memory.items():
        print(f"{name:10} peak {found['peak']:.0f} MB, weights {found['weights']:.0f} MB")
    for name, values in ratios.items():
        print(f"{name}: {spread(values)}")
    print(f"largest difference between our heat maps and the reference's: {difference:.1e}")
    result: dict[str, object] = {name: round(statistics.median(values), 3) for name, values in ratios.items()}
    result |= {f"{name}_range": [round(min(v), 3), round(max(v), 3)] for name, v in ratios.items()}
    result |= compare_memory(memory) if memory else {}
    result |= {"max_difference": difference, "model": args.model, "batch": args.batch, "per_image": args.per_image}
    result |= {"dtype": args.dtype, "device": model.device.type, "clock": "cpu" if args.cpu_time else "wall"}
    print(json.dumps(result | {"threads": threads, "size": size}))


if __name__ == "__main__":
    main()
