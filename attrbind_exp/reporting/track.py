"""What the tracker is told of a run when it is scored. The same figures stand in its folder."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from attrbind_exp.runs.summary import Summary
from attrbind_exp.scoring import metrics
from attrbind_exp.tracking.tracker import Tracker


def track_run(
    summary: Summary,
    curves: Mapping[str, np.ndarray],
    folder: Path,
    tracker: Tracker,
    galleries: Mapping[str, Mapping[str, Path]],
) -> None:
    """Log a run: its figures, the threshold curves, one row a variant, its pictures.

    `curves`: mIoU in percent at every threshold (K,) by variant label; `galleries`: pictures by gallery and caption.
    """
    tracker.summary(msgspec.to_builtins(msgspec.structs.replace(summary, variants=[])))
    lines = {label: curve.tolist() for label, curve in curves.items()}
    tracker.curve("threshold_curve", "threshold", "mIoU", metrics.THRESHOLDS.tolist(), lines)
    rows = [[v.label, v.mIoU, v.threshold, v.oIoU] for v in summary.variants]
    tracker.table("variants", ["variant", "mIoU", "threshold", "oIoU"], rows)
    for name, pictures in galleries.items():
        tracker.images(name, pictures)
