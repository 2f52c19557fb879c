"""The figures of a variant, as tables, pages and summary.json show them. In percent where nothing else is said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


class Named(Protocol):
    """What figures need to know of a variant: the names under which they stand."""

    @property
    def name(self) -> str: ...
    @property
    def alpha(self) -> float | None: ...
    @property
    def label(self) -> str: ...


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` expressions with its 95 % interval over images. `mean` is None where n is 0; `low` and `high` are
    None where there is a single image."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """How much a second variant scores above a first one, in the unit of the scores, with its 95 % interval; and how
    many expressions (or images) got better, worse, and stayed the same. `p`: how probable a mean this far from zero is
    where there is no difference, two-sided. `low`, `high` and `p` are None where there is a single image; `p` also in
    summaries of earlier versions, and so are `images`: how many there are.

    The mean compares each variant at its own threshold. The counts compare both at one threshold, the first variant's:
    so a change is one of the heat map, and equal heat maps are always the same.
    """

    mean: float
    low: float | None
    high: float | None
    better: int
    worse: int
    same: int
    p: float | None = None
    images: int | None = None


@dataclass(frozen=True)
class Binding:
    """Where the heat lies among the annotated objects of an image.

    `peak`: share of expressions whose highest heat lies on "target", "distractor", "other", "background";
    `peak_rivals`: the same where there is a distractor, which is another object of the target's category; `heat_ratio`:
    mean heat on the target over mean heat on the hottest distractor (geometric mean, no percentage).

    Of pairs such as "the white star", "the black star": `moved`: the share in percent in which the swapped word moves
    heat towards the object that it names; `shift`: by how much, as a log ratio (no percentage).
    """

    peak: Mapping[str, Estimate]
    peak_rivals: Mapping[str, Estimate]
    heat_ratio: Estimate
    moved: Estimate
    shift: Estimate


@dataclass(frozen=True)
class Reference:
    """What the figures of heat maps stand between: a floor or the ceiling, called `name`.

    `mIoU` over `n` expressions in percent at its best `threshold` of the paper's grid; `mIoU_at`: at all of them. A
    reference without thresholds has None and nothing there.
    """

    name: str
    mIoU: float
    threshold: float | None
    mIoU_at: Mapping[str, float]
    n: int

    @property
    def is_floor(self) -> bool:
        """Whether it is a floor."""
        return self.name.startswith("floor")


@dataclass(frozen=True)
class Beyond:
    """What a variant's last edit adds: its `difference` to the variant without it, whose label is `than`."""

    than: str
    difference: Difference


@dataclass(frozen=True)
class SliceFigures:
    """The expressions of one slice value (or one class): mIoU, how many they are, and the share of peaks on each place
    (see Binding) where that is known."""

    mIoU: float
    n: int
    peak: Mapping[str, float] | None = None


@dataclass(frozen=True)
class VariantFigures:
    """All figures of one variant.

    `text_processor`, `alpha` and `label` name it; `mIoU` at `threshold`; `mIoU_at`: by threshold of the paper's grid
    ("0.30"); `oIoU`: pooled intersection over pooled union, None class-wise; `precision`: share of expressions with an
    IoU of at least "0.5" .. "0.9"; `n`: expressions or images; `slices`: by slice name and value; `mIoU_by_seed` and
    `mIoU_spread` (standard deviation) where there are several noise seeds; `binding` where the other objects of the
    images are known; `difference` to the run's first variant; `beyond`: what its last edit adds, where the run also has
    the variant without it; `metrics`: the figures of metrics that the user added.
    """

    text_processor: str
    alpha: float | None
    label: str
    mIoU: float | None
    threshold: float | None
    mIoU_at: Mapping[str, float | None]
    oIoU: float | None
    precision: Mapping[str, float | None]
    n: int
    slices: Mapping[str, Mapping[str, SliceFigures]] = field(default_factory=dict)
    mIoU_by_seed: Sequence[float] | None = None
    mIoU_spread: float | None = None
    binding: Binding | None = None
    difference: Difference | None = None
    beyond: Beyond | None = None
    metrics: Mapping[str, Estimate] = field(default_factory=dict)


def without_alpha(label: str, alpha: float | None) -> str:
    """A variant's label without its alpha: what the points of one curve over alpha have in common."""
    return label if alpha is None else label.replace(f" alpha={alpha:g}", "", 1)
