"""The rows of passes, and the passes that give them their maps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attrbind_exp.backbones.backbone import Embedding
from attrbind_exp.evaluation.loading import LoadedSample
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.log import log
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.types import Failure


@dataclass
class PassRow:
    """One picture under one embedding, of which the prompt's positions are read: a row of a pass. `maps`: its completed
    maps (C, h, w) by noise seed, once they are made; the embedding, which is larger, is let go then."""

    loaded: LoadedSample
    embedding: Embedding | None
    maps: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadedExpression:
    """One expression with the rows that it needs: one for every distinct embedding; `index[variant]` says which of them
    a variant reads. `new`: those of them that no earlier expression of the image has."""

    loaded: LoadedSample
    rows: Sequence[PassRow]
    index: Sequence[int]
    new: Sequence[PassRow]


@dataclass(frozen=True)
class LoadedImage:
    """One image on its way: how many expressions it has, those that are still to come, and what failed so far. `items`
    are the expressions that came; they grow."""

    image_id: str
    expected: int
    coming: Iterator[LoadedExpression]
    failures: Sequence[Failure]
    items: list[LoadedExpression] = field(default_factory=list)

    @property
    def rows(self) -> list[PassRow]:
        """The rows of all expressions that came."""
        return [row for item in self.items for row in item.rows]

    @property
    def has_all_maps(self) -> bool:
        """Whether all expressions came and every row has its maps."""
        return len(self.items) == self.expected and all(row.maps for row in self.rows)


class Batcher:
    """Makes passes of `size` rows. Where memory runs out the size is halved and the pass made again."""

    def __init__(self, segmenter: Segmenter, settings: RunSettings):
        self.segmenter, self.seeds, self.size = segmenter, settings.seeds, settings.batch_size

    def run(self, rows: Sequence[PassRow]) -> None:
        """Give every row its maps."""
        while rows:
            part = rows[: self.size]
            if (maps := self._complete(part)) is None:
                self._halve()
                continue
            for seed, found in maps.items():
                for row, columns in zip(part, found, strict=True):
                    row.maps[seed] = columns
            for row in part:
                row.embedding = None
            rows = rows[len(part) :]

    def _complete(self, part: Sequence[PassRow]) -> dict[int, Tensor] | None:
        """Completed maps (B, C, h, w) by seed, None where they do not fit into memory."""
        pictures = {row.loaded.sample.image_id: row.loaded.latents for row in part}
        ids, latents = list(pictures), torch.stack(list(pictures.values()))
        images = [ids.index(row.loaded.sample.image_id) for row in part]
        prompts, embeddings = (
            [row.loaded.prompt for row in part],
            [row.embedding for row in part if row.embedding is not None],
        )
        try:
            return {
                seed: self.segmenter.complete(latents, ids, prompts, embeddings, seed, self.size, images)
                for seed in self.seeds
            }
        except torch.OutOfMemoryError:
            if self.size == 1:
                raise
            return None

    def _halve(self) -> None:
        # Not in the except clause: there the error still holds the tensors that were too many.
        self.size //= 2
        torch.cuda.empty_cache()
        log.warning(f"WARNING: out of memory: batch_size is {self.size} from here on")
