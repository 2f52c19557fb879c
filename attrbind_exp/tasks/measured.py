"""An expression's row with what is counted of its heat maps."""

from collections.abc import Mapping
from math import isfinite

import msgspec
import numpy as np

from attrbind_exp.runs.rows import ExpressionRow
from attrbind_exp.scoring import binding, counting, metrics
from attrbind_exp.scoring.binding import Sighting
from attrbind_exp.scoring.counting import MapCounts, Maps, Prepared
from attrbind_exp.scoring.metric import Metric
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.tasks.task import check_counted, check_finite
from attrbind_exp.types import Sample


def measure_heat(
    words: ExpressionRow,
    heats: Maps,
    sample: Sample,
    masks: Mapping[str, np.ndarray] | None,
    prepared: Prepared,
    settings: RunSettings,
) -> list[ExpressionRow]:
    """The row `words` with what is counted of each heat map (M, H, W) under `masks` (H, W) of the image's objects, the
    sample's own first, and measured by the metrics of the user; as it is without ground truth. `settings`: of the run.

    Raises SampleError "not_finite".
    """
    if masks is None:
        check_finite(heats)
        return [words] * len(heats)
    names, found = list(masks), counting.count_maps(heats, list(masks.values()), prepared)
    located = sample.others is not None and settings.peaks
    made = []
    for heat, counts in zip(heats, map(check_counted, found), strict=True):
        sighting = binding.locate(sample, names, counts) if located else None
        made.append(_with_counts(words, counts, sighting, _measure(settings.metrics, heat, masks[names[0]])))
    return made


def _with_counts(
    words: ExpressionRow, counts: MapCounts, found: Sighting | None, measured: Mapping[str, float]
) -> ExpressionRow:
    """The row with the counts of a heat map, and where the heat was found to lie among the objects of the image."""
    at = metrics.iou(counts.intersection, counts.union).tolist()
    return msgspec.structs.replace(
        words,
        iou_at={metrics.key(k): round(at[k], 6) for k in metrics.GRID},
        intersection=counts.intersection.tolist(),
        union=counts.union.tolist(),
        peak=found and found.peak,
        heat_on=found and found.heat_on,
        metrics=measured,
    )


def _measure(own: Mapping[str, Metric], heat: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """What the user's own metrics say of a heat map (H, W), which is on the host where there are any."""
    measured = {name: float(metric.measure(heat, truth)) for name, metric in own.items()}
    return {name: value for name, value in measured.items() if isfinite(value)}
