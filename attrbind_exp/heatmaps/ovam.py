"""OVAM's reading: cross-attention summed over heads and meaned over layers, without self-attention."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attrbind_exp.backbones.backbone import Layer, Observation, Request
from attrbind_exp.backbones.reading import Reading
from attrbind_exp.heatmaps import score_map
from attrbind_exp.heatmaps.layers import Column, find_columns, weigh_columns
from attrbind_exp.heatmaps.method import HeatMapMethod, cross_layers, share_of_layers
from attrbind_exp.types import LayerChoice


@dataclass(frozen=True)
class Ovam(HeatMapMethod):
    """c = mean over layers of bilinear(sum over heads of softmax(Q K(X)' / sqrt(d))_q), mean over the pieces of the
    target q.

    X is the text that is read: the prompt, or what edits with where="read" make of it. All cross-attention layers but
    those of the middle block are read, unless attention_layers names others, each layer counting alike. Source:
    "Open-Vocabulary Attention Maps" (Marcos-Manchon et al., 2024) and its published script. Departures: one noising
    step at the run's timestep in place of all steps of a generation; no token is optimized.
    """

    def columns(self, choice: LayerChoice, layers: Sequence[Layer], reading: Reading) -> dict[Column, float]:
        """One column a resolution; its weight is its share of the layers, or the choice's. Weights of its own take in
        all layers of the resolutions that they name."""
        weights = choice.weights or self.weights
        if choice.ratios is None and choice.blocks is None and self.weights is None:
            choice = LayerChoice(None, ("down", "up"), choice.weights)
        columns = find_columns(choice, layers)
        return weigh_columns(columns, weights) if weights else share_of_layers(columns, layers)

    def request(self, columns: Sequence[Column], layers: Sequence[Layer]) -> Request:
        """Cross-attention of the columns' layers. Heads apart, since layers may differ in how many they have."""
        return Request(cross=cross_layers(columns, layers), by_head=True)

    def raw_maps(self, seen: Observation, columns: Sequence[Column], grid: tuple[int, int]) -> Tensor:
        """The mean over layers of each column's maps, heads summed, on the latents' grid: (B, C, h, w)."""
        means = []
        for column in columns:
            layers = [seen.cross[x][:, 0].sum(1) for x in cross_layers([column], list(seen.cross))]  # (B, n) each
            means.append(score_map.mean_map(layers, score_map.grid_at(column.ratio, grid), grid))
        return torch.stack(means, 1)
