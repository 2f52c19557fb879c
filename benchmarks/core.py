"""Our core, the published recipe and a bare UNet pass, side by side in one process, on one model.

    python benchmarks/core.py --model bundled
    python benchmarks/core.py --model sd15 --config-dir DIR    # SD 1.5's configs and tokenizer; weights are random

Timed from latents and text embeddings to heat maps, in interleaved rounds; a ratio is taken within a round. Peak memory
is that of a fresh process doing one thing (resident set on a CPU, allocated bytes on CUDA). The last line is one JSON
object.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from attrbind_exp.backbones.unet import DiffusionModel, load_model, pick_device
from attrbind_exp.config import PACKAGE
from attrbind_exp.data.images import read_image
from attrbind_exp.data.refer import load_refer
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.language.processor import TextProcessor
from attrbind_exp.types import MapSettings, Variant
from tests.oracle import reference_heat_map, sharpen

TIMESTEP = 100
WEIGHTS = {8: 0.3, 4: 0.5, 2: 0.1, 1: 0.1}
EXPRESSIONS = (
    "white dog playing with two black dogs",
    "the white star on the left",
    "a red circle next to a blue square",
)


def build_model(name: str, config_dir: str | None, device: str, dtype: str) -> DiffusionModel:
    """The bundled model, or Stable Diffusion 1.5's exact architecture with random weights."""
    if name == "bundled":
        return load_model(str(PACKAGE / "assets" / "bundled"), device, dtype)
    if config_dir is None:
        sys.exit(
            "error: --model sd15 needs --config-dir DIR, a folder with SD 1.5's unet/, vae/, text_encoder/ configs"
        )
    folder = Path(config_dir)
    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")),
        text_encoder=CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet")),
        scheduler=DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    sharpen(pipeline.unet)
    precision = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    return DiffusionModel(pipeline.to(pick_device(device), precision))


def build_work(model: DiffusionModel, batch: int, per_image: int) -> dict[str, Callable[[int], Tensor]]:
    """The three things to compare, each from the same latents and embeddings to its result, for the first n of `batch`
    expressions of which `per_image` at a time are about one image."""
    segmenter = Segmenter(model, TextProcessor(model.tokenizer, model.encode_text), MapSettings(weights=WEIGHTS))
    prompts = segmenter.text.prepare([EXPRESSIONS[i % len(EXPRESSIONS)] for i in range(batch)])
    variants = [Variant("ours", True, round(0.9 - 0.01 * i, 2)) for i in range(batch)]  # no two passes alike
    bound = [segmenter.text.bind([p], [v])[0][0] for p, v in zip(prompts, variants, strict=True)]
    uncond = model.encode_text([""])[0]
    owner = [i // per_image for i in range(batch)]
    scenes = load_refer(str(PACKAGE / "assets"), "shapes", "made", "val").samples
    pictures = [read_image(scenes[i].image_path) for i in range(owner[-1] + 1)]
    latents, ids = model.encode_images(pictures), [str(i) for i in range(owner[-1] + 1)]
    noisy = model.add_noise(latents, ids, TIMESTEP, 0, 0)[owner]
    embeddings = torch.stack([b.embedding for b in bound])

    def reference(n: int) -> Tensor:
        rows = [
            (model.unet, noisy[i : i + 1], TIMESTEP, bound[i].embedding, uncond, list(prompts[i].q), WEIGHTS)
            for i in range(n)
        ]
        return torch.stack([reference_heat_map(*row, model.size) for row in rows])

    def ours(n: int) -> Tensor:
        completed = segmenter.complete(latents[: owner[n - 1] + 1], ids, bound[:n], None, n, owner[:n])
        heats = segmenter.start_heat_maps(completed, model.size, [None] * n)()
        return torch.stack([torch.from_numpy(heat.values) for heat in heats])

    def bare(n: int) -> Tensor:
        return model.denoise(noisy[:n], TIMESTEP, embeddings[:n])

    return {"reference": reference, "ours": ours, "bare": bare}


def seconds(
    function: Callable[[int], Tensor], count: int, device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Time of one call for `count` expressions, by expression, the device's queue included. The second call in a row is
    timed, as in a run: the first one finds the heap as another way left it and waits for pages (5 % of ours on SD 1.5).
    """
    function(count)
    _wait(device)
    start = clock()
    function(count)
    _wait(device)
    return (clock() - start) / count


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(args: argparse.Namespace, mode: str) -> dict[str, float]:
    """Peak and resting memory in MB of a fresh process that only does `mode`, once."""
    command = [sys.executable, __file__, "--only", mode, "--model", args.model, "--batch", str(args.batch)]
    command += ["--per-image", str(args.per_image)]
    command += ["--device", args.device, "--dtype", args.dtype] + (
        ["--config-dir", args.config_dir] if args.config_dir else []
    )
    # glibc raises this limit by itself and then keeps what was freed: peaks of one and the same pass were 0.4 GB apart.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1048576"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def measure_once(model: DiffusionModel, work: Callable[[int], Tensor], count: int) -> dict[str, float]:
    """What `--only` prints: memory before and at the peak of one call, in MB."""
    if model.device.type == "cuda":
        before = torch.cuda.memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
        work(count)
        return {"weights": before, "peak": torch.cuda.max_memory_allocated() / 2**20}
    weights = sum(
        p.numel() * p.element_size() for m in (model.unet, model.vae, model.text_encoder) for p in m.parameters()
    )
    forget_peak()
    work(count)
    return {"weights": weights / 2**20, "peak": resident_peak()}


def forget_peak() -> None:
    """Let the kernel count this process's peak from here on: loading must not hide the peak of the work (Linux)."""
    refs = Path("/proc/self/clear_refs")
    if refs.exists():
        refs.write_text("5")


def resident_peak() -> float:
    """Peak resident memory in MB. Linux's own counter, since getrusage inherits the peak of the parent process."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def compare_memory(memory: dict[str, dict[str, float]]) -> dict[str, float]:
    """Ratios of peaks, and of peaks beyond the weights."""
    beyond = {name: found["peak"] - found["weights"] for name, found in memory.items()}
    return {
        "memory_ours_over_bare": round(memory["ours"]["peak"] / memory["bare"]["peak"], 3),
        "memory_over_weights_ours_over_bare": round(beyond["ours"] / beyond["bare"], 3),
        "memory_reference_over_ours": round(memory["reference"]["peak"] / memory["ours"]["peak"], 3),
    }


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["bundled", "sd15"], default="bundled")
    parser.add_argument("--config-dir", help="SD 1.5's configs and tokenizer, for --model sd15")
    parser.add_argument("--batch", type=int, help="expressions at once (bundled 32, sd15 4)")
    parser.add_argument("--per-image", type=int, default=4, help="expressions about one image (4; RefCOCO has 7)")
    parser.add_argument("--rounds", type=int, help="(bundled 7, sd15 3)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--cpu-time", action="store_true", help="time that the process computes, not wall time: for a "
                        "machine that others use, with --threads 1, since waiting threads count")  # fmt: skip
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave peak memory out")
    parser.add_argument("--only", choices=["reference", "ours", "bare"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.batch = args.batch or (32 if args.model == "bundled" else 4)
    clock = time.process_time if args.cpu_time else time.perf_counter
    if args.threads:
        torch.set_num_threads(args.threads)
    rounds = args.rounds or (7 if args.model == "bundled" else 3)
    model = build_model(args.model, args.config_dir, args.device, args.dtype)
    work = build_work(model, args.batch, args.per_image)
    if args.only:
        print(json.dumps(measure_once(model, work[args.only], 1 if args.only == "reference" else args.batch)))
        return

    # The reference goes one prompt at a time: one of them tells the time where all would take minutes.
    counts = {"reference": args.batch if args.model == "bundled" else 1, "ours": args.batch, "bare": args.batch}
    n = counts["reference"]
    for name in ("bare", "ours"):
        work[name](1 if args.model == "sd15" else args.batch)  # warms up
    difference = (work["reference"](n).cpu() - work["ours"](args.batch)[:n]).abs().max().item()
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, function in work.items():
            times[name].append(seconds(function, counts[name], model.device, clock))
        print("round: " + ", ".join(f"{name} {values[-1]:.3f} s" for name, values in times.items()), flush=True)
    ratios = {
        "reference_over_ours": [a / b for a, b in zip(times["reference"], times["ours"], strict=True)],
        "ours_over_bare": [a / b for a, b in zip(times["ours"], times["bare"], strict=True)],
    }
    memory = {name: peak_memory(args, name) for name in work} if args.memory else {}
    print(f"{args.model} at {model.size[0]} x {model.size[1]} px, batch {args.batch}, {args.per_image} an image, {args.dtype}, {rounds} rounds, "
          f"{model.device.type}, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}")  # fmt: skip
    for name in work:
        print(f"{name:10} {1000 * statistics.median(times[name]):9.1f} ms an expression")
    for name, found in memory.items():
        print(f"{name:10} peak {found['peak']:.0f} MB, weights {found['weights']:.0f} MB")
    for name, values in ratios.items():
        print(f"{name}: {spread(values)}")
    print(f"largest difference between our heat maps and the reference's: {difference:.1e}")
    print(json.dumps({
        **{name: round(statistics.median(values), 3) for name, values in ratios.items()},
        **{f"{name}_range": [round(min(values), 3), round(max(values), 3)] for name, values in ratios.items()},
        **(compare_memory(memory) if memory else {}),
        "max_difference": difference, "model": args.model, "batch": args.batch, "per_image": args.per_image, "dtype": args.dtype,
        "device": model.device.type, "clock": "cpu" if args.cpu_time else "wall", "threads": torch.get_num_threads(), "size": list(model.size),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
