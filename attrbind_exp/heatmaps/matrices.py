"""Self-attention as a matrix, for methods that need it entry by entry. Pure functions of tensors.

N cells of a layer: an N x N matrix in float32 takes 67 MB at 64 x 64 cells, so one row of a batch is worked on at a
time.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from attrbind_exp.backbones.backbone import SelfAttention
from attrbind_exp.backbones.tensors import at_least_float32

ENTRIES = 2**22  # of all heads, made at once: 17 MB in float32


def of_row(attention: Sequence[SelfAttention], row: int) -> list[SelfAttention]:
    """Queries and keys (1, heads, N, d) of one row of a batch, layer by layer."""
    found = []
    for layer in attention:
        if row in layer.rows:
            i = 0 if len(layer.query) == 1 else list(layer.rows).index(row)
            found.append(replace(layer, query=layer.query[i : i + 1], key=layer.key[i : i + 1], rows=[row]))
    return found


def mean_matrix(layers: Sequence[SelfAttention]) -> Tensor:
    """softmax(QK') of one row, meaned over heads and over layers of one size: (N, N), float32 at least. Made in blocks
    of queries."""
    cells = layers[0].query.shape[2]
    total = at_least_float32(layers[0].query.new_zeros(cells, cells))
    for layer in layers:
        query, key = at_least_float32(layer.query[0]), at_least_float32(layer.key[0])  # (heads, N, d)
        size = max(1, ENTRIES // (len(query) * cells))
        for block, part in zip(total.split(size), query.split(size, 1), strict=True):
            block += torch.softmax(part * layer.scale @ key.mT, -1).mean(0)
    return total.div_(len(layers))
