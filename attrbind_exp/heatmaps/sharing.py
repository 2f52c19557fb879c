"""Which embeddings share a row of a pass: those on one picture that are conditioned on the same and differ in what is
read."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attrbind_exp.backbones.backbone import Embedding
from attrbind_exp.types import Prompt


@dataclass(frozen=True)
class SharedRows:
    """The rows of a pass for M embeddings. `firsts`: the number of the first embedding of each row; `reads`: the texts
    (R_i, L, D) that are read on each row besides its keys; `places`: for each embedding its row, and which of that
    row's texts it reads, 0 = the keys."""

    firsts: list[int]
    reads: list[Tensor]
    places: list[tuple[int, int]]

    @property
    def texts(self) -> int:
        """The texts that are read on a row at most, its keys among them."""
        return 1 + max(len(texts) for texts in self.reads)

    def padded_reads(self, rows: int) -> list[Tensor]:
        """`reads` of so many rows: those that only fill up a pass have none."""
        return self.reads + [self.reads[0][:0]] * (rows - len(self.reads))


def share_rows(embeddings: Sequence[Embedding], prompts: Sequence[Prompt], images: Sequence[int]) -> SharedRows:
    """The rows for embeddings[i] of prompts[i] on the images[i]-th picture."""
    firsts: list[int] = []
    texts: list[list[Tensor]] = []
    places = []
    for i, embedding in enumerate(embeddings):
        same = (
            row
            for row, k in enumerate(firsts)
            if images[k] == images[i] and prompts[k] is prompts[i] and embeddings[k].shares_pass(embedding)
        )
        row = next(same, len(firsts))
        if row == len(firsts):
            firsts.append(i)
            texts.append([])
        if embedding.read is not None:
            texts[row].append(embedding.read)
        places.append((row, 0 if embedding.read is None else len(texts[row])))
    none = embeddings[0].keys.new_zeros(0, *embeddings[0].keys.shape)
    return SharedRows(firsts, [torch.stack(found) if found else none for found in texts], places)
