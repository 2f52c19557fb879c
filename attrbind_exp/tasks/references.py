"""Floors and ceiling of an expression, measured once an object of an image."""

from collections.abc import Mapping, Sequence
from functools import partial

import msgspec
import numpy as np

from attrbind_exp.heatmaps.refinement import Refinement
from attrbind_exp.runs.rows import ExpressionRow
from attrbind_exp.scoring import references
from attrbind_exp.scoring.counting import Maps
from attrbind_exp.types import Sample

References = Mapping[str, Sequence[float]]  # as a row has them
Measured = dict[str, References]  # by object of an image


def measure_references(
    sample: Sample,
    masks: Mapping[str, np.ndarray],
    grid: tuple[int, int] | None,
    heats: Maps,
    measured: Measured,
    refinement: Refinement | None = None,
) -> References:
    """The references of a sample with `masks` (H, W) bool of its image's objects, and maps of `grid` (h, w) cells; a
    reference that is a heat map is made where `heats` (M, H, W) lie.

    `measured`: what other expressions about the image's objects have found; it grows. `refinement`: may have references
    of its own. Raises SampleError where those cannot be measured.
    """
    key = sample.object_id or sample.sample_id
    if key not in measured:
        others = [mask for name, mask in masks.items() if name != sample.object_id]
        known = None if sample.others is None else others
        truth = masks[sample.object_id]
        found = references.measure(truth, known, grid, partial(as_heat_map, like=heats))
        measured[key] = {**found, **(refinement.references(sample, truth) if refinement else {})}
    return measured[key]


def as_heat_map(cells: np.ndarray, size: tuple[int, int], like: "Maps | None" = None) -> Maps:
    """A map (h, w) float32 as a heat map (1, H, W), resized and stretched as every one is: where `like` lies, None = on
    the host."""
    import torch  # figures are made of rows without it

    from attrbind_exp.heatmaps.score_map import heat_map

    completed = torch.from_numpy(cells)[None]
    if isinstance(like, torch.Tensor):
        return heat_map(completed.to(like.device), size)
    return heat_map(completed, size).numpy()


def with_references(rows: Sequence[ExpressionRow], found: References) -> list[ExpressionRow]:
    """An expression's rows, of which the first has its references: they are the same under every variant and seed."""
    return [msgspec.structs.replace(rows[0], references=found), *rows[1:]]
