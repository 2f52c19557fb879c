"""What half precision, torch.compile and the batch size change, on the bundled model and its benchmark.

    python benchmarks/precision.py [--expressions 120] [--device auto]

Every way is compared with fp32, eager, batch 32, on the same expressions, noise and variants (baseline; UEA at 0.9).
Printed are the largest and the mean absolute difference of heat maps in [0, 1], and the change of mIoU in percentage
points, once at each one's own best threshold and once at that of fp32. The last line is one JSON object.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from attrbind_exp.backbones.stable_diffusion import load_stable_diffusion
from attrbind_exp.config import PACKAGE
from attrbind_exp.data.dataset import Dataset, by_image
from attrbind_exp.data.refer import load_refer
from attrbind_exp.edits import Averaging
from attrbind_exp.evaluation.batching import segment_images
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.scoring import metrics
from attrbind_exp.types import MapSettings, RunSettings, Variant
from benchmarks.models import BUNDLED, TIMESTEP

BASE = {"dtype": "fp32", "batch": 32, "compiled": False}
WAYS = {
    "bf16": {"dtype": "bf16"},
    "fp16": {"dtype": "fp16"},
    "batch 1": {"batch": 1},
    "compiled": {"compiled": True},
}
VARIANTS = [Variant("baseline"), Variant("uncond_average", (Averaging(0.9),), 0.9)]


@dataclass(frozen=True)
class Measured:
    """What one way gives: `heats[expression][variant]` (H, W), `iou` (n, variants, K) at every threshold, and
    seconds."""

    heats: list[list[np.ndarray]]
    iou: np.ndarray
    seconds: float

    @property
    def curve(self) -> np.ndarray:
        """mIoU in percent of each variant at every threshold, (variants, K)."""
        return 100 * self.iou.mean(0)


def measure(dataset: Dataset, device: str, dtype: str, batch: int, compiled: bool) -> Measured:
    """Segment all expressions in one way."""
    model = load_stable_diffusion(BUNDLED, device, dtype)
    if compiled:
        model.compile()
    segmenter = Segmenter(model, maps=MapSettings((TIMESTEP,)))  # as in the other benchmarks, for the same passes
    settings = RunSettings(VARIANTS, batch_size=batch)
    started = time.perf_counter()
    items = [item for image in segment_images(by_image(dataset), segmenter, settings) for item in image.items]
    took = time.perf_counter() - started
    heats = [[item.heat(v, 0).values for v in range(len(VARIANTS))] for item in items]
    iou = [
        [metrics.iou(*metrics.count_overlap(heat, item.truth)) for heat in row]
        for item, row in zip(items, heats, strict=True)
    ]
    return Measured(heats, np.array(iou), took)


def compare(other: Measured, base: Measured) -> dict[str, float | list[float]]:
    """How far one way is from the base: differences of heat maps, and of mIoU by variant."""
    pairs = [
        (a, b) for mine, theirs in zip(base.heats, other.heats, strict=True) for a, b in zip(mine, theirs, strict=True)
    ]
    gaps = [abs(a - b) for a, b in pairs]
    rows = [metrics.best_row(curve, None) for curve in base.curve]
    curves = list(zip(other.curve, base.curve, rows, strict=True))
    return {
        "largest": max(float(gap.max()) for gap in gaps),
        "mean": float(np.mean([gap.mean() for gap in gaps])),
        "mIoU_best": [float(new[metrics.best_row(new, None)] - old[k]) for new, old, k in curves],
        "mIoU_same": [float(new[k] - old[k]) for new, old, k in curves],
        "seconds": other.seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--expressions", type=int, default=120)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=list(WAYS))
    args = parser.parse_args()
    dataset = load_refer(str(PACKAGE / "assets"), "shapes", "made", "val")
    dataset = replace(dataset, samples=dataset.samples[: args.expressions])
    base = measure(dataset, args.device, **BASE)
    best = [
        (variant, curve, metrics.best_row(curve, None)) for variant, curve in zip(VARIANTS, base.curve, strict=True)
    ]
    figures = ", ".join(f"{variant.label} {curve[k]:.2f} at {k / 100:.2f}" for variant, curve, k in best)
    print(f"{len(base.heats)} expressions; fp32, eager, batch 32: {figures}, {base.seconds:.1f} s")
    print(f"{'way':10} {'largest':>9} {'mean':>9}   mIoU change, best threshold / same threshold")
    found = {}
    for name in args.ways:
        way = compare(measure(dataset, args.device, **(BASE | WAYS[name])), base)
        change = " / ".join(" ".join(f"{value:+.3f}" for value in way[key]) for key in ("mIoU_best", "mIoU_same"))
        print(f"{name:10} {way['largest']:9.1e} {way['mean']:9.1e}   {change}   {way['seconds']:.1f} s", flush=True)
        found[name] = way
    print(
        json.dumps({"expressions": len(base.heats), "mIoU": [float(curve[k]) for _, curve, k in best], "ways": found})
    )


if __name__ == "__main__":
    main()
