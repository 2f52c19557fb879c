"""One run: data -> segmentation -> scoring -> store."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from attrbind_exp.data.dataset import Dataset
from attrbind_exp.evaluation.loop import score
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.language.caption import Captioner
from attrbind_exp.reporting import figures
from attrbind_exp.reporting.gallery import Artist
from attrbind_exp.runs.store import RunStore
from attrbind_exp.scoring import metrics
from attrbind_exp.scoring.summary import Scores, expression_iou, summarize
from attrbind_exp.tracking.tracker import Tracker
from attrbind_exp.types import RunSettings, UserError


def run_experiment(
    dataset: Dataset,
    segmenter: Segmenter,
    settings: RunSettings,
    store: RunStore,
    tracker: Tracker,
    captioner: Captioner | None = None,
) -> dict[str, Any]:
    """Score everything under every variant and seed, write rows as they come, then summary and pictures.

    Returns the summary. Raises UserError when the split is empty.
    """
    if not dataset.samples and not dataset.failures and not dataset.scenes:
        raise UserError(f"no expressions in {dataset.name}; choose another dataset.split or a larger dataset.fraction")
    started = time.perf_counter()
    scores = score(dataset, segmenter, settings, store, captioner)
    summary = summarize(scores, settings.headline, settings.threshold)
    summary["seconds"] = round(time.perf_counter() - started, 3)
    galleries = Artist(dataset, segmenter, settings, store, captioner).draw(scores, summary)
    curves = {v.label: scores.curve(i) for i, v in enumerate(settings.variants) if summary["n_scored"]}
    if curves:
        figures.threshold_curve(curves, store.folder / "threshold_curve.png")
    tracker.summary({k: v for k, v in summary.items() if k != "variants"})
    track_tables(summary, curves, tracker)
    if isinstance(scores, Scores):
        track_expressions(scores, summary, tracker)
    for name, pictures in galleries.items():
        tracker.images(name, pictures)
    return summary


def track_tables(summary: Mapping[str, Any], curves: Mapping[str, np.ndarray], tracker: Tracker) -> None:
    """The threshold curve and one row a variant."""
    lines = {label: curve.tolist() for label, curve in curves.items()}
    tracker.curve("threshold_curve", "threshold", "mIoU", metrics.THRESHOLDS.tolist(), lines)
    tracker.table(
        "variants",
        ["variant", "mIoU", "threshold", "oIoU"],
        [[v["label"], v["mIoU"], v["threshold"], v["oIoU"]] for v in summary["variants"]],
    )


def track_expressions(scores: Scores, summary: Mapping[str, Any], tracker: Tracker) -> None:
    """One row an expression with its IoU under every variant, each at the variant's own threshold."""
    labels = [v["label"] for v in summary["variants"]]
    each = [expression_iou(scores, i, v["threshold"]) for i, v in enumerate(summary["variants"])]
    rows = [
        [
            s.sample_id,
            s.image_id,
            s.text,
            r.target,
            r.chunk,
            ", ".join(r.fallbacks),
            ", ".join(f"{k}={v}" for k, v in s.slices.items()),
            *(float(e[i]) for e in each),
        ]
        for i, (s, r) in enumerate(zip(scores.samples, scores.readings, strict=True))
    ]
    columns = ["sample", "image", "expression", "target", "chunk", "fallbacks", "slices"]
    tracker.table("expressions", [*columns, *(f"IoU {label}" for label in labels)], rows)
