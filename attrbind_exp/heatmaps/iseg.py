"""iSeg's reading: cross-attention refined ten times by self-attention whose weak links are cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attrbind_exp.backbones.backbone import Layer, Observation, Request, SelfAttention
from attrbind_exp.backbones.reading import Reading
from attrbind_exp.heatmaps import score_map
from attrbind_exp.heatmaps.layers import Column, find_columns, weigh_columns
from attrbind_exp.heatmaps.matrices import mean_matrix, of_row
from attrbind_exp.heatmaps.method import HeatMapMethod, cross_layers, finest_self_attention, pool_pieces
from attrbind_exp.types import LayerChoice, UserError

BLOCK = 256  # rows of a matrix that are worked on at once


@dataclass(frozen=True)
class ISeg(HeatMapMethod):
    """C = T^rounds @ c, with c = sum over resolutions of w * mean over the target's pieces of bilinear(A_q / sum A_q).

    T is self-attention S (N x N, mean over heads and layers of the finest resolution), each column divided by its
    largest entry; then T <- max(T + ent * log10(e T), 0), which cuts weak links off; then each row divided by its sum.
    Source: "iSeg" (Sun et al., 2024) and its published script: ten rounds of C <- T C, ent = 0.1 for COCO and 0.015 for
    VOC, 0.7 and 0.3 of the cross-attention at a quarter and a half of the latents' resolution. The script subtracts
    each round's minimum and divides by the sum: rows of T sum to 1, so that moves and scales the whole map, and the
    heat map's min-max takes it back. Departures: all layers of a resolution are read, and all heads of the finest
    self-attention (the script has eight layers of cross-attention, heads 1 and 2 of one of self-attention); c is not
    averaged over clusters of cells that attend to the text alike, as the script does first; a cell whose links are all
    cut gets the map's mean, and a target that no cell attends to a map of zeros, where the script divides by zero. The
    script's larger embedding of the target (times 1.6) is an edit of the text, and none is made here.

    Memory: T needs N x N numbers, 67 MB at 64 x 64 cells in float32, and at the peak twice that (measured), for one row
    of a pass after the other.
    """

    weights: Mapping[int, float] | None = field(default_factory=lambda: {8: 0.0, 4: 0.7, 2: 0.3, 1: 0.0})
    ent: float = 0.1
    rounds: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.rounds) is not int or self.rounds < 0:
            raise UserError(f"rounds={self.rounds!r} of a heatmap; give a whole number, 0 or more")
        if not isinstance(self.ent, int | float) or not self.ent >= 0:
            raise UserError(f"ent={self.ent!r} of a heatmap; give a number, 0 or more")

    def columns(self, choice: LayerChoice, layers: Sequence[Layer], reading: Reading) -> dict[Column, float]:
        """One column a resolution, with the choice's weights, else this method's."""
        return weigh_columns(find_columns(choice, layers), choice.weights or self.weights or reading.weights)

    def request(self, columns: Sequence[Column], layers: Sequence[Layer]) -> Request:
        """Cross-attention of the columns' layers, queries and keys of the finest self-attention."""
        return Request(cross=cross_layers(columns, layers), queries_keys=finest_self_attention(layers))

    def pools(self, read: Sequence[int], length: int, content: Sequence[int] = ()) -> Tensor:
        """(K, L): every piece by itself, since each is divided by its own sum."""
        return pool_pieces(read, length)

    def raw_maps(self, seen: Observation, columns: Sequence[Column], grid: tuple[int, int]) -> Tensor:
        """The mean over the target's pieces of each column, on the grid of the self-attention: (B, C, h', w')."""
        at = score_map.grid_at(min(x.layer.ratio for x in seen.self_attention), grid)
        found = []
        for column in columns:
            own = cross_layers([column], list(seen.cross))
            maps = torch.stack([seen.cross[layer] for layer in own]).mean(0)  # (B, K, n)
            sums = maps.sum(-1, keepdim=True)
            maps = maps / sums.clamp_min(torch.finfo(maps.dtype).tiny)
            mean = maps.sum(1) / (sums > 0).sum(1).clamp_min(1)  # rows of zeros fill up the poolings of a batch
            found.append(score_map.resize(mean.unflatten(-1, score_map.grid_at(column.ratio, grid)), at))
        return torch.stack(found, 1)

    def complete(self, maps: Tensor, seen: Observation) -> Tensor:
        """T^rounds @ c of every column c, less its mean."""
        rows = enumerate(maps.flatten(2))
        return torch.stack([self._refine(columns, of_row(seen.self_attention, i)) for i, columns in rows]).view_as(maps)

    def _refine(self, columns: Tensor, attention: Sequence[SelfAttention]) -> Tensor:
        """Those of one row, (C, N). What all cells share is taken off in each round: after ten little else is left of a
        map, of which float32 would keep few digits."""
        links = cut_weak_links(mean_matrix(attention), self.ent)
        columns = columns - columns.mean(-1, keepdim=True)
        for _ in range(self.rounds):
            columns = columns @ links.T
            columns = columns - columns.mean(-1, keepdim=True)
        return columns


def cut_weak_links(matrix: Tensor, ent: float) -> Tensor:
    """T of the self-attention matrix (N, N), in its place, some rows at a time."""
    tiny = torch.finfo(matrix.dtype).tiny
    largest = matrix.amax(0).clamp_min(tiny)
    for rows in matrix.split(BLOCK):
        rows /= largest
        rows += torch.where(rows > 0, ent * torch.log10(torch.e * rows), 0)
        rows.clamp_(min=0)
        rows /= rows.sum(-1, keepdim=True).clamp_min(tiny)
    return matrix
