"""DAAM's reading: cross-attention of all heads, upsampled and averaged, without self-attention."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attrbind_exp.backbones.backbone import Layer, Observation, Request
from attrbind_exp.backbones.reading import Reading
from attrbind_exp.heatmaps import score_map
from attrbind_exp.heatmaps.layers import Column, cross_blocks, find_columns, weigh_columns
from attrbind_exp.heatmaps.method import HeatMapMethod, cross_layers, pool_pieces, share_of_layers
from attrbind_exp.types import LayerChoice


@dataclass(frozen=True)
class Daam(HeatMapMethod):
    """c = mean over layers and heads of max(bicubic(A_q), 0), mean over the pieces of the target q.

    All cross-attention layers but those of the coarsest resolution are read, unless attention_layers names others, each
    layer counting alike. Source: "What the DAAM" (Tang et al., 2023). Departures: one noising step at the run's
    timestep in place of all steps of a generation; the heat map is resized to the picture bilinearly, as every method's
    is, where DAAM's is bicubic.

    normalize: c is divided by 1e-6 plus the same mean of the sum over all of the text's tokens (without the start, the
    end and the padding), which shows where the target has more of what the words get. A further departure: that sum is
    cut off at zero as a whole and not token by token. It is always of all layers but the coarsest, so that a choice of
    layers changes no other one's map.
    """

    normalize: bool = False

    def columns(self, choice: LayerChoice, layers: Sequence[Layer], reading: Reading) -> dict[Column, float]:
        """One column a resolution; its weight is its share of the layers, or the choice's. Weights of its own take in
        all layers of the resolutions that they name."""
        weights = choice.weights or self.weights
        if choice.ratios is None and choice.blocks is None and self.weights is None:
            choice = LayerChoice(_all_but_the_coarsest(layers), None, choice.weights)
        columns = find_columns(choice, layers)
        return weigh_columns(columns, weights) if weights else share_of_layers(columns, layers)

    def request(self, columns: Sequence[Column], layers: Sequence[Layer]) -> Request:
        """Cross-attention of the columns' layers, heads apart; of all layers where the sum over tokens is needed."""
        cross = tuple(x for x in layers if x.cross) if self.normalize else cross_layers(columns, layers)
        return Request(cross=cross, by_head=True)

    def pools(self, read: Sequence[int], length: int, content: Sequence[int] = ()) -> Tensor:
        """(K, L): every piece by itself, since negative values are cut off before pieces are averaged. Each counts 1 /
        K, so that their sum is the mean. Before them the sum over all tokens, where it is needed."""
        pieces = pool_pieces(read, length)
        words = torch.zeros(1, length)
        words[0, list(content)] = 1
        return torch.cat([words, pieces]) if self.normalize else pieces

    def raw_maps(self, seen: Observation, columns: Sequence[Column], grid: tuple[int, int]) -> Tensor:
        """The mean over layers and heads of each column's maps, on the latents' grid: (B, C, h, w)."""
        layers = list(seen.cross)
        pieces = slice(1 if self.normalize else 0, None)
        maps = torch.stack([_mean(seen, cross_layers([column], layers), pieces, grid) for column in columns], 1)
        if not self.normalize:
            return maps
        ratios = _all_but_the_coarsest(layers)
        words = _mean(seen, [x for x in layers if x.ratio in ratios], slice(1), grid)
        return maps / (words[:, None] + 1e-6)


def _all_but_the_coarsest(layers: Sequence[Layer]) -> tuple[int, ...]:
    """The ratios of cross-attention but the coarsest, finest first; that one where it is alone."""
    ratios = sorted(cross_blocks(layers))
    return tuple(ratios[:-1] or ratios)


def _mean(seen: Observation, layers: Sequence[Layer], pools: slice, grid: tuple[int, int]) -> Tensor:
    """The sum of some poolings, each upsampled and cut off at zero, meaned over heads and layers: (B, h, w)."""
    found = []
    for layer in layers:
        own = score_map.grid_at(layer.ratio, grid)
        maps = seen.cross[layer][:, pools].unflatten(-1, own)  # (B, K, heads, h_r, w_r)
        upsampled = score_map.resize(maps.flatten(0, 2), grid, "bicubic").clamp_min(0)
        found.append(upsampled.unflatten(0, maps.shape[:3]).sum(1).mean(1))
    return torch.stack(found).mean(0)
