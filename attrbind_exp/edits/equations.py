"""Equations 3 to 5 of the paper: edits of a prompt's embedding. Pure functions of tensors.

E: the prompt's embedding (L, D). U: the empty prompt's (L, D). R: the noun chunk encoded on its own (m, D).
POS: positions of the chunk in the prompt, q: positions of the target noun, a subset of POS.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from attrbind_exp.types import PoolingRule, UncondRule


def consecutive(rows: Sequence[int]) -> slice | list[int]:
    """Rows as a slice where they follow each other: an index would have to be sent to the device."""
    first, last = rows[0], rows[-1]
    return slice(first, last + 1) if list(rows) == list(range(first, last + 1)) else list(rows)


def replace_noun_chunk(E: Tensor, R: Tensor, pos: Sequence[int]) -> Tensor:
    """Eq. 3: the rows POS of E become R, in order. Returns a new (L, D).

    Raises ValueError unless R has one row for every position.
    """
    if len(R) != len(pos):
        raise ValueError(f"R has {len(R)} rows for {len(pos)} positions")
    bound = E.clone()
    bound[consecutive(pos)] = R
    return bound


def average_with_unconditioned(E: Tensor, U: Tensor, q: Sequence[int], alpha: float) -> Tensor:
    """Eq. 4: the rows q become alpha * E_q + (1 - alpha) * U_q; E may hold R already. Returns a new (L, D).

    alpha = 1 changes nothing, alpha < 1 takes weight from the target noun, alpha > 1 adds to it (DiffSegmenter's
    up-weighting by compel's `++` is alpha = 1.21).
    """
    bound = E.clone()
    rows = consecutive(q)
    bound[rows] = alpha * E[rows] + (1 - alpha) * U[rows]
    return bound


def unconditioned_rows(U: Tensor, rule: UncondRule) -> Tensor:
    """U as eq. 4 reads it, (L, D): "same" takes the row of the same position (what the paper's Structured Diffusion
    ancestry suggests), "eos" the empty prompt's end token everywhere, "mean" the mean of all rows after BOS."""
    if rule == "same":
        return U
    row = U[1] if rule == "eos" else U[1:].mean(0)
    return row.expand_as(U)


def pooling_weights(q: Sequence[int], length: int, rule: PoolingRule, further: Sequence[int] = ()) -> Tensor:
    """(L,) weights over token positions that pool a noun of several pieces: their mean, or the last piece alone, and in
    the same mean the positions `further`."""
    weights = torch.zeros(length)
    rows = [*(q if rule == "mean" else q[-1:]), *further]
    weights[rows] = 1 / len(rows)
    return weights
