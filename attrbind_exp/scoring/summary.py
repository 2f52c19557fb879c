"""All counts of a run, and the figures that its summary shows. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from attrbind_exp.scoring import metrics
from attrbind_exp.scoring.compare import paired_difference
from attrbind_exp.types import Failure, Prompt, Sample, Variant


@dataclass
class Scores:
    """Counts of all scored expressions: (n, K) a variant, rows in the order of `samples` and `prompts`."""

    samples: list[Sample]
    prompts: list[Prompt]
    intersection: list[list[np.ndarray]]
    union: list[list[np.ndarray]]
    failures: list[Failure]

    def counts(self, variant: int) -> tuple[np.ndarray, np.ndarray]:
        """Intersection and union (n, K) of one variant."""
        shape = (len(self.samples), len(metrics.THRESHOLDS))
        return np.array(self.intersection[variant]).reshape(shape), np.array(self.union[variant]).reshape(shape)


def summarize(
    scores: Scores, variants: Sequence[Variant], headline: int = -1, threshold: float | None = None
) -> dict[str, Any]:
    """summary.json without what only the command knows (config hash, dataset, seconds). Figures in percent."""
    slices = metrics.slice_rows([dict(s.slices) for s in scores.samples])
    entries = [_variant_entry(scores, v, i, slices, threshold) for i, v in enumerate(variants)]
    head = {k: v for k, v in entries[headline].items() if k not in ("label", "n", "difference")}
    return {
        **head,
        "n_expressions": len(scores.samples) + len(scores.failures),
        "n_scored": len(scores.samples),
        "n_failed": len(scores.failures),
        "failures": dict(Counter(f.reason for f in scores.failures)),
        "n_fallback": dict(Counter(reason for p in scores.prompts for reason in p.fallbacks)),
        "n_bound": sum(p.bind for p in scores.prompts),
        "variants": entries,
    }


def _variant_entry(
    scores: Scores,
    variant: Variant,
    number: int,
    slices: Mapping[str, Mapping[str, np.ndarray]],
    threshold: float | None,
) -> dict[str, Any]:
    intersection, union = scores.counts(number)
    figures = metrics.summarize(intersection, union, threshold)
    row = round((figures["threshold"] or 0) * 100)
    each = 100 * metrics.iou(intersection, union)  # (n, K)
    entry = {
        "text_processor": variant.name,
        "alpha": variant.alpha,
        "label": variant.label,
        **figures,
        "slices": {
            name: {value: {"mIoU": float(each[rows, row].mean()), "n": len(rows)} for value, rows in values.items()}
            for name, values in slices.items()
        },
    }
    if number > 0 and len(each):
        first = metrics.summarize(*scores.counts(0), threshold)
        base = 100 * metrics.iou(*scores.counts(0))[:, round(first["threshold"] * 100)]
        entry["difference"] = asdict(paired_difference(base, each[:, row], [s.image_id for s in scores.samples]))
    return entry
