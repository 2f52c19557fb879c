"""Attention -> heat map, by the published recipe of DiffSegmenter. Pure functions of tensors.

B rows of a batch, (h, w) the latent grid, N = h * w, heads and d of an attention layer.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def min_max(maps: Tensor) -> Tensor:
    """(B, h, w) to [0, 1] row by row; a constant map becomes zeros."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h, w) to (B, *size), bilinear with pixel centres aligned as cv2 and torch do by default."""
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def grid_at(ratio: int, latent: tuple[int, int]) -> tuple[int, int]:
    """The (h, w) of layers that work `ratio` times coarser than the latents: each halving rounds up."""
    return -(-latent[0] // ratio), -(-latent[1] // ratio)


def initial_score_map(
    cross: Mapping[int, Sequence[Tensor]], weights: Mapping[int, float], latent: tuple[int, int]
) -> Tensor:
    """Protocol 3.4: mean over layers within a resolution, resize to the latent grid, min-max, weighted sum.

    `cross[ratio]`: maps (B, n) already averaged over heads. Returns (B, h, w).
    """
    total = None
    for ratio, layers in cross.items():
        grid = grid_at(ratio, latent)
        mean = torch.stack([m.float() for m in layers]).mean(0).unflatten(-1, grid)  # (B, n) -> (B, h_r, w_r)
        part = weights[ratio] * min_max(resize(mean, latent))
        total = part if total is None else total + part
    if total is None:
        raise ValueError("no cross-attention maps")
    return total


def complete(score: Tensor, full: Sequence[tuple[Tensor, Tensor, float]]) -> Tensor:
    """Protocol 3.5: S @ c with S the mean over heads and layers of full-resolution self-attention.

    `score`: c, (B, h, w); `full`: (query, key, scale) of each layer, (B, heads, N, d). Softmax(QK') @ c IS attention
    with c as its value, so the fused kernel does it in O(N) memory. Its CPU form wants values as wide as keys: c fills
    the first of d columns. Returns (B, h, w).
    """
    if not full:
        return score
    column = score.flatten(1)  # (B, N)
    total = torch.zeros_like(column)
    for query, key, scale in full:
        value = torch.zeros_like(key)
        value[..., 0] = column[:, None].to(key.dtype)
        total += F.scaled_dot_product_attention(query, key, value, scale=scale)[..., 0].float().mean(1)
    return (total / len(full)).unflatten(-1, tuple(score.shape[-2:]))


def heat_map(completed: Tensor, size: tuple[int, int]) -> Tensor:
    """Protocol 3.6: bilinear to the image's own (H, W), min-max to [0, 1]. (B, h, w) to (B, H, W)."""
    return min_max(resize(completed, size))
