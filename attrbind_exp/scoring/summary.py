"""All counts of a run, and the figures that its summary shows. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from attrbind_exp.scoring import binding, classes, metrics
from attrbind_exp.scoring.classes import ClassCounts
from attrbind_exp.scoring.compare import class_difference, paired_difference
from attrbind_exp.types import Failure, Sample, Variant


@dataclass(frozen=True)
class Reading:
    """How an expression was read: words of its target and chunk, whether binding edits it, and by which fallbacks."""

    target: str
    chunk: str
    bound: bool
    fallbacks: Sequence[str]


@dataclass
class Scores:
    """Counts of all scored expressions; rows in the order of `samples`, `readings` and `labels`, their slice labels.

    `intersection[variant]`, `union[variant]`: one (S, K) array an expression; `sightings[variant]`: one Sighting a seed
    and expression where the other objects of the images are known, else nothing. `unscored`: expressions that were
    segmented but have no ground truth.
    """

    variants: Sequence[Variant]
    samples: list[Sample] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    labels: list[Mapping[str, str | Sequence[str]]] = field(default_factory=list)
    intersection: list[list[np.ndarray]] = field(init=False)
    union: list[list[np.ndarray]] = field(init=False)
    sightings: list[list[list[binding.Sighting]]] = field(init=False)
    failures: list[Failure] = field(default_factory=list)
    unscored: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.intersection, self.union = [[] for _ in self.variants], [[] for _ in self.variants]
        self.sightings = [[] for _ in self.variants]

    def counts(self, variant: int) -> tuple[np.ndarray, np.ndarray]:
        """Intersection and union (n, S, K) of one variant."""
        empty = np.zeros((0, 1, len(metrics.THRESHOLDS)), np.int64)
        if not self.samples:
            return empty, empty
        return np.stack(self.intersection[variant]), np.stack(self.union[variant])

    def curve(self, variant: int) -> np.ndarray:
        """mIoU in percent at every threshold, (K,)."""
        return 100 * metrics.iou(*self.counts(variant)).mean((0, 1))


@dataclass
class ClassScores:
    """Counts of all scored images: `counts[variant][seed]` holds one ClassCounts an image, in the order of `images`.
    `readings`: of every class name that was looked for in one."""

    variants: Sequence[Variant]
    seeds: Sequence[int]
    names: Sequence[str]
    images: list[str] = field(default_factory=list)
    counts: list[list[list[ClassCounts]]] = field(init=False)
    readings: list[Reading] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = [[[] for _ in self.seeds] for _ in self.variants]

    def pooled(self, variant: int) -> tuple[np.ndarray, np.ndarray]:
        """Intersection and union (S, C, K) of one variant, pooled over images."""
        pools = [classes.pool(images, len(self.names)) for images in self.counts[variant]]
        return np.stack([hit for hit, _ in pools]), np.stack([union for _, union in pools])

    def curve(self, variant: int) -> np.ndarray:
        """mIoU in percent at every threshold of the background, (K,)."""
        return 100 * classes.mean_iou(*self.pooled(variant)).mean(0)


def summarize(scores: Scores | ClassScores, headline: int = -1, threshold: float | None = None) -> dict[str, Any]:
    """summary.json without what only the command knows (config hash, dataset, seconds). Figures in percent."""
    if isinstance(scores, Scores):
        entries = _expression_entries(scores, threshold)
        what, n_scored, n_unscored = "expressions", len(scores.samples), len(scores.unscored)
    else:
        entries = _class_entries(scores, threshold)
        what, n_scored, n_unscored = "images", len(scores.images), 0
    head = {k: v for k, v in entries[headline].items() if k not in ("label", "n", "difference")}
    return {
        **head,
        "scored": what,
        f"n_{what}": n_scored + n_unscored + len(scores.failures),
        "n_scored": n_scored,
        "n_unscored": n_unscored,
        "n_failed": len(scores.failures),
        "failures": dict(sorted(Counter(f.reason for f in scores.failures).items())),
        "n_fallback": dict(sorted(Counter(rule for r in scores.readings for rule in r.fallbacks).items())),
        "n_bound": sum(r.bound for r in scores.readings),
        "variants": entries,
    }


def _expression_entries(scores: Scores, threshold: float | None) -> list[dict[str, Any]]:
    slices = metrics.slice_rows(scores.labels)
    clusters = [s.image_id for s in scores.samples]
    entries: list[dict[str, Any]] = []
    base = None
    for number, variant in enumerate(scores.variants):
        intersection, union = scores.counts(number)
        figures = metrics.summarize(intersection, union, threshold)
        each = 100 * expression_iou(scores, number, figures["threshold"])
        by_slice = {
            name: {value: {"mIoU": float(each[rows].mean()), "n": len(rows)} for value, rows in values.items()}
            for name, values in slices.items()
        }
        entries.append({**_name(variant), **figures, "slices": by_slice})
        if seen := scores.sightings[number]:
            entries[-1]["binding"] = binding.summarize(scores.samples, seen)
            shares = binding.peak_shares(seen)
            for name, values in slices.items():
                for value, rows in values.items():
                    by_slice[name][value] |= {f"peak_{p}": float(100 * shares[p][rows].mean()) for p in shares}
        if base is None:
            base = each
        elif len(each):
            entries[-1]["difference"] = asdict(paired_difference(base, each, clusters))
    return entries


def expression_iou(scores: Scores, variant: int, threshold: float | None) -> np.ndarray:
    """IoU of every expression (n,) at a threshold, mean over noise seeds."""
    intersection, union = (c[..., round((threshold or 0) * 100)] for c in scores.counts(variant))
    return metrics.iou(intersection, union).mean(-1)


def _class_entries(scores: ClassScores, threshold: float | None) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    base = None
    for number, variant in enumerate(scores.variants):
        hit, union = scores.pooled(number)  # (S, C, K)
        by_seed = 100 * classes.mean_iou(hit, union)  # (S, K)
        curve = by_seed.mean(0)
        row = metrics.best_row(curve, threshold)
        each = 100 * (hit / np.maximum(union, 1))[..., row].mean(0)  # (C,)
        images = Counter(int(c) for image in scores.counts[number][0] for c in image.classes[image.truth > 0])
        by_class = {
            name: {"mIoU": float(each[c]), "n": images[c]}
            for c, name in enumerate(scores.names)
            if union[:, c, row].any()
        }
        entries.append(
            {
                **_name(variant),
                "mIoU": float(curve[row]) if scores.images else None,
                "threshold": row / 100,
                "mIoU_at": {metrics.key(k): float(curve[k]) for k in metrics.GRID},
                "oIoU": None,
                "precision": dict.fromkeys([f"{p:g}" for p in metrics.PRECISIONS]),
                "n": len(scores.images),
                **metrics.spread(by_seed[:, row]),
                "slices": {"class": by_class},
            }
        )
        table = np.sum([classes.dense(images, len(scores.names), row) for images in scores.counts[number]], axis=0)
        if base is None:
            base = table
        elif scores.images:
            entries[-1]["difference"] = asdict(class_difference(base, table))
    return entries


def _name(variant: Variant) -> dict[str, Any]:
    return {"text_processor": variant.name, "alpha": variant.alpha, "label": variant.label}
