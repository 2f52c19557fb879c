"""What a run does with its data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from attrbind_exp.edits import Variant
from attrbind_exp.heatmaps.refinement import Refinement
from attrbind_exp.scoring.metric import Metric
from attrbind_exp.types import FigureWidth, MaskFormat


@dataclass(frozen=True)
class RunSettings:
    """What one run does with its data.

    variants: what is compared; headline: the one that heads the summary; threshold: None = best of the grid;
    batch_size: passes at once; gallery: how many samples become pictures; changed: how many of the most improved and of
    the most harmed expressions do; seeds: of the noise, each costs a pass; shard: (k, n) takes every n-th image from
    the k-th on; keep_maps: leave the completed maps of every expression in the run's folder; save_masks: leave its
    masks and heat maps there to be taken away; figure_width: make the figures for a paper, too, this wide; metrics: the
    user's own, by name; peaks: whether a map's highest place says anything, which of masks it does not;
    refinement: what is done to heat maps before they are scored, None = nothing.
    """

    variants: Sequence[Variant]
    headline: int = -1
    threshold: float | None = None
    batch_size: int = 64
    gallery: int = 12
    changed: int = 20
    seeds: Sequence[int] = (0,)
    shard: tuple[int, int] = (0, 1)
    keep_maps: bool = False
    save_masks: MaskFormat | None = None
    figure_width: FigureWidth | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    peaks: bool = True
    refinement: Refinement | None = None
