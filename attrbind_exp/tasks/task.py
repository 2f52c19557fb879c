"""Door 4: what is scored. A task says what a row is, how heat maps become rows, and how rows become figures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import numpy as np
from PIL import Image

from attrbind_exp.edits import Variant
from attrbind_exp.runs.levels import Levels
from attrbind_exp.runs.maps import KeptMaps
from attrbind_exp.runs.rows import Row
from attrbind_exp.scoring.counting import MapCounts, Maps, is_finite
from attrbind_exp.scoring.figures import Reference, VariantFigures
from attrbind_exp.types import Failure, HeatMap, Prompt, Sample, SampleError

if TYPE_CHECKING:
    from torch import Tensor

TOGETHER = 2_500_000  # pixels of heat maps that are counted at once on a device, where each takes some 50 bytes
HeatOf = Callable[[Sample, Variant, int], np.ndarray]  # (H, W) of a sample under a variant and the n-th noise seed


@dataclass(frozen=True)
class Segmented:
    """One expression on its picture with its heat maps.

    `truth`: (H, W) bool, None without a ground truth; `heats`: every distinct heat map once; `index[variant][seed]`:
    which of them it is under a variant and noise seed; `grid`: (h, w) of the latents, on which the maps were made.
    Variants may share a map. All heat maps of an image may be more than fit into memory: go through them one by one.
    `make`: where maps are counted on a device, makes those of some numbers there, (M, H, W); else None.
    """

    sample: Sample
    image: Image.Image
    truth: np.ndarray | None
    prompt: Prompt
    heats: Sequence[HeatMap]
    index: Sequence[Sequence[int]]
    grid: tuple[int, int] | None = None
    make: "Callable[[Sequence[int]], Tensor] | None" = None

    def heat(self, variant: int, seed: int) -> HeatMap:
        """The heat map under the variant and noise seed of these numbers."""
        return self.heats[self.index[variant][seed]]

    def map_to_count(self, variant: int, seed: int) -> Maps:
        """The heat map (H, W) under the variant and noise seed of these numbers, where it is counted."""
        number = self.index[variant][seed]
        return self.heats[number].values if self.make is None else self.make([number])[0]

    def parts(self) -> Iterator[Maps]:
        """All heat maps in order, a few at a time, where they are counted: (M, H, W) each."""
        if self.make is None:
            yield from (heat.values[None] for heat in self.heats)
            return
        together = max(1, TOGETHER // (self.image.height * self.image.width))
        numbers = range(len(self.heats))
        yield from (self.make(numbers[i : i + together]) for i in numbers[::together])

    def check_finite(self) -> None:
        """Raise SampleError "not_finite" where half precision overflowed, rather than let such a map become a mask."""
        for heats in self.parts():
            check_finite(heats)


def check_finite(heats: Maps) -> None:
    """Raise SampleError "not_finite" where heat maps hold values that are not finite."""
    if not is_finite(heats):
        raise not_finite()


def check_counted(counts: MapCounts | None) -> MapCounts:
    """The counts. Raises SampleError "not_finite" where there are none."""
    if counts is None:
        raise not_finite()
    return counts


def not_finite() -> SampleError:
    """What is wrong with a heat map that holds values that are not finite."""
    return SampleError("not_finite", "a heat map holds values that are not finite; try model.dtype=bf16 or fp32")


@dataclass(frozen=True)
class SegmentedImage:
    """One image: its expressions with their heat maps, what failed in it, the digest of its picture's file ("" where
    none was read), and its completed maps where they are to be kept. `beside`: the context to count it in, so that a
    device which counts does it beside its passes."""

    image_id: str
    items: Sequence[Segmented]
    failures: Sequence[Failure]
    digest: str = ""
    kept: KeptMaps | None = None
    beside: Callable[[], AbstractContextManager[object]] = nullcontext


@dataclass(frozen=True)
class Tally:
    """How many expressions (or images) have figures, and how many were segmented but have no ground truth; how many of
    the prompts scored have a modifier to bind, and how often each fallback rule was used."""

    n_scored: int
    n_unscored: int
    n_bound: int
    fallbacks: Mapping[str, int]


@dataclass(frozen=True)
class Panel:
    """One panel of a picture: the photo itself, or `values` (H, W) of the same size: a "mask" (bool), a "heat" map
    (float32), "labels" (uint8).

    `threshold`: what the mask or the labels were made at, and whose mask is outlined on a heat map; None where there is
    none. `truth`: (H, W) bool, outlined on the panel. `names`: of classes, by label.
    """

    kind: Literal["photo", "mask", "heat", "labels"]
    values: np.ndarray | None = None
    threshold: float | None = None
    truth: np.ndarray | None = None
    names: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """A picture to be drawn of some samples of one image: the id it goes by, and its title."""

    name: str
    title: str
    samples: Sequence[Sample]


@dataclass(frozen=True)
class Gallery:
    """Pictures that belong together, and the variants that they show: all at one `threshold`, or each at its own."""

    name: str
    variants: Sequence[Variant]
    pictures: Sequence[Picture]
    threshold: float | None = None

    def threshold_of(self, variant: Variant, figures: Sequence[VariantFigures], headline: int) -> float | None:
        """The threshold at which a variant is shown. One that the run did not score has that of the variant that heads
        the run."""
        if self.threshold is not None:
            return self.threshold
        own = {f.label: f.threshold for f in figures}
        return own.get(variant.label, figures[headline].threshold)


class Task(Protocol):
    """A way of scoring a dataset. Rows come image by image, each image once; figures are made of rows alone, so that a
    run in one go, a resumed one and a merged one agree.

    `scored`: what a run counts, "expressions" or "images".
    """

    scored: ClassVar[str]

    def count(self, image: SegmentedImage) -> tuple[list[Row], list[Failure]]:
        """The rows of one image, and what of it could not be scored. Changes nothing: threads may call it."""
        ...

    def recount(self, rows: Sequence[Row], heat: HeatOf) -> list[Row]:
        """The rows that one image's `rows` become under other heat maps: what was read of the words stays."""
        ...

    def levels(self, rows: Sequence[Row], heat: HeatOf) -> Iterator[Levels]:
        """The heat of one image's `rows` as it can be taken away. Changes nothing: threads may call it."""
        ...

    def add_rows(self, rows: Sequence[Row]) -> None:
        """Add all rows of one image to the figures."""
        ...

    def tally(self) -> Tally:
        """How much was added."""
        ...

    def figures(self) -> list[VariantFigures]:
        """The figures of every variant."""
        ...

    def references(self) -> list[Reference]:
        """The floors and the ceiling between which the figures stand; none where the task has none."""
        ...

    def curve(self, variant: int) -> np.ndarray:
        """mIoU in percent of the variant of this number at all thresholds, (K,)."""
        ...

    def galleries(self, figures: Sequence[VariantFigures], shown: Sequence[Variant]) -> list[Gallery]:
        """Which samples become pictures; `shown`: the variants that a picture has room for."""
        ...

    def panels(
        self, items: Sequence[Segmented], gallery: Gallery, figures: Sequence[VariantFigures]
    ) -> Mapping[str, Panel]:
        """The panels of one picture, by name, from what was segmented under the gallery's variants."""
        ...


def spread_out(count: int, of: int) -> list[int]:
    """`count` numbers at even distances from 0 to `of` - 1; all where they are that few."""
    return [int(i) for i in np.linspace(0, of - 1, min(count, of)).astype(int)]
