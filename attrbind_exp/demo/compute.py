"""A picture and expressions in, the heat maps of every edit, alpha and reading out, as few bytes as a browser needs.

M maps of H x W pixels, V variants, E distinct embeddings of a prompt, C columns of a pass.
"""

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attrbind_exp.backbones.backbone import encode_images
from attrbind_exp.backbones.tensors import overflowed
from attrbind_exp.data.images import open_picture, read_image
from attrbind_exp.edits import Variant
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.types import Prompt, SampleError, UserError

LEVELS = 200  # of heat, so that every threshold in steps of 0.01 lies on one: masks made of levels are exact
LONGEST_SIDE = 320  # pixels, at which heat is sent and shown
MOST_PIXELS = 24_000_000  # of a picture
MOST_CHARACTERS = 200  # of an expression
NOISE = "0"  # keys it, as in the command segment: the same picture gets the same


@dataclass(frozen=True)
class Compared:
    """A loaded model and what the page compares on it. `variants`: every method of edits at every alpha, read in every
    way; `batch_size`: rows of a pass at most."""

    segmenter: Segmenter
    variants: Sequence[Variant]
    batch_size: int

    def reading(self, variant: Variant) -> str:
        """How a variant reads attention, in words: "diffsegmenter", "daam layers=up"."""
        name = variant.heatmap or next(iter(self.segmenter.methods))
        return name if variant.layers is None else f"{name} layers={variant.layers}"


@dataclass(frozen=True)
class Seen:
    """What a model saw of one expression on one picture: completed maps (E, C, h, w), and for each of the V variants
    which of the E embeddings is its own."""

    prompt: Prompt
    completed: Tensor
    index: tuple[int, ...]


def open_limited(path: str) -> Image.Image:
    """The picture in a file, upright and RGB. Raises UserError for none, and for more than MOST_PIXELS."""
    try:
        with open_picture(Path(path)) as picture:
            width, height = picture.size
        if width * height > MOST_PIXELS:
            millions = MOST_PIXELS // 1_000_000
            raise UserError(f"the picture has {width} x {height} pixels; give one of at most {millions} million")
        return read_image(path)
    except SampleError as error:
        what = str(error).replace(path, Path(path).name)  # where uploads are kept is nobody's business
        raise UserError(f"{what}; give a JPEG, PNG, WebP or GIF") from error


def check_expression(text: str) -> str:
    """The expression without spaces around it. Raises UserError for one that is empty or too long."""
    text = " ".join(text.split())
    if not text:
        raise UserError("no expression; describe what to look for, such as: the red circle next to a yellow circle")
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"the expression has {len(text)} characters; give at most {MOST_CHARACTERS}")
    return text


@torch.no_grad()
def see(compared: Compared, image: Image.Image, texts: Sequence[str]) -> list[Seen]:
    """What the model sees of each text on one picture: all their embeddings share its latents and noise.

    Raises UserError for a text without a word that the model reads, and where half precision overflows.
    """
    segmenter = compared.segmenter
    prompts = segmenter.prepare(texts)
    if nameless := next((p for p in prompts if not p.q or "no_target" in p.fallbacks), None):
        raise UserError(f"{nameless.parse.text!r} names nothing; say what to look for, such as: the white dog")
    edited = segmenter.edit(prompts, compared.variants)
    latents, size = encode_images(segmenter.backbone, [image]), compared.batch_size
    relative = segmenter.compare_texts(latents, [NOISE], prompts, [0] * len(prompts), segmenter.settings.seed, size)
    rows = [
        (item.prompt, embedding, {} if blind else found)
        for item, found in zip(edited, relative, strict=True)
        for embedding, blind in zip(item.embeddings, item.blind, strict=True)
    ]
    mine, embeddings, weights = zip(*rows, strict=True)
    completed = segmenter.complete_in_parts(latents, [NOISE], mine, embeddings, [0] * len(rows), size, weights)
    if any(overflowed(latents)) or any(overflowed(completed)):
        raise UserError("half precision overflows on this picture; start the page with model.dtype=bf16 or fp32")
    split = completed.split([len(item.embeddings) for item in edited])
    return [Seen(item.prompt, part.clone(), tuple(item.index)) for item, part in zip(edited, split, strict=True)]


def heat_map(compared: Compared, seen: Seen, variant: int, size: tuple[int, int]) -> np.ndarray:
    """One variant's heat at a picture's (H, W), float32 in [0, 1]."""
    row = seen.completed[seen.index[variant]]
    return compared.segmenter.heat_map(row, size, compared.variants[variant]).values


def heat_maps(compared: Compared, seen: Seen, size: tuple[int, int]) -> tuple[np.ndarray, list[int]]:
    """The distinct heat maps (M, H, W) of all variants, float32 in [0, 1], and for each variant which is its own."""
    wanted = [(row, v.heatmap, v.layers) for row, v in zip(seen.index, compared.variants, strict=True)]
    distinct = list(dict.fromkeys(wanted))
    rows = torch.tensor([row for row, _, _ in distinct], device=seen.completed.device)
    readings = [(heatmap, layers) for _, heatmap, layers in distinct]
    made = compared.segmenter.start_heat_maps(seen.completed[rows], size, readings)()
    place = {key: number for number, key in enumerate(distinct)}
    return np.stack([heat.values for heat in made]), [place[key] for key in wanted]


def to_levels(heat: np.ndarray) -> np.ndarray:
    """Heat in [0, 1] as whole levels from 0 to LEVELS, uint8: the highest level that it reaches.

    A threshold of k / 100 is level 2k, and heat >= threshold exactly where its level is >= 2k.
    """
    steps = (np.arange(1, LEVELS + 1) / LEVELS).astype(np.float32)
    return np.searchsorted(steps, heat, side="right").astype(np.uint8)


def pack(levels: np.ndarray) -> str:
    """Bytes as text: deflated, then in base 64."""
    return base64.b64encode(zlib.compress(levels.tobytes(), 6)).decode("ascii")


def shown_size(image: Image.Image) -> tuple[int, int]:
    """The (height, width) at which a picture is shown: its own, or one of at most LONGEST_SIDE."""
    scale = min(1.0, LONGEST_SIDE / max(image.size))
    return max(1, round(image.height * scale)), max(1, round(image.width * scale))
