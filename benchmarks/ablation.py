"""A whole ablation in one run, against the same by separate runs of the published recipe; and growth with the data.

    python benchmarks/ablation.py --model bundled
    python benchmarks/ablation.py --model sd15 --config-dir DIR --images 1 --per-image 1

The ablation: baseline, NCR, and NCR + UEA at the paper's nine alphas, each under ten thresholds and six choices of
layers. Ours is one run from pictures and words to counts. The reference would run once for each variant and choice of
layers, from pictures to heat maps, one prompt at a time. Its time is that of `--sample` expressions of one such run,
times all of them. The last line is one JSON object.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from attrbind_exp.config import PACKAGE
from attrbind_exp.data.dataset import Dataset, by_image
from attrbind_exp.data.refer import load_refer
from attrbind_exp.edits import Averaging, NounChunk
from attrbind_exp.evaluation.batching import segment_images
from attrbind_exp.evaluation.loading import read_files, start_loading
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.tasks.choose import choose_task
from attrbind_exp.types import LayerChoice, MapSettings, RunSettings, Variant
from benchmarks.measure import Clock, forget_peak, resident_peak, seconds
from benchmarks.models import TIMESTEP, WEIGHTS, build_model
from tests.oracle import reference_heat_map

ALPHAS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
BASELINE, NCR = Variant("baseline"), Variant("ncr", (NounChunk(),))
OURS = [Variant("ours", (NounChunk(), Averaging(alpha)), alpha) for alpha in ALPHAS]
EDITS = [BASELINE, NCR, *OURS]
UNIFORM = dict.fromkeys(WEIGHTS, 1.0)
LAYERS = {
    "all": LayerChoice(weights=WEIGHTS),
    "half": LayerChoice((2,), weights=UNIFORM),
    "quarter": LayerChoice((4,), weights=UNIFORM),
    "down": LayerChoice(blocks=("down",), weights=WEIGHTS),
    "up": LayerChoice(blocks=("up",), weights=WEIGHTS),
    "uniform": LayerChoice(weights=UNIFORM),
}


def pick_samples(images: int, per_image: int) -> Dataset:
    """So many expressions of so many images. Where an image has fewer, they are repeated under other ids."""
    dataset = load_refer(str(PACKAGE / "assets"), "shapes", "made", "val")
    chosen = list(by_image(dataset).values())[:images]
    samples = [
        replace(group[i % len(group)], sample_id=f"{group[0].image_id}/{i}")
        for group in chosen
        for i in range(per_image)
    ]
    return replace(dataset, samples=samples)


def run_ours(dataset: Dataset, segmenter: Segmenter, settings: RunSettings) -> int:
    """Go from pictures to counts at 101 thresholds. Returns how many rows that makes."""
    task = choose_task(dataset, settings)
    images = segment_images(by_image(dataset), segmenter, settings)
    return sum(len(task.count(image)[0]) for image in images)


def run_reference(dataset: Dataset, segmenter: Segmenter, count: int) -> None:
    """The published recipe on the first `count` expressions, under one variant and one choice of layers."""
    model = segmenter.backbone
    for sample in dataset.samples[:count]:
        (loaded,), _ = start_loading(read_files([sample], segmenter), segmenter)()
        embedding = segmenter.edit([loaded.prompt], [OURS[-1]])[0].embedding(0)
        noisy = model.add_noise(loaded.latents[None], [sample.image_id], TIMESTEP, 0, 0)
        uncond = model.encode_text([""])[0].states
        size = (loaded.image.height, loaded.image.width)
        reference_heat_map(model.unet, noisy, TIMESTEP, embedding.keys, uncond, list(loaded.prompt.q), WEIGHTS, size)


def measure_ratios(args: argparse.Namespace, segmenter: Segmenter, clock: Clock) -> tuple[list[float], int, int]:
    """How many times longer the reference takes, by round; and how many expressions, and runs of the reference."""
    dataset = pick_samples(args.images, args.per_image)
    variants = [replace(edit, layers=name) for edit in EDITS for name in LAYERS]
    settings = RunSettings(variants, batch_size=args.batch)
    total, runs = len(dataset.samples), len(variants)
    sample = min(args.sample, total)
    small = pick_samples(1, 1)
    run_ours(small, segmenter, RunSettings(variants[:2], batch_size=args.batch))  # warms up
    run_reference(small, segmenter, 1)
    ratios = []
    for _ in range(args.rounds):
        reference = seconds(lambda: run_reference(dataset, segmenter, sample), clock) / sample * total * runs
        ours = seconds(lambda: run_ours(dataset, segmenter, settings), clock)
        ratios.append(reference / ours)
        print(
            f"{total} expressions, {runs} runs of the reference {reference:.0f} s, ours {ours:.1f} s: {ratios[-1]:.1f}",
            flush=True,
        )
    return ratios, total, runs


def measure_growth(args: argparse.Namespace, segmenter: Segmenter, clock: Clock) -> list[dict[str, float]]:
    """Seconds and peak memory of ours for 1, 2, 4 and 8 times the expressions, under two variants."""
    growth = []
    for times in (1, 2, 4, 8):
        dataset = pick_samples(8 * times, 8)
        forget_peak()
        settings = RunSettings([BASELINE, OURS[ALPHAS.index(0.9)]], batch_size=args.batch)
        took = seconds(lambda dataset=dataset, settings=settings: run_ours(dataset, segmenter, settings), clock)
        row = {"expressions": len(dataset.samples), "seconds": round(took, 2), "peak_MB": round(resident_peak())}
        growth.append(row)
        print(row, flush=True)
    return growth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["bundled", "sd15"], default="bundled")
    parser.add_argument("--config-dir")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--per-image", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--sample", type=int, default=16, help="expressions that the reference is timed on")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--growth", action="store_true", help="also 1x, 2x, 4x, 8x the expressions")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], default="fp32")
    parser.add_argument("--cpu-time", action="store_true", help="as for core.py, with OMP_NUM_THREADS=1")
    args = parser.parse_args()
    clock = time.process_time if args.cpu_time else time.perf_counter
    model = build_model(args.model, args.config_dir, args.device, args.dtype)
    maps = MapSettings((TIMESTEP,), layers=LayerChoice(weights=WEIGHTS), grid=LAYERS)
    segmenter = Segmenter(model, maps=maps)
    ratios, expressions, runs = measure_ratios(args, segmenter, clock)
    growth = measure_growth(args, segmenter, clock) if args.growth else []
    rounded = sorted(round(r, 1) for r in ratios)
    result = {"reference_over_ours": rounded, "expressions": expressions, "runs": runs}
    print(json.dumps(result | {"model": args.model, "growth": growth}))


if __name__ == "__main__":
    main()
