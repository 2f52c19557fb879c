"""The rows of passes, and the passes that give them their maps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attrbind_exp.backbones.backbone import Embedding
from attrbind_exp.evaluation.loading import LoadedSample
from attrbind_exp.evaluation.weighing import Weights
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.memory import in_parts
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.types import Failure


@dataclass
class PassRow:
    """One picture under an embedding, or under several that share a pass, of which the prompt's positions are read: a
    row of a pass. `weights`: the relative losses of its text by noise seed (see weighing). `maps`: the completed maps
    (R, C, h, w) of its R embeddings by noise seed, once they are made; the embeddings, which are larger, are let go
    then."""

    loaded: LoadedSample
    embeddings: Sequence[Embedding]
    weights: Weights = field(default_factory=dict)
    maps: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadedExpression:
    """One expression with the rows that it needs. `places`: for every distinct embedding its row, and which of the
    row's embeddings it is; `index[variant]` says which of the distinct ones a variant reads. `new`: the rows that no
    earlier expression of the image has."""

    loaded: LoadedSample
    rows: Sequence[PassRow]
    places: Sequence[tuple[int, int]]
    index: Sequence[int]
    new: Sequence[PassRow]

    def maps(self, embedding: int, seed: int) -> Tensor:
        """The completed maps (C, h, w) of a distinct embedding."""
        row, number = self.places[embedding]
        return self.rows[row].maps[seed][number]


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
        _, self.size = in_parts(self._complete, rows, self.size, "batch_size")

    def _complete(self, part: Sequence[PassRow], size: int) -> Sequence[PassRow]:
        """The rows of one pass, with the completed maps (R, C, h, w) of their embeddings by seed."""
        pictures = {row.loaded.sample.image_id: row.loaded.latents for row in part}
        ids, latents = list(pictures), torch.stack(list(pictures.values()))
        each = [(row.loaded, embedding) for row in part for embedding in row.embeddings]
        images = [ids.index(loaded.sample.image_id) for loaded, _ in each]
        prompts, embeddings = [loaded.prompt for loaded, _ in each], [embedding for _, embedding in each]
        counted, maps = self.segmenter.flat, {}
        try:
            for seed in self.seeds:
                relative = [row.weights.get(seed, {}) for row in part for _ in row.embeddings]
                maps[seed] = self.segmenter.complete(latents, ids, prompts, embeddings, seed, size, images, relative)
        except RuntimeError:  # memory, perhaps: then every seed's pass is made again, and counted then
            self.segmenter.flat = counted
            raise
        counts = [len(row.embeddings) for row in part]
        for seed, found in maps.items():
            for row, columns in zip(part, found.split(counts), strict=True):
                row.maps[seed] = columns
        for row in part:
            row.embeddings = ()
        return part
