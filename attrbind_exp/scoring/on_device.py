"""Counting in torch, for heat maps that lie on a device: what counting.py and classes.py do in numpy.

Pixels stay there, and a few hundred numbers a map come back; each function waits for them. M heat maps of N = H x W
pixels, P masks, K = 101 thresholds, C classes.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from attrbind_exp.memory import in_parts
from attrbind_exp.scoring import metrics
from attrbind_exp.scoring.metrics import EMPTY, HIT, OTHER
from attrbind_exp.types import IGNORED

TOGETHER = "the number of heat maps that are counted together"
EXACT = 2**24  # up to here float32, in which torch's histogram counts, has every whole number


def place(mask: np.ndarray, device: torch.device) -> Tensor:
    """A mask (H, W) on the device, (N,) bool."""
    return torch.from_numpy(np.ascontiguousarray(mask).ravel()).to(device)


def count_maps(heats: Tensor, masks: Sequence[Tensor]) -> np.ndarray:
    """What counting.count_maps counts, of heat maps (M, H, W) under masks that `place` placed: (M, 2 + 2 K + 2 P)
    float64, which holds every count exactly.

    In order: whether the map is finite; the first mask's area; the pixels outside of it, and in it, by the last
    threshold that they reach; which masks hold the peak; the mean heat on each mask. Where memory runs out, fewer maps
    are counted together.
    """

    def count(part: Sequence[int], _: int) -> list[list[float]]:
        return _count_together(heats[part[0] : part[-1] + 1], masks)

    found, _ = in_parts(count, range(len(heats)), max(1, len(heats)), TOGETHER)
    return np.array(found)


def _count_together(heats: Tensor, masks: Sequence[Tensor]) -> list[list[float]]:
    """The numbers of every map, as count_maps has them."""
    flat, under = heats.flatten(1).contiguous(), torch.stack(list(masks))  # (M, N), (P, N)
    levels = len(metrics.THRESHOLDS)
    table = histogram(find_level(flat) + levels * under[0], 2 * levels)
    peaks, areas = flat.argmax(1), under.sum(1)
    means = flat.double() @ under.T.double() / areas  # products in float32 may be rounded as TF32
    parts = [flat.isfinite().all(1, keepdim=True), areas[:1].expand(len(flat), 1), table, under[:, peaks].T, means]
    return torch.cat([part.double() for part in parts], 1).tolist()  # waits


def count_called(heats: Sequence[Tensor | np.ndarray], labels: Sequence[int], truth: np.ndarray) -> np.ndarray:
    """What classes.count_classes counts of the pixels that are called each of the `labels`, whose heat maps (H, W) lie
    on a device, against a label map `truth` (H, W) uint8: (C, 3, K) int64."""
    value, best = torch.stack([torch.as_tensor(heat) for heat in heats]).flatten(1).max(0)  # the first class wins a tie
    device, shape = value.device, (len(labels), OTHER + 1, len(metrics.THRESHOLDS))
    real, called = (torch.from_numpy(a).to(device) for a in (truth.ravel(), np.array(labels, np.uint8)))
    kind = torch.where(real == 0, EMPTY, torch.where(real == called[best], HIT, OTHER))
    code = torch.where(real == IGNORED, -1, (best * shape[1] + kind) * shape[2] + find_level(value))
    found = histogram(code[None], shape[0] * shape[1] * shape[2])
    return np.array(found[0].tolist(), np.int64).reshape(shape)


def find_level(heat: Tensor) -> Tensor:
    """The last row of THRESHOLDS that each value of [0, 1] reaches, int32 of the same shape: metrics.find_level.

    By search: a device divides by a number as it likes, which is not always to the last bit.
    """
    return torch.bucketize(heat, _thresholds(heat.device), right=True, out_int32=True) - 1


def histogram(codes: Tensor, count: int) -> Tensor:
    """How often each row of whole numbers (M, N) holds 0, 1 .. count - 1, (M, count) int64; others count nowhere."""
    first = torch.arange(len(codes), device=codes.device)[:, None] * count
    known = torch.where((codes >= 0) & (codes < count), codes + first, -1)
    # histc asks nothing back from the device, unlike bincount.
    rows = count * len(codes)
    parts = [torch.histc(part, rows, -0.5, rows - 0.5) for part in known.flatten().float().split(EXACT)]
    return torch.stack(parts).long().sum(0).unflatten(0, (len(codes), count))


@lru_cache(8)
def _thresholds(device: torch.device) -> Tensor:
    return torch.from_numpy(metrics.THRESHOLDS).to(device)
