"""What half precision, torch.compile and the batch size change, on the bundled model and its benchmark.

    python benchmarks/precision.py [--expressions 120] [--device auto]

Every way is compared with fp32, eager, batch 32 on the same expressions, noise and variants (baseline; UEA at 0.9): the
largest and the mean absolute difference of heat maps in [0, 1], and the change of mIoU in percentage points at each
one's best threshold and at fp32's. The last line is one JSON object.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from attrbind_exp.backbones.unet import load_model
from attrbind_exp.config import PACKAGE
from attrbind_exp.data.dataset import Dataset
from attrbind_exp.data.refer import load_refer
from attrbind_exp.evaluation.batching import by_image, segment_images
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.language.processor import TextProcessor
from attrbind_exp.scoring import metrics
from attrbind_exp.types import MapSettings, RunSettings, Variant

BASE = {"dtype": "fp32", "batch": 32, "compiled": False}
WAYS = {
    "bf16": {"dtype": "bf16"},
    "fp16": {"dtype": "fp16"},
    "batch 1": {"batch": 1},
    "compiled": {"compiled": True},
}
VARIANTS = [Variant("baseline"), Variant("uncond_average", alpha=0.9)]
WEIGHTS = {8: 0.0, 4: 0.0, 2: 1.0, 1: 0.0}  # conf/model/bundled.yaml


def measure(dataset: Dataset, device: str, dtype: str, batch: int, compiled: bool) -> tuple[list, np.ndarray, float]:
    """Heat maps of every expression and variant, IoU (n, variants, K) at every threshold, and seconds."""
    model = load_model(str(PACKAGE / "assets" / "bundled"), device, dtype)
    if compiled:
        model.compile()
    segmenter = Segmenter(model, TextProcessor(model.tokenizer, model.encode_text), MapSettings(weights=WEIGHTS))
    settings = RunSettings(VARIANTS, batch_size=batch)
    started = time.perf_counter()
    items = [item for image in segment_images(by_image(dataset), segmenter, settings) for item in image.items]
    took = time.perf_counter() - started
    heats = [[row[0].values for row in found] for _, found in items]
    each = [
        [metrics.iou(*metrics.count_overlap(h, item.truth)) for h in row]
        for (item, _), row in zip(items, heats, strict=True)
    ]
    return heats, np.array(each), took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--expressions", type=int, default=120)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=list(WAYS))
    args = parser.parse_args()
    dataset = load_refer(str(PACKAGE / "assets"), "shapes", "made", "val")
    dataset = replace(dataset, samples=dataset.samples[: args.expressions])
    heats, each, took = measure(dataset, args.device, **BASE)
    curve = 100 * each.mean(0)  # (variants, K)
    rows = [metrics.best_row(c, None) for c in curve]
    print(f"{len(heats)} expressions; fp32, eager, batch 32: " + ", ".join(
        f"{v.label} {c[k]:.2f} at {k / 100:.2f}" for v, c, k in zip(VARIANTS, curve, rows, strict=True)) + f", {took:.1f} s")  # fmt: skip
    print(f"{'way':10} {'largest':>9} {'mean':>9}   mIoU change, best threshold / same threshold")
    found = {}
    for name in args.ways:
        other, each, took = measure(dataset, args.device, **(BASE | WAYS[name]))
        gaps = [
            abs(a - b) for mine, theirs in zip(heats, other, strict=True) for a, b in zip(mine, theirs, strict=True)
        ]
        largest, mean = max(float(g.max()) for g in gaps), float(np.mean([g.mean() for g in gaps]))
        changed = 100 * each.mean(0)
        best = [float(c[metrics.best_row(c, None)] - p[k]) for c, p, k in zip(changed, curve, rows, strict=True)]
        same = [float(c[k] - p[k]) for c, p, k in zip(changed, curve, rows, strict=True)]
        print(
            f"{name:10} {largest:9.1e} {mean:9.1e}   {best[0]:+.3f} {best[1]:+.3f} / {same[0]:+.3f} {same[1]:+.3f}   {took:.1f} s",
            flush=True,
        )
        found[name] = {"largest": largest, "mean": mean, "mIoU_best": best, "mIoU_same": same, "seconds": took}
    print(
        json.dumps(
            {"expressions": len(heats), "mIoU": [float(c[k]) for c, k in zip(curve, rows, strict=True)], "ways": found}
        )
    )


if __name__ == "__main__":
    main()
