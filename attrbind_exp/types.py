"""The nouns of the pipeline: what one room hands to the next. Frozen, plain, free of I/O.

Letters used everywhere: B images or expressions in a batch, L tokens of the text window, D width of an embedding,
H x W pixels, h x w latent cells, N = h * w.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from attrbind_exp.scoring.metric import Metric

TEMPLATE = "a photograph of "  # what stands before every expression in the prompt
IGNORED = 255  # in a label map: pixels that are not scored

ChunkRule = Literal["noun_chunk", "subtree"]
PrefixRule = Literal["none", "template"]
UncondRule = Literal["same", "eos", "mean"]
PoolingRule = Literal["mean", "last"]


class UserError(ValueError):
    """Something that the user can mend; the message is one line naming the value, the choices and the mend."""


class SampleError(Exception):
    """One sample cannot be scored. `reason` is a short word to count by, the message says what was seen."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Other:
    """Another annotated object of a sample's image; `segmentation` in COCO's forms."""

    object_id: str
    category: str | None
    segmentation: Any


@dataclass(frozen=True)
class Sample:
    """One expression about one object of one image.

    `segmentation` is the object's mask in COCO's forms (list of polygons, or run-length encoding), None where there is
    no ground truth for this expression alone; `size` is the (height, width) that the annotation gives for the image.
    `slices` are labels to report by, such as {"pair": "rare"}. `object_id` names the object, `others` are all other
    annotated objects of the image, None where these are not known.
    """

    sample_id: str
    image_id: str
    image_path: Path
    text: str
    category: str | None
    segmentation: Any
    size: tuple[int, int]
    slices: Mapping[str, str] = field(default_factory=dict)
    object_id: str = ""
    others: Sequence[Other] | None = None


@dataclass(frozen=True)
class Region:
    """One annotated object of a scene: `label` is its class (1 ..), `segmentation` in COCO's forms, `area` in pixels;
    the pixels of a `crowd` are not scored."""

    label: int
    segmentation: Any
    area: float
    crowd: bool = False


@dataclass(frozen=True)
class Scene:
    """One image with all its objects, for class-wise evaluation; `size` is (height, width)."""

    image_id: str
    size: tuple[int, int]
    regions: tuple[Region, ...]


@dataclass(frozen=True)
class Variant:
    """One way of editing the text embedding.

    `replace`: noun chunk replacement (eq. 3); `alpha`: weight of the text in unconditioned embedding averaging
    (eq. 4), None = no averaging; `chunk_prefix`: what stands before the chunk where this variant encodes it, None = as
    TextSettings say; `layers`: which of MapSettings.grid makes its map, None = the settings' own choice. `name` and
    `alpha` tell variants apart and are what tables and summaries show; the name of a variant with layers ends in them.
    `heatmap`: the heat-map method that reads it where a run compares several, else None.
    """

    name: str
    replace: bool = False
    alpha: float | None = None
    chunk_prefix: PrefixRule | None = None
    layers: str | None = None
    heatmap: str | None = None

    @property
    def label(self) -> str:
        """Short unique name: "baseline", "attribute_binding alpha=0.9"."""
        return self.name if self.alpha is None else f"{self.name} alpha={self.alpha:g}"

    @property
    def edit(self) -> tuple[str, float | None]:
        """Name and alpha without the layers: variants of one edit share their passes."""
        return self.name.removesuffix(f" layers={self.layers}"), self.alpha


@dataclass(frozen=True)
class Parse:
    """What the parser saw in an expression; spans are (start, end) characters of the expression.

    `fallback` is None where the ordinary rule found the target, else the name of the rule that did. `modified`: the
    target has a modifier other than a determiner. `binding` is False where editing the embedding makes no sense.
    `modifiers`: what the rest of the expression speaks of, sorted, of "colour", "location", "relation", "other".
    """

    text: str
    target: tuple[int, int]
    chunk: tuple[int, int]
    modified: bool
    binding: bool = True
    fallback: str | None = None
    modifiers: tuple[str, ...] = ()

    @property
    def target_text(self) -> str:
        return self.text[slice(*self.target)]

    @property
    def chunk_text(self) -> str:
        return self.text[slice(*self.chunk)]


@dataclass(frozen=True)
class Override:
    """A parse corrected by hand; spans are (start, end) characters of the expression, chunk None = by the rules."""

    target: tuple[int, int]
    chunk: tuple[int, int] | None = None


@dataclass(frozen=True)
class Prompt:
    """An expression placed in the prompt and in the tokenizer's window.

    `q`: token positions of the target noun; `pos`: token positions of its noun chunk (POS in the paper), a superset of
    q. `bind` is False where every variant falls back to the plain embedding; `fallbacks` names every rule other than
    the ordinary ones that was used; `further`: positions that are read besides the noun's (TextSettings.ing_rule).
    """

    text: str
    parse: Parse
    q: tuple[int, ...]
    pos: tuple[int, ...]
    bind: bool
    fallbacks: tuple[str, ...] = ()
    further: tuple[int, ...] = ()


@dataclass(frozen=True)
class BoundPrompt:
    """What the UNet gets for one expression: `embedding` (L, D) and `weights` (L,), which sum to 1 over the target's
    tokens and say how the columns of cross-attention are pooled; these on the CPU."""

    embedding: "Tensor"
    weights: "Tensor"


@dataclass(frozen=True)
class HeatMap:
    """`values`: (H, W) float32 in [0, 1] at the image's own size; the mask at a threshold is values >= threshold."""

    values: np.ndarray

    def mask(self, threshold: float) -> np.ndarray:
        """(H, W) bool."""
        return self.values >= np.float32(threshold)


@dataclass(frozen=True)
class Failure:
    """A sample that could not be scored, and why: a short `reason` to count by and a message to read."""

    sample_id: str
    reason: str
    message: str


@dataclass(frozen=True)
class TextSettings:
    """Every choice on the text side that the paper leaves open; the defaults stand for the paper.

    chunk: which words are encoded alone; chunk_prefix: what stands before them then; uncond: which rows of the empty
    prompt are mixed in; token_pooling: how the pieces of the noun are pooled; gate: skip binding where nothing modifies
    the target; ing_rule: DiffSegmenter's, see processor.py; overrides: parses corrected by hand, by expression.
    """

    chunk: ChunkRule = "noun_chunk"
    chunk_prefix: PrefixRule = "none"
    uncond: UncondRule = "same"
    token_pooling: PoolingRule = "mean"
    gate: bool = True
    ing_rule: bool = False
    overrides: Mapping[str, Override] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerChoice:
    """Which cross-attention makes a score map: layers of these ratios and blocks (None = all), summed with the weight
    of each ratio's map (None = alike)."""

    ratios: tuple[int, ...] | None = None
    blocks: tuple[str, ...] | None = None
    weights: Mapping[int, float] | None = None


@dataclass(frozen=True)
class MapSettings:
    """How attention becomes a score map.

    timesteps: each costs a pass, maps are averaged; draws: noise draws a timestep, averaged too; weights: of each
    ratio's map in the sum (protocol 3.4); ratios, blocks: which cross-attention layers are read, None = all; seed: of
    the noise; grid: further choices by name, which cost no pass; keep: compute maps of weight 0, too, so that all can
    be kept.
    """

    timesteps: tuple[int, ...] = (100,)
    draws: int = 1
    weights: Mapping[int, float] | None = None
    ratios: tuple[int, ...] | None = None
    blocks: tuple[str, ...] | None = None
    seed: int = 0
    grid: Mapping[str, LayerChoice] = field(default_factory=dict)
    keep: bool = False

    @property
    def choice(self) -> LayerChoice:
        """The settings' own choice of layers."""
        return LayerChoice(self.ratios, self.blocks, self.weights)


@dataclass(frozen=True)
class RunSettings:
    """What one run does with its data.

    variants: what is compared; headline: the one that heads the summary; threshold: None = best of the grid;
    batch_size: passes at once; gallery: how many samples become pictures; changed: how many of the most improved and of
    the most harmed expressions do; seeds: of the noise, each costs a pass; shard: (k, n) takes every n-th image from
    the k-th on; keep_maps: leave the completed maps of every expression in the run's folder; metrics: the
    user's own, by name.
    """

    variants: Sequence[Variant]
    headline: int = -1
    threshold: float | None = None
    batch_size: int = 64
    gallery: int = 12
    changed: int = 20
    seeds: Sequence[int] = (0,)
    shard: tuple[int, int] = (0, 1)
    keep_maps: bool = False
    metrics: "Mapping[str, Metric]" = field(default_factory=dict)
