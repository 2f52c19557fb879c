"""Door 3: a way of reading attention. A method says what it asks of a pass, and turns the answer into maps.

A method makes columns, (B, C, h, w): a map each, which a choice of layers sums with weights. What comes after is shared
by all methods: the sum, the resizing to the picture's own size, min-max to [0, 1], and a sigmoid where one asks
for it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attrbind_exp.backbones.backbone import Layer, Observation, Request
from attrbind_exp.backbones.reading import Reading
from attrbind_exp.heatmaps import score_map
from attrbind_exp.heatmaps.layers import Column, find_columns, weigh_columns
from attrbind_exp.types import LayerChoice, UserError


@dataclass(frozen=True)
class HeatMapMethod(ABC):
    """One way of reading attention. Subclass it as a frozen dataclass; `raw_maps` is all that must be written.

    `timesteps`: the timesteps at which it reads, each a pass; None = those of the run. Methods of one run share the
    passes of a timestep. `weights`: of the resolutions, by how many times coarser than the latents; None = as the
    method has it. `sigmoid`: its heat maps are sharpened in the end, see score_map.sharpen.
    """

    timesteps: tuple[int, ...] | None = None
    weights: Mapping[int, float] | None = None
    sigmoid: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.sigmoid, bool):
            raise UserError(f"sigmoid={self.sigmoid!r} of a heatmap; choose from true, false")
        if self.timesteps is not None:
            given = self.timesteps if isinstance(self.timesteps, list | tuple) else (self.timesteps,)  # from YAML
            if not given or not all(type(t) is int for t in given):
                raise UserError(
                    f"timesteps={self.timesteps!r} of a heatmap; give a whole number, or several as [50,100]"
                )
            object.__setattr__(self, "timesteps", tuple(given))
        if self.weights is not None and not _is_by_ratio(self.weights):
            raise UserError(
                f"weights={self.weights!r} of a heatmap; give a weight for each ratio, in quotes in a shell, such as "
                "'{8: 0.3, 4: 0.5, 2: 0.1, 1: 0.1}'"
            )

    @property
    def loss_timesteps(self) -> tuple[int, ...] | None:
        """The timesteps at which this method asks how well each text of a picture explains it; None = it does not ask.
        Each is a pass more a text, whose answer comes in `Observation.relative_loss`. A field of this name does as
        well."""
        return None

    def columns(self, choice: LayerChoice, layers: Sequence[Layer], reading: Reading) -> dict[Column, float]:
        """The columns that a choice of layers sums, with their weights: by default one a ratio of cross-attention, with
        the choice's weights, else this method's, else those of the model's own reading.

        Raises UserError for a choice that makes no map.
        """
        return weigh_columns(find_columns(choice, layers), choice.weights or self.weights or reading.weights)

    def request(self, columns: Sequence[Column], layers: Sequence[Layer]) -> Request:
        """What a pass must leave behind for these columns: by default the cross-attention of their layers, heads
        meaned. Who reads heads asks for `by_head=True`; `seen.cross` has no axis of heads otherwise."""
        return Request(cross=cross_layers(columns, layers))

    def pools(self, read: Sequence[int], length: int, content: Sequence[int] = ()) -> Tensor:
        """Weights (K, L) over the text window that pool cross-attention for a prompt whose positions `read` are read:
        by default their mean, K = 1. A batch may add rows of zeros behind to make all K alike. `content`: the positions
        of all of the prompt's text."""
        weights = torch.zeros(1, length)
        weights[0, list(read)] = 1 / len(read)
        return weights

    @abstractmethod
    def raw_maps(self, seen: Observation, columns: Sequence[Column], grid: tuple[int, int]) -> Tensor:
        """The columns' maps (B, C, h', w') as attention has them, float32 at least, from what one pass left behind.

        `grid`: (h, w) of the latents. Maps that are flat but for rounding are counted here, and the run says so.
        """

    def complete(self, maps: Tensor, seen: Observation) -> Tensor:
        """What is made of the raw maps (B, C, h', w') of a pass before they are summed, the like: by default nothing.

        Where several texts are read on one pass, the columns of each follow one another: treat every map by itself.
        """
        return maps


def _is_by_ratio(weights: object) -> bool:
    """Whether these are numbers by ratio."""
    return isinstance(weights, Mapping) and all(
        type(ratio) is int and type(weight) in (int, float) for ratio, weight in weights.items()
    )


def pool_pieces(read: Sequence[int], length: int) -> Tensor:
    """Weights (K, L) that pool each of K positions by itself, 1 / K each, so that their sum is the mean."""
    weights = torch.zeros(len(read), length)
    weights[range(len(read)), list(read)] = 1 / len(read)
    return weights


def cross_layers(columns: Sequence[Column], layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The cross-attention layers that some of the columns are made of, in the model's order."""
    return tuple(x for x in layers if x.cross and any(x.ratio == c.ratio and x.block in c.blocks for c in columns))


def share_of_layers(columns: Sequence[Column], layers: Sequence[Layer]) -> dict[Column, float]:
    """Weights by which every cross-attention layer of the columns counts alike."""
    counts = {column: len(cross_layers([column], layers)) for column in columns}
    return {column: count / sum(counts.values()) for column, count in counts.items()}


def finest_self_attention(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The self-attention layers of the finest resolution that has any."""
    ratio = min((x.ratio for x in layers if not x.cross), default=0)
    return tuple(x for x in layers if not x.cross and x.ratio == ratio)


def column_means(seen: Observation, columns: Sequence[Column], grid: tuple[int, int]) -> Tensor:
    """The first pooling of each column, meaned over heads and layers, on the grid of the finest self-attention that is
    there, else the latents' `grid`: (B, C, h', w')."""
    at = score_map.grid_at(min((x.layer.ratio for x in seen.self_attention), default=1), grid)
    means = []
    for column in columns:
        pooled = [seen.cross[x][:, 0] for x in cross_layers([column], list(seen.cross))]
        layers = [x.mean(1) if x.ndim == 3 else x for x in pooled]  # (B, n) each, without heads
        means.append(score_map.mean_map(layers, score_map.grid_at(column.ratio, grid), at))
    return torch.stack(means, 1)
