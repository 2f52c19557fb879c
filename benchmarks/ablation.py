"""A whole ablation in one run against the same by separate runs of the published recipe, and growth with the data.

    python benchmarks/ablation.py --model bundled
    python benchmarks/ablation.py --model sd15 --config-dir DIR --images 1 --per-image 1

The ablation: baseline, NCR, and NCR + UEA at the paper's nine alphas, ten thresholds, six choices of layers. Ours is one
run from pictures and words to counts. The reference runs once per variant and choice of layers, each from pictures to
heat maps, one prompt at a time; its time is that of `--sample` expressions of one such run, times all of them. The last
line is one JSON object.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from attrbind_exp.config import PACKAGE
from attrbind_exp.data.dataset import Dataset
from attrbind_exp.data.refer import load_refer
from attrbind_exp.evaluation.batching import by_image, segment_images
from attrbind_exp.evaluation.loading import read_samples, start_loading
from attrbind_exp.evaluation.loop import expression_rows
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.language.processor import TextProcessor
from attrbind_exp.types import LayerChoice, MapSettings, RunSettings, Variant
from benchmarks.core import TIMESTEP, WEIGHTS, build_model, forget_peak, resident_peak
from tests.oracle import reference_heat_map

ALPHAS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
EDITS = [Variant("baseline"), Variant("ncr", True), *(Variant("ours", True, alpha) for alpha in ALPHAS)]
LAYERS = {
    "all": LayerChoice(weights=WEIGHTS), "half": LayerChoice((2,)), "quarter": LayerChoice((4,)),
    "down": LayerChoice(blocks=("down",), weights=WEIGHTS), "up": LayerChoice(blocks=("up",), weights=WEIGHTS),
    "uniform": LayerChoice(),
}  # fmt: skip


def pick(images: int, per_image: int) -> Dataset:
    """So many expressions of so many images; an image with fewer of its own has them repeated under other ids."""
    dataset = load_refer(str(PACKAGE / "assets"), "shapes", "made", "val")
    chosen = list(by_image(dataset).values())[:images]
    samples = [
        replace(group[i % len(group)], sample_id=f"{group[0].image_id}/{i}")
        for group in chosen
        for i in range(per_image)
    ]
    return replace(dataset, samples=samples)


def run_ours(dataset: Dataset, segmenter: Segmenter, settings: RunSettings) -> int:
    """Everything to counts at 101 thresholds; how many rows that makes."""
    images = segment_images(by_image(dataset), segmenter, settings)
    return sum(len(expression_rows(item, heats, settings, True)) for image in images for item, heats in image.items)


def run_reference(dataset: Dataset, segmenter: Segmenter, count: int) -> None:
    """The published recipe on the first `count` expressions under one variant and one choice of layers."""
    model = segmenter.model
    for sample in dataset.samples[:count]:
        (item,), _ = start_loading(read_samples([sample], segmenter), segmenter)()
        bound = segmenter.text.bind([item.prompt], [EDITS[-1]])[0][0]
        noisy = model.add_noise(item.latents[None], [sample.image_id], TIMESTEP, 0, 0)
        uncond = model.encode_text([""])[0]
        size = (item.image.height, item.image.width)
        reference_heat_map(model.unet, noisy, TIMESTEP, bound.embedding, uncond, list(item.prompt.q), WEIGHTS, size)


def timed(clock: Callable[[], float], function: Callable[..., Any], *arguments: Any) -> float:
    started = clock()
    function(*arguments)
    return clock() - started


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
    text = TextProcessor(model.tokenizer, model.encode_text)
    segmenter = Segmenter(model, text, MapSettings(weights=WEIGHTS, grid=LAYERS))
    variants = [replace(edit, name=f"{edit.name} layers={x}", layers=x) for edit in EDITS for x in LAYERS]
    settings = RunSettings(variants, batch_size=args.batch)
    dataset = pick(args.images, args.per_image)
    total, runs = len(dataset.samples), len(EDITS) * len(LAYERS)
    sample = min(args.sample, total)
    small = pick(1, 1)
    run_ours(small, segmenter, RunSettings(variants[:2], batch_size=args.batch)), run_reference(small, segmenter, 1)
    ratios = []
    for _ in range(args.rounds):
        reference = timed(clock, run_reference, dataset, segmenter, sample) / sample * total * runs
        ours = timed(clock, run_ours, dataset, segmenter, settings)
        ratios.append(reference / ours)
        print(
            f"{total} expressions, {runs} runs of the reference {reference:.0f} s, ours {ours:.1f} s: {ratios[-1]:.1f}",
            flush=True,
        )
    growth = []
    for times in (1, 2, 4, 8) if args.growth else ():
        grown = pick(8 * times, 8)
        forget_peak()
        took = timed(clock, run_ours, grown, segmenter, RunSettings([EDITS[0], EDITS[-3]], batch_size=args.batch))
        growth.append({"expressions": len(grown.samples), "seconds": round(took, 2), "peak_MB": round(resident_peak())})
        print(growth[-1], flush=True)
    print(json.dumps({"reference_over_ours": sorted(round(r, 1) for r in ratios), "expressions": total, "runs": runs,
                      "model": args.model, "growth": growth}))  # fmt: skip


if __name__ == "__main__":
    main()
