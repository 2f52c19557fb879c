"""Digests of data, kept in rows: a run that goes on finds out whether pictures or annotations were edited meanwhile."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from stat import S_ISREG
from typing import Any

from attrbind_exp.types import Sample, Scene


def digest_bytes(content: bytes) -> str:
    """Sixteen hex digits of a file's content."""
    return hashlib.sha256(content).hexdigest()[:16]


def digest_file(path: Path) -> str | None:
    """The same of a file on the disk, None where it cannot be read; a pipe or a folder is not opened."""
    try:
        if not S_ISREG(path.stat().st_mode):
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except (OSError, ValueError):  # a name with a NUL is a ValueError
        return None


def digest_annotations(samples: Sequence[Sample], scene: Scene | None = None) -> str:
    """Sixteen hex digits of all that is said of one image: its expressions, masks (PNG files by their content), other
    objects, slices, and the regions of its scene."""
    said, masks = _said(samples)
    found = hashlib.sha256(_write((said, sorted(masks.items()), scene)))
    for _, segmentation in masks.values():
        for file in _list_files(segmentation):
            found.update((digest_file(Path(file)) or "missing").encode())
    return found.hexdigest()[:16]


def digest_dataset(images: Mapping[str, Sequence[Sample]], scenes: Mapping[str, Scene]) -> str:
    """Twelve hex digits of the same of all images, in whatever order. A mask in a PNG file counts by its name: reading
    all of them would keep a run waiting, and every row has a digest of what it was counted with."""
    found = hashlib.sha256()
    for image in sorted(images):
        said, masks = _said(images[image])
        found.update(_write((image, said, sorted(masks.items()), scenes.get(image))))
    return found.hexdigest()[:12]


def _said(samples: Sequence[Sample]) -> tuple[list[tuple], dict[str, tuple[str | None, Any]]]:
    """What is said of an image's expressions, and category and mask of every object by its id."""
    said = [(s.sample_id, s.text, s.category, s.object_id, s.size, sorted(s.slices.items())) for s in samples]
    # Every object once: expressions share them.
    masks = {s.object_id or s.sample_id: (s.category, s.segmentation) for s in samples}
    for sample in samples:
        for other in sample.others or ():
            masks.setdefault(other.object_id, (other.category, other.segmentation))
    return said, masks


def _write(data: Any) -> bytes:
    """The same bytes for equal data."""
    try:
        return repr(data).encode("utf-8", "backslashreplace")
    except RecursionError:  # no mask that is nested so deeply can be scored
        return b"too deep"


def _list_files(segmentation: Any) -> Iterator[str]:
    """The PNG files that a segmentation names."""
    waiting = [segmentation]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if isinstance(name := part.get("png"), str | Path):
                yield str(name)
            if isinstance(parts := part.get("union"), list):
                waiting.extend(parts)
