"""Pictures of any mode and orientation, read as upright RGB."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from stat import S_ISDIR, S_ISREG

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from attrbind_exp.data.digests import digest_bytes
from attrbind_exp.data.masks import UNREADABLE
from attrbind_exp.types import SampleError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")  # what data sets hold; decoders of others see no file
LARGEST_FILE = 2**31 - 1  # bytes
MOST_ELONGATED = 100  # times as long as wide: a model sees nothing in less than a line of its cells
# First bytes of formats that PIL, or an older one, cannot name, and where they stand.
OTHER_FORMATS = (
    ("AVIF", 4, b"ftypavif"),
    ("HEIF", 4, b"ftyphei"),
    ("HEIF", 4, b"ftypmif1"),
    ("JPEG XL", 0, b"\xff\n"),
    ("PDF", 0, b"%PDF"),
    ("JPEG XL", 4, b"JXL "),
    ("SVG", 0, b"<svg"),
    ("XML", 0, b"<?xml"),
)


def read_image(path: str | os.PathLike, size: tuple[int, int] | None = None) -> Image.Image:
    """The picture of `read_picture` without the digest."""
    return read_picture(path, size)[0]


def read_picture(path: str | os.PathLike, size: tuple[int, int] | None = None) -> tuple[Image.Image, str]:
    """A picture as RGB, and the digest of the very bytes that it was decoded from. Transparent pixels are laid on
    white, 16-bit greys are scaled to 8 bits.

    `size` is the (height, width) that an annotation gives. The stored pixels are taken if they have this size, else the
    picture after its EXIF rotation if that has it. Without `size` the EXIF rotation is always applied.

    Raises SampleError: "image_missing", "image_unreadable" (truncated, of none of FORMATS, or no file), "image_changed"
    (while it was read), "image_shape", "size_mismatch".
    """
    path = Path(path)
    with naming_what_is_wrong(path):
        content = _read_whole(path)
        with Image.open(BytesIO(content), formats=FORMATS) as opened:
            check_shape(opened, path)
            opened.load()
            stored: Image.Image = opened.copy()
        upright = ImageOps.exif_transpose(stored)
    digest = digest_bytes(content)
    if size is None or (_size(stored) != size and _size(upright) == size):
        return to_rgb(upright), digest
    if _size(stored) != size:
        raise SampleError(
            "size_mismatch", f"image '{path}' is {_size(stored)} (height, width), its annotation says {size}"
        )
    return to_rgb(stored), digest


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """The picture in a file, its pixels not read yet. Raises SampleError (see `read_picture`), also for what PIL raises
    while the picture is in use."""
    with naming_what_is_wrong(path):
        _check_file(path)
        with path.open("rb") as file:
            picture = Image.open(file, formats=FORMATS)
            check_shape(picture, path)
            yield picture


@contextmanager
def naming_what_is_wrong(path: Path) -> Iterator[None]:
    """While it lasts, what the system and PIL raise about a picture becomes a SampleError."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SampleError("image_missing", f"image '{path}' does not exist") from error
    except UnidentifiedImageError as error:
        found = _format_name(path)
        why = f"it is {found}; give {', '.join(FORMATS)}" if found else "it is no picture, or its beginning is damaged"
        raise SampleError("image_unreadable", f"image '{path}' cannot be decoded: {why}") from error
    except (*UNREADABLE, RuntimeError) as error:
        raise SampleError("image_unreadable", f"image '{path}' cannot be decoded: {error}") from error


def _check_file(path: Path) -> None:
    """Raise SampleError for what is no file. A pipe that is opened would be waited for."""
    about = path.stat()
    if not S_ISREG(about.st_mode):
        what = os.strerror(errno.EISDIR) if S_ISDIR(about.st_mode) else "it is a pipe, a socket or a device"
        raise SampleError("image_unreadable", f"image '{path}' is no file: {what}")
    if about.st_size > LARGEST_FILE:
        raise SampleError(
            "image_unreadable",
            f"image '{path}' has {about.st_size} bytes, more than {LARGEST_FILE}: no picture to score",
        )


def _read_whole(path: Path) -> bytes:
    """The bytes of a file, so that nobody can change them while they are decoded. Raises SampleError where it was
    written while it was read."""
    _check_file(path)
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        content = file.read(before.st_size + 1)
        after = os.fstat(file.fileno())
    if len(content) != before.st_size or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise SampleError("image_changed", f"image '{path}' was written while it was read; wait until it is whole")
    return content


def check_shape(image: Image.Image, path: Path) -> None:
    if max(image.size) > MOST_ELONGATED * min(image.size):
        raise SampleError(
            "image_shape",
            f"image '{path}' is {_size(image)} (height, width): one side is more than {MOST_ELONGATED} times the other",
        )


def _format_name(path: Path) -> str | None:
    """The format whose mark the file begins with, among all that PIL knows and OTHER_FORMATS; None for no mark."""
    with suppress(*UNREADABLE):  # the file may be gone by now, or too short for a mark
        with path.open("rb") as file:
            start = file.read(16)
        for name, place, mark in OTHER_FORMATS:
            if start[place:].startswith(mark):
                return name
        Image.init()
        for name in Image.ID:
            accept = Image.OPEN[name][1]
            if name not in FORMATS and accept and accept(start) is True:
                return name
    return None


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
