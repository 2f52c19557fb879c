"""The nouns of the pipeline: what one room hands to the next. Frozen, plain, free of I/O.

Letters used everywhere: B images or expressions in a batch, L tokens of the text window, D width of an embedding,
H x W pixels, h x w latent cells, N = h * w.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

TEMPLATE = "a photograph of"  # what stands before every expression in the prompt, unless TextSettings say otherwise
IGNORED = 255  # in a label map: pixels that are not scored

ChunkRule = Literal["noun_chunk", "subtree"]
PrefixRule = Literal["none", "template"]
UncondRule = Literal["same", "eos", "mean"]
PoolingRule = Literal["mean", "last"]
MaskFormat = Literal["png", "rle", "npz"]
FigureWidth = Literal["single", "double"]
Missing = Literal["fail", "empty"]  # what an expression without a prediction is

# What keys of a configuration may be, where only a few values make sense.
CHOICES: Mapping[str, tuple[Any, ...]] = {
    "text_processor.chunk": get_args(ChunkRule),
    "text_processor.chunk_prefix": get_args(PrefixRule),
    "text_processor.uncond": get_args(UncondRule),
    "text_processor.token_pooling": get_args(PoolingRule),
    "text_processor.gate": (True, False),
    "text_processor.ing_rule": (True, False),
    "text_processor.ing_offsets": (1, 2, [1], [2], [1, 2]),
    "model.dtype": ("auto", "fp32", "fp16", "bf16"),
    "model.compile": (True, False),
    "model.tf32": (True, False),
    "model.resize": ("bicubic", "bilinear", "lanczos", "box", "hamming", "nearest"),
    "model.latents": ("mode", "sample"),
    "keep_maps": (True, False),
    "text_blind": (True, False),
    "figure.width": (None, "none", *get_args(FigureWidth)),
    "save_masks": (None, "none", *get_args(MaskFormat)),
    "missing": get_args(Missing),
}


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
    `slices` are labels to report by, such as {"pair": "rare"}; a list counts in each of its values. `object_id` names
    the object, `others` are all other annotated objects of the image, None where these are not known.
    """

    sample_id: str
    image_id: str
    image_path: Path
    text: str
    category: str | None
    segmentation: Any
    size: tuple[int, int]
    slices: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
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


class Phrase(NamedTuple):
    """One thing that an expression speaks of, in (start, end) characters of the expression: its noun chunk, the noun,
    and the words before the noun that say what it is like ("big" and "brown" of "the big brown dog")."""

    chunk: tuple[int, int]
    noun: tuple[int, int]
    attributes: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Parse:
    """What the parser saw in an expression; spans are (start, end) characters of the expression.

    `fallback` is None where the ordinary rule found the target, else the name of the rule that did. `modified`: the
    target has a modifier other than a determiner. `binding` is False where editing the embedding makes no sense.
    `modifiers`: what the rest of the expression speaks of, sorted, of "colour", "location", "relation", "other".
    `phrases`: all things that it speaks of, the target among them, in order; their chunks do not overlap.
    """

    text: str
    target: tuple[int, int]
    chunk: tuple[int, int]
    modified: bool
    binding: bool = True
    fallback: str | None = None
    modifiers: tuple[str, ...] = ()
    phrases: tuple[Phrase, ...] = ()

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
    """An expression placed in the prompt and in the model's text window.

    `q`: positions of the target noun; `pos`: positions of its noun chunk (POS in the paper), q among them; `read`: the
    positions whose cross-attention is meaned. `bind` is False where every variant keeps the plain embedding;
    `fallbacks` names every rule that was used besides the ordinary ones; `content`: the positions of all of the text.
    """

    text: str
    parse: Parse
    q: tuple[int, ...]
    pos: tuple[int, ...]
    read: tuple[int, ...]
    bind: bool
    fallbacks: tuple[str, ...] = ()
    content: tuple[int, ...] = ()

    @property
    def prefix(self) -> str:
        """What stands before the expression, with the space between."""
        return self.text.removesuffix(self.parse.text)


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
    """How an expression is read; every choice that the paper leaves open, the defaults stand for the paper.

    chunk: which words belong to the target's chunk; token_pooling: "mean" reads all pieces of the noun, "last" its last
    piece; gate: leave the embedding as it is where nothing modifies the target; ing_rule: DiffSegmenter's, see
    language/prompts.py, with ing_offsets, how far behind the noun it reads; overrides: parses corrected by hand, by
    expression; template: what stands before every expression in the prompt, "" for nothing.
    """

    chunk: ChunkRule = "noun_chunk"
    token_pooling: PoolingRule = "mean"
    gate: bool = True
    ing_rule: bool = False
    overrides: Mapping[str, Override] = field(default_factory=dict)
    template: str = TEMPLATE
    ing_offsets: tuple[int, ...] = (2,)

    @property
    def prefix(self) -> str:
        """The template with the space behind it."""
        return f"{self.template} " if self.template else ""


@dataclass(frozen=True)
class LayerChoice:
    """Which cross-attention makes a heat map: layers of these ratios and blocks (None = all that the heat-map method
    reads), and the weight of each ratio's map (None = the method's own)."""

    ratios: tuple[int, ...] | None = None
    blocks: tuple[str, ...] | None = None
    weights: Mapping[int, float] | None = None


@dataclass(frozen=True)
class MapSettings:
    """How attention becomes heat maps.

    timesteps: of 1000, each costs a pass, maps are averaged; None = the model's own (backbones/reading.py); draws:
    noise draws a timestep, averaged too; layers: which cross-attention is read; seed: of the noise; grid: further
    choices of layers by name, which cost no pass; keep: also make maps of weight 0, so that all can be kept.
    """

    timesteps: tuple[int, ...] | None = None
    draws: int = 1
    layers: LayerChoice = LayerChoice()
    seed: int = 0
    grid: Mapping[str, LayerChoice] = field(default_factory=dict)
    keep: bool = False
