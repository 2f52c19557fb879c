"""What a segmenter gives back: one expression on one picture, or the same under several edits."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from attrbind_exp.api.drawing import THRESHOLD, Drawing, check_threshold
from attrbind_exp.reporting import maps
from attrbind_exp.tasks.task import Panel
from attrbind_exp.types import HeatMap, Prompt


@dataclass(frozen=True, eq=False, repr=False)
class Result(Drawing):
    """Where a model sees what an expression names, on one picture of H x W pixels.

        result.heat_map           # (H, W) float32 in [0, 1]
        result.mask(0.5)          # (H, W) bool
        result.show()             # photo, heat map, mask; result.save("out.png") writes the same

    `image`: the picture, RGB and upright; `edit`: the label of the edits, of latent steps, of a reading and a
    refinement, as tables have it ("baseline + syngen x3 refine=guided_filter"); `prompt`: what the model read, the
    positions of its words, and whether there is anything to bind (`prompt.text`, `.q`, `.pos`, `.bind`, `.fallbacks`);
    `about`: picture and model in a line.
    """

    image: Image.Image
    expression: str
    heat_map: np.ndarray
    prompt: Prompt
    edit: str
    about: str

    @property
    def target(self) -> str:
        """The noun that is segmented: "dog" of "white dog playing with two black dogs"."""
        return self.prompt.parse.target_text

    @property
    def chunk(self) -> str:
        """The target with its own modifiers: "white dog"."""
        return self.prompt.parse.chunk_text

    def mask(self, threshold: float = THRESHOLD) -> np.ndarray:
        """Where the heat reaches the threshold, (H, W) bool.

        0.5 is what the command segment takes, and the threshold of most figures in the paper. The best one depends on
        model and data: a run measures it (threshold=grid).
        """
        return HeatMap(self.heat_map).mask(check_threshold(threshold))

    def overlay(self, threshold: float = THRESHOLD) -> Image.Image:
        """The picture at its own size with the mask: outlined, and grey outside of it.

        The heat itself is never laid over a picture, whose own colours would be read as heat.
        """
        mask = {"mask": Panel("mask", self.mask(threshold), threshold)}
        return Image.fromarray(maps.render(mask, self.image, height=self.image.height)[0]["mask"])

    def panels(self, threshold: float) -> Mapping[str, Panel]:
        """The heat map, and the mask."""
        mask = Panel("mask", self.mask(threshold), threshold)
        return {self.edit: Panel("heat", self.heat_map, threshold), "mask": mask}

    def __repr__(self) -> str:
        height, width = self.heat_map.shape
        return f"Result({self.expression!r}, target {self.target!r}, {self.edit}, {height} x {width})"


class Comparison(Drawing, Mapping[str, Result]):
    """The results of several edits on one picture, from the same noise: a mapping by the words that were given, or by
    the edits' labels where they were given as objects.

        comparison["ncr"].mask(0.5)
        comparison.show()         # photo and heat maps side by side, all on one scale
    """

    def __init__(self, results: Mapping[str, Result]):
        self._results = dict(results)
        first = next(iter(self._results.values()))
        self.image, self.expression, self.about = first.image, first.expression, first.about

    def panels(self, threshold: float) -> Mapping[str, Panel]:
        """A heat map for every edit, by the edit's label."""
        return {result.edit: Panel("heat", result.heat_map, threshold) for result in self.values()}

    def __getitem__(self, name: str) -> Result:
        return self._results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    def __repr__(self) -> str:
        return f"Comparison({self.expression!r}, {', '.join(self)})"
