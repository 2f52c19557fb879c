"""Pictures of any mode and orientation, read as upright RGB."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from attrbind_exp.types import SampleError


def read_image(path: str | os.PathLike, size: tuple[int, int] | None = None) -> Image.Image:
    """A picture as RGB. Transparent pixels are laid on white, 16-bit greys are scaled to 8 bits.

    `size` is the (height, width) that an annotation gives. The stored pixels are taken if they have this size, else the
    picture after its EXIF rotation if that has it. Without `size` the EXIF rotation is always applied.

    Raises SampleError: "image_missing", "image_unreadable" (truncated, or no picture), "size_mismatch".
    """
    path = Path(path)
    if not path.is_file():
        raise SampleError("image_missing", f"image '{path}' does not exist")
    try:
        with Image.open(path) as opened:
            opened.load()
            stored: Image.Image = opened.copy()
        upright = ImageOps.exif_transpose(stored)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SampleError("image_unreadable", f"image '{path}' cannot be decoded: {error}") from error
    if size is None or (_size(stored) != size and _size(upright) == size):
        return to_rgb(upright)
    if _size(stored) != size:
        raise SampleError(
            "size_mismatch", f"image '{path}' is {_size(stored)} (height, width), its annotation says {size}"
        )
    return to_rgb(stored)


def _size(image: Image.Image) -> tuple[int, int]:
    return image.height, image.width


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture in RGB, from any PIL mode. 16-bit values are scaled, not clipped. Transparent pixels are laid on
    white, so that the colours hidden in them do not show."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float64)
        scale = 257.0 if image.mode.startswith("I;16") or values.max(initial=0) > 255 else 1.0
        return Image.fromarray(np.clip(values / scale + 0.5, 0, 255).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return image.convert("RGB")
