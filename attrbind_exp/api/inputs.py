"""What people have of a picture -> an upright RGB picture and the name it goes by."""

import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps

from attrbind_exp.data.images import check_shape, naming_what_is_wrong, read_image, to_rgb
from attrbind_exp.types import SampleError, UserError

Picture: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray | torch.Tensor

EXAMPLE = "white dog playing with two black dogs"
FORMS = (
    "a path, a PIL picture, an array (H, W), (H, W, 3) or (H, W, 4) of uint8 or of floats from 0 to 1, a tensor "
    "(3, H, W) of the same, or a list of these"
)


def read_input(picture: object) -> tuple[Image.Image, str]:
    """A picture in RGB, turned upright as its EXIF data say, and its file's name, "" where it has none.

    Transparent pixels are laid on white, 16-bit greys are scaled to 8 bits: as for the pictures of a dataset. Raises
    UserError for what is no picture.
    """
    given = _open(picture)
    name = str(given if isinstance(given, Path) else getattr(given, "filename", ""))
    try:
        return (read_image(given) if isinstance(given, Path) else _upright(given, name)), name
    except SampleError as error:
        mend = "the path of a readable picture" if isinstance(given, Path) else FORMS
        raise UserError(f"{error}; give {mend}") from error


def pair_up(image: object, text: object) -> tuple[list[object], list[tuple[int, str]], bool]:
    """The pictures, for every result the number of its picture and its expression, and whether several results are
    wanted: a list or tuple was given.

    One picture goes with every expression, one expression with every picture, and lists of the same length go pair by
    pair, where a picture that stands twice is one. Raises UserError for lists of different lengths, and for an
    expression that is none.
    """
    images = list(image) if isinstance(image, list | tuple) else None
    texts = [_expression(t) for t in text] if isinstance(text, list | tuple) else None
    if images is None:
        found = [_expression(text)] if texts is None else texts
        return [image], [(0, t) for t in found], texts is not None
    if texts is None:
        expression = _expression(text)
        return images, [(number, expression) for number in range(len(images))], True
    if len(images) != len(texts):
        raise UserError(
            f"pictures: {len(images)}, expressions: {len(texts)}; give as many of one as of the other, or one picture "
            "for all expressions, or one expression for all pictures"
        )
    distinct: list[object] = []
    pairs = []
    for picture, expression in zip(images, texts, strict=True):
        number = next((n for n, other in enumerate(distinct) if _is_same(other, picture)), len(distinct))
        distinct += [picture] if number == len(distinct) else []
        pairs.append((number, expression))
    return distinct, pairs, True


def _is_same(one: object, other: object) -> bool:
    """Whether a picture was given twice: the same object, or the same path."""
    if isinstance(one, str | os.PathLike) and isinstance(other, str | os.PathLike):
        return Path(one) == Path(other)
    return one is other


def _expression(text: object) -> str:
    """The text as it is. Raises UserError unless it says anything."""
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"expression={text!r}; say what to segment, such as {EXAMPLE!r}")
    return text


def _open(picture: object) -> Path | Image.Image:
    if isinstance(picture, str | os.PathLike):
        return Path(picture).expanduser()
    return picture if isinstance(picture, Image.Image) else _from_array(picture)


def _upright(image: Image.Image, name: str) -> Image.Image:
    """A picture of PIL's as read_image would give it. Raises SampleError."""
    shown = Path(name or "in memory")
    with naming_what_is_wrong(shown):
        check_shape(image, shown)
        return to_rgb(ImageOps.exif_transpose(image))


def _from_array(values: object) -> Image.Image:
    """An array or tensor as a picture of PIL's. Raises UserError for values of another kind, shape or range."""
    shape = tuple(getattr(values, "shape", ()))
    if isinstance(values, torch.Tensor):
        tensor = values.detach().cpu()
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        values = np.asarray(tensor.movedim(0, -1) if tensor.ndim == 3 else tensor)
    if not isinstance(values, np.ndarray):
        raise UserError(f"a picture of type {type(values).__name__}; give {FORMS}")
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    grey = values.ndim == 2
    if not values.size or not (grey or (values.ndim == 3 and values.shape[-1] in (3, 4))):
        raise UserError(f"a picture of shape {shape}; give {FORMS}")
    if values.dtype == np.uint8 or (grey and values.dtype == np.uint16):
        return Image.fromarray(values)
    low, high = (float(values.min()), float(values.max())) if values.dtype.kind in "biuf" else (np.nan, np.nan)
    if values.dtype.kind != "f" or not (low >= 0 and high <= 1):
        mend = "give uint8 from 0 to 255, or floats from 0 to 1 (divide by 255?)"
        raise UserError(f"a picture of {values.dtype} from {low:g} to {high:g}; {mend}")
    return Image.fromarray(np.rint(values * 255).astype(np.uint8))
