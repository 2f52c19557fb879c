"""What heat-map methods are made of: means, resizing, completion by self-attention, min-max. Pure functions of tensors.

B rows of a batch, C columns (layers.py), (h, w) the latent grid, N = h * w, heads and d of an attention layer.
"""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from attrbind_exp.backbones.backbone import SelfAttention
from attrbind_exp.backbones.tensors import at_least_float32
from attrbind_exp.heatmaps.shapes import HEADS, check_floats
from attrbind_exp.language.window import as_slice
from attrbind_exp.memory import in_parts

COLUMNS, QUERIES = 8, 256  # of one product with attention that is made in blocks: 4 MB at 64 x 64 cells
RESIZED = "the number of heat maps that are resized together"


def min_max(maps: Tensor) -> Tensor:
    """(B, h, w) to [0, 1] row by row; a constant map becomes zeros."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)


def resize(maps: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """(B, h, w) to (B, *size), bilinear or bicubic, with pixel centres aligned as cv2 and torch do by default."""
    check_floats(maps, {"B": None, "h": None, "w": None}, HEADS, "resize ")
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps[:, None], size, mode=mode, align_corners=False)[:, 0]


def grid_at(ratio: int, latent: tuple[int, int]) -> tuple[int, int]:
    """The (h, w) of layers that work `ratio` times coarser than the latents: each halving rounds up."""
    return -(-latent[0] // ratio), -(-latent[1] // ratio)


def mean_map(layers: Sequence[Tensor], own: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Protocol 3.4 for one resolution, before its min-max: mean over layers (B, n) of `own` (h_r, w_r) cells, resized
    to `grid`. (B, h, w)."""
    for layer in layers:
        check_floats(layer, {"B": None, "n": own[0] * own[1]}, HEADS, "mean_map ")
    mean = torch.stack([at_least_float32(m) for m in layers]).mean(0).unflatten(-1, own)  # (B, h_r, w_r)
    return resize(mean, grid)


def is_flat(maps: Tensor, precision: torch.dtype) -> Tensor:
    """Which of the maps (.., h, w) made in `precision` are zero, so that nothing attends to what is read, or rise by
    less than ten units of its rounding, (..) bool: min-max would stretch an error to a tenth of the scale or more.
    Another constant map is none of them, it becomes zeros."""
    low, high = maps.amin((-2, -1)), maps.amax((-2, -1))
    zero = (high == 0) & (low == 0)
    return zero | (high > low) & (high - low < 10 * torch.finfo(precision).eps * high.abs())


def complete(columns: Tensor, full: Sequence[SelfAttention]) -> Tensor:
    """Protocol 3.5 for every column: S @ c with S the mean over heads and layers of full-resolution self-attention.

    `columns`: maps (B, C, h, w). Returns the like, float32 at least.
    """
    if not full:
        return columns
    flat = columns.flatten(2)  # (B, C, N)
    mean = flat.mean(-1, keepdim=True)
    # S @ (c - mean) = S @ c - mean, since rows of S sum to 1: half precision keeps more of a small difference.
    flat = flat - mean
    total = torch.zeros_like(flat)
    for layer in full:
        rows = as_slice(layer.rows)
        mine = flat[rows]  # (b, C, N)
        if len(layer.query) == 1:  # one image's rows share S: all their columns go through it together
            found = attend(layer, mine.flatten(0, 1)[None])[0].unflatten(0, mine.shape[:2])
        else:
            found = attend(layer, mine)
        total[rows] += found
    return (total / len({layer.layer for layer in full}) + mean).view_as(columns)


def attend(layer: SelfAttention, columns: Tensor) -> Tensor:
    """softmax(QK') @ c for columns c (b, C, N), mean over heads: (b, C, N).

    That IS attention with c as its value, so the fused kernel does it in O(N) memory. It wants values exactly as wide
    as keys, so columns go through it as many at a time, filled up with zeros. Where the pass kept the softmax's sums,
    there is a way without the zeros.
    """
    if layer.log_sums is not None:
        return _attend_by_sums(layer, layer.log_sums, columns)
    heads, width = layer.key.shape[1], layer.key.shape[-1]
    found = []
    for part in columns.split(width, dim=1):
        value = F.pad(part, (0, 0, 0, width - part.shape[1])).transpose(1, 2).contiguous().to(layer.key.dtype)
        value = value[:, None].expand(-1, heads, -1, -1)  # (b, heads, N, width)
        states = F.scaled_dot_product_attention(layer.query, layer.key, value, scale=layer.scale)
        found.append(at_least_float32(states[..., : part.shape[1]]).mean(1).transpose(1, 2))
    return torch.cat(found, 1)


def _attend_by_sums(layer: SelfAttention, log_sums: Tensor, columns: Tensor) -> Tensor:
    """The same, some queries by all keys at a time: exp(scale q k - log_sum) is the softmax, so a product, an
    exponential and a narrow product do it, in two thirds of the fused kernel's time on a CPU."""
    # The subtraction is one more coordinate: (scale q, -log_sum) (k, 1).
    queries = torch.cat([layer.query * layer.scale, -log_sums[..., None]], -1)  # (b, heads, N, d + 1)
    keys = torch.cat([layer.key, torch.ones_like(layer.key[..., :1])], -1)
    heads, cells = keys.shape[1:3]
    # A product's last bits depend on its shape, so columns always go COLUMNS at a time: none depends on the others.
    groups = F.pad(columns.to(keys.dtype), (0, 0, 0, -columns.shape[1] % COLUMNS))
    groups = groups.unflatten(1, (-1, COLUMNS))  # (b, G, COLUMNS, N)
    found = torch.zeros_like(groups)
    space = keys.new_empty(cells, min(QUERIES, cells))
    for row, head in product(range(len(keys)), range(heads)):
        for start in range(0, cells, QUERIES):
            some = slice(start, start + QUERIES)
            query = queries[row, head, some].T  # (d + 1, n)
            attention = torch.mm(keys[row, head], query, out=space[:, : query.shape[1]]).exp_()  # (N, n)
            for mine, group in zip(found[row], groups[row], strict=True):
                mine[:, some].addmm_(group, attention)
    return found.flatten(1, 2)[:, : columns.shape[1]] / heads


def combine(columns: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum over columns (M, C, h, w) with weights (M, C): (M, h, w)."""
    return (columns * weights[..., None, None]).sum(1)


def heat_map(completed: Tensor, size: tuple[int, int], sigmoid: Sequence[bool] = ()) -> Tensor:
    """Protocol 3.6: bilinear to the image's own (H, W), min-max to [0, 1]. (B, h, w) to (B, H, W). `sigmoid` says which
    of the B maps are sharpened, () = none."""

    def stretch(part: Sequence[int], _: int) -> list[Tensor]:
        return [min_max(resize(completed[part[0] : part[-1] + 1], size))]

    parts, _ = in_parts(stretch, range(len(completed)), max(1, len(completed)), RESIZED)
    heat = parts[0] if len(parts) == 1 else torch.cat(parts)
    for row in (i for i, sharp in enumerate(sigmoid) if sharp):
        heat[row] = sharpen(heat[row])
    return heat


def sharpen(heat: Tensor) -> Tensor:
    """DiffSegmenter's notebook: sigmoid(8 (x - 0.4)) of heat maps (.., H, W) in [0, 1], stretched to [0, 1] again."""
    return min_max(torch.sigmoid(8 * (heat - 0.4)))
