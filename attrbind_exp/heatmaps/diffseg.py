"""DiffSeg's reading: self-attention of all resolutions cuts the picture into segments, cross-attention heats each."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from attrbind_exp.backbones.backbone import Layer, Observation, Request, SelfAttention
from attrbind_exp.backbones.reading import Reading
from attrbind_exp.heatmaps import score_map
from attrbind_exp.heatmaps.layers import Column, find_columns, weigh_columns
from attrbind_exp.heatmaps.matrices import mean_matrix, of_row
from attrbind_exp.heatmaps.method import HeatMapMethod, column_means, cross_layers
from attrbind_exp.types import LayerChoice, UserError

BLOCK = 256  # rows of a matrix that are worked on at once


@dataclass(frozen=True)
class DiffSeg(HeatMapMethod):
    """heat of a cell = mean of c over its segment, with c = sum over resolutions of mean(A_q), weighted by side.

    Segments: A = sum over resolutions of S_r, weighted by side, each row a map of the picture that sums to 1. A grid of
    points x points cells are anchors; each becomes the mean of all rows of A within D < tau of its own, D(a, b) = 1/2
    sum (a - b)(log a - log b). In each further round a map takes in all that are that close, in their order. A cell
    belongs to the map that is largest there. Source: "Diffuse, Attend, and Segment" (Tian et al., 2024) and its
    published script: 16 points, tau = 0.9, three rounds. Departures: attention of the expression's own pass at the
    run's timestep, where the script takes the empty prompt's at 300, so that no pass is added; distances in float32
    and not float16; no k-means afterwards (optional there); a cell's segment is chosen on the self-attention's grid and
    not after enlarging. The heat is ours, so that a threshold works as for all others: the script gives each segment
    one of several nouns, by a vote of its pixels.

    Memory: A has N x N numbers, 67 MB at 64 x 64 cells in float32, and at the peak twice that (measured), for one row
    of a pass after the other.
    """

    points: int = 16
    tau: float = 0.9
    rounds: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("points", self.points), ("rounds", self.rounds)):
            if type(value) is not int or value < 1:
                raise UserError(f"{name}={value!r} of a heatmap; give a whole number, 1 or more")
        if not isinstance(self.tau, int | float) or not self.tau > 0:
            raise UserError(f"tau={self.tau!r} of a heatmap; give a number above 0")

    def columns(self, choice: LayerChoice, layers: Sequence[Layer], reading: Reading) -> dict[Column, float]:
        """One column a resolution, with the choice's weights, else this method's, else by the cells of a side."""
        columns = find_columns(choice, layers)
        by_side = {column.ratio: 1 / column.ratio for column in columns}
        return weigh_columns(columns, choice.weights or self.weights or by_side)

    def request(self, columns: Sequence[Column], layers: Sequence[Layer]) -> Request:
        """Cross-attention of the columns' layers, queries and keys of all self-attention."""
        return Request(cross=cross_layers(columns, layers), queries_keys=tuple(x for x in layers if not x.cross))

    def raw_maps(self, seen: Observation, columns: Sequence[Column], grid: tuple[int, int]) -> Tensor:
        """The mean over heads and layers of each column, on the grid of the finest self-attention: (B, C, h', w')."""
        return column_means(seen, columns, grid)

    def complete(self, maps: Tensor, seen: Observation) -> Tensor:
        """The mean over its cell's segment of every column."""
        grid = (maps.shape[-2], maps.shape[-1])
        found = []
        for row, columns in enumerate(maps.flatten(2)):  # (C, N)
            segments = self.segments(aggregate(of_row(seen.self_attention, row), grid), grid)
            cells = F.one_hot(segments).to(columns.dtype)  # (N, segments), of which some may have no cell
            means = columns @ cells / cells.sum(0).clamp_min(1)
            found.append(means[:, segments])
        return torch.stack(found).view_as(maps)

    def segments(self, attention: Tensor, grid: tuple[int, int]) -> Tensor:
        """Which segment each of N cells belongs to, (N,), by all resolutions' attention (N, N)."""
        rows, columns = (torch.tensor(anchor_line(cells, self.points)) for cells in grid)
        anchors = (rows[:, None] * grid[1] + columns).flatten().to(attention.device)
        close = symmetric_kl(attention[anchors], attention) < self.tau
        close[torch.arange(len(anchors), device=close.device), anchors] = True
        maps = mean_of(close, attention)
        for _ in range(self.rounds - 1):
            maps = merge(maps, self.tau)
        return maps.argmax(0)


def aggregate(layers: Sequence[SelfAttention], grid: tuple[int, int]) -> Tensor:
    """Self-attention of all resolutions of one row, weighted by the cells of a side, on the `grid` of the finest:
    (N, N), of rows that sum to 1. A finer query looks where the coarser one at its place looks."""
    by_ratio = defaultdict(list)
    for layer in layers:
        by_ratio[layer.layer.ratio].append(layer)
    finest, whole = min(by_ratio), sum(1 / ratio for ratio in by_ratio)
    spread = {}
    for ratio, found in by_ratio.items():
        own = score_map.grid_at(ratio // finest, grid)
        spread[ratio] = score_map.resize(mean_matrix(found).unflatten(-1, own), grid).flatten(1)  # (n, N)
        spread[ratio] *= 1 / ratio / whole / spread[ratio].sum(-1, keepdim=True)
    total = spread.pop(finest)
    for ratio, maps in spread.items():
        own = score_map.grid_at(ratio // finest, grid)
        down, across = (torch.arange(fine) * coarse // fine for coarse, fine in zip(own, grid, strict=True))
        queries = (down[:, None] * own[1] + across).flatten().to(maps.device)
        for block, query in zip(total.split(BLOCK), queries.split(BLOCK), strict=True):
            block += maps[query]
    return total


def anchor_line(cells: int, points: int) -> list[int]:
    """At most so many places on a line of cells, evenly and as far apart as goes, in its middle."""
    points = min(points, cells)
    step = (cells - 1) // max(1, points - 1)
    first = (cells - 1 - step * (points - 1)) // 2
    return [first + step * i for i in range(points)]


def symmetric_kl(maps: Tensor, others: Tensor) -> Tensor:
    """D between every map (P, N) and every other one (Q, N): (P, Q). Some of the others at a time."""
    tiny = torch.finfo(maps.dtype).tiny
    logs = maps.clamp_min(tiny).log()
    entropy = (maps * logs).sum(-1, keepdim=True)
    found = []
    for part in others.split(BLOCK):
        log = part.clamp_min(tiny).log()
        found.append(entropy + (part * log).sum(-1) - maps @ log.T - logs @ part.T)
    return torch.cat(found, 1) / 2


def merge(maps: Tensor, tau: float) -> Tensor:
    """Maps (P, N) to fewer: in their order, one that no earlier one took in becomes the mean of all that are close."""
    close = (symmetric_kl(maps, maps) < tau).fill_diagonal_(True)
    taken, leading = torch.zeros(len(maps), dtype=torch.bool), []
    for i, near in enumerate(close.cpu()):
        if not taken[i]:
            leading.append(i)
            taken |= near
    return mean_of(close[leading], maps)


def mean_of(chosen: Tensor, maps: Tensor) -> Tensor:
    """The mean of the maps (P, N) that each row of `chosen` (Q, P) is true for: (Q, N)."""
    weights = chosen.to(maps.dtype)
    return weights @ maps / weights.sum(-1, keepdim=True)
