"""Noisy latents, the words of their prompts and a loss -> the latents after k steps."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from attrbind_exp.backbones.backbone import Backbone, Embedding, Layer, Observation, Request
from attrbind_exp.backbones.tensors import at_least_float32, pad_rows, to_device
from attrbind_exp.latent_steps.method import LatentSteps
from attrbind_exp.latent_steps.words import Words
from attrbind_exp.types import UserError

# Two things, one of them with an attribute: every method steps for it. Memory and speed are measured on it.
EXAMPLE = "white dog next to a black cat"


class Steps(Protocol):
    """Latents (B, c, h, w) at a timestep under an embedding, and of each row the words that it steps for (None = it
    keeps its latents) -> the latents that are read."""

    def __call__(self, noisy: Tensor, timestep: int, embedding: Embedding, words: Sequence[Words | None]) -> Tensor: ...


def make_steps(method: LatentSteps, backbone: Backbone) -> Steps:
    """How a method steps on a backbone. Raises UserError where that gives no gradient, or has no cross-attention at the
    method's ratio."""
    gradient = getattr(backbone, "gradient", None)
    if gradient is None:
        raise UserError(
            f"latent_steps={method.kind}: this model gives no gradient of its attention, "
            "which Stable Diffusion 1.x and 2.x do; use latent_steps=none"
        )
    ratios = sorted({layer.ratio for layer in backbone.layers if layer.cross})
    if method.ratio not in ratios:
        raise UserError(f"latent_steps.ratio={method.ratio}; this model has {', '.join(map(str, ratios))}")
    layers = tuple(layer for layer in backbone.layers if layer.cross and layer.ratio == method.ratio)

    def step(noisy: Tensor, timestep: int, embedding: Embedding, words: Sequence[Words | None]) -> Tensor:
        moving = [(row, own) for row, own in enumerate(words) if own is not None]
        if not moving or not method.steps:
            return noisy
        own = [found for _, found in moving]
        rows = to_device(torch.tensor([row for row, _ in moving]), noisy.device)
        index = pad_rows(rows, len(noisy))  # every pass of a run has as many rows
        z = at_least_float32(noisy[index])
        under = _rows_of(embedding, index)
        grid = tuple(-(-n // method.ratio) for n in noisy.shape[-2:])

        def loss(seen: Observation) -> Tensor:
            maps = mean_of_layers(seen, layers).unflatten(-1, grid)  # (B, L, h, w)
            return torch.stack([method.loss(maps[i], found) for i, found in enumerate(own)]).sum()

        length = embedding.keys.shape[-2]
        # Every position is read, whatever the prompts, so that a row's kernels do not depend on its neighbours.
        pools = torch.eye(length, device=noisy.device).expand(len(noisy), -1, -1)
        for _ in range(method.steps):
            z = z - method.size * gradient(z, timestep, under, Request(cross=layers), pools, loss)
        stepped = noisy.clone()
        stepped[rows] = z[: len(rows)].to(noisy.dtype)
        return stepped

    return step


def mean_of_layers(seen: Observation, layers: Sequence[Layer]) -> Tensor:
    """Cross-attention (B, L, n), meaned over heads and layers."""
    return torch.stack([seen.cross[layer].mean(2) for layer in layers]).mean(0)


def _rows_of(embedding: Embedding, index: Tensor) -> Embedding:
    """Some rows of a batch's embedding."""
    values, pooled = (None if part is None else part[index] for part in (embedding.values, embedding.pooled))
    return Embedding(embedding.keys[index], values, pooled)
