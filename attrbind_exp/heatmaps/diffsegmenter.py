"""DiffSegmenter's reading: cross-attention by resolution, completed by self-attention. The paper's baseline."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from attrbind_exp.backbones.backbone import Layer, Observation, Request
from attrbind_exp.heatmaps import score_map
from attrbind_exp.heatmaps.layers import Column
from attrbind_exp.heatmaps.method import HeatMapMethod, column_means, cross_layers, finest_self_attention
from attrbind_exp.types import UserError


@dataclass(frozen=True)
class DiffSegmenter(HeatMapMethod):
    """Protocol 3.4 and 3.5: c = sum over resolutions of w * minmax(mean over heads and layers), then S @ c.

    S is the mean over heads and layers of the finest self-attention; that S @ sum(w c) = sum(w S @ c) makes each
    resolution a column of its own. `weights`: by ratio, None = the model's own reading. Source: DiffSegmenter
    (Wang et al., 2023) and its published script. `power`: S^k @ c instead, not of the paper; 0 is cross-attention
    alone.
    """

    power: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.power) is not int or self.power < 0:
            raise UserError(f"power={self.power!r} of a heatmap; give a whole number, 0 or more")

    def request(self, columns: Sequence[Column], layers: Sequence[Layer]) -> Request:
        """Cross-attention of the columns' layers, queries and keys of the finest self-attention."""
        own = finest_self_attention(layers) if self.power else ()
        return Request(cross=cross_layers(columns, layers), queries_keys=own)

    def raw_maps(self, seen: Observation, columns: Sequence[Column], grid: tuple[int, int]) -> Tensor:
        """The mean over heads and layers of each column, on the grid of the self-attention: (B, C, h', w')."""
        return column_means(seen, columns, grid)

    def complete(self, maps: Tensor, seen: Observation) -> Tensor:
        """S^k @ minmax(c) of every column c."""
        maps = score_map.min_max(maps)
        for _ in range(self.power):
            maps = score_map.complete(maps, seen.self_attention)
        return maps
