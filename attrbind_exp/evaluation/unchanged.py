"""Whether the data of a run are still those that its rows were made of."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from attrbind_exp.data.digests import digest_annotations, digest_file
from attrbind_exp.runs.rows import Row
from attrbind_exp.types import Sample, Scene, UserError

SLACK = 3600  # seconds by which the clocks of machines and file servers may differ


def with_digests(rows: Sequence[Row], annotations: str, picture: str) -> list[Row]:
    """The rows of one image with the digests of what they were made of."""
    return [msgspec.structs.replace(row, annotation_digest=annotations, picture_digest=picture) for row in rows]


def check_unchanged(
    images: Mapping[str, Sequence[Sample]],
    scenes: Mapping[str, Scene],
    image: str,
    rows: Sequence[Row],
    folder: Path,
    since: float | None = None,
) -> None:
    """Raise UserError where the annotations of an image, or its picture, are not those that its rows were made of.

    `since`: pictures are checked too, those that were written, renamed or replaced after this time (seconds since 1970)
    or up to an hour before; others cannot have changed. None = annotations alone, for who needs no pictures.
    """
    samples = images.get(image)
    mend = f"after it was scored in '{folder}'; put back what was there, or remove the folder and run again"
    if samples is None:
        raise UserError(f"image '{image}' was taken out of the data {mend}")
    if {row.annotation_digest for row in rows} != {digest_annotations(samples, scenes.get(image))}:
        raise UserError(f"the annotations of image '{image}' were edited {mend}")
    if since is None or not (scored := {row.picture_digest for row in rows} - {""}):
        return
    path = samples[0].image_path
    if _written_since(path, since - SLACK) and scored != {digest_file(path)}:
        raise UserError(f"the picture '{path}' was edited or removed {mend}")


def _written_since(path: Path, time: float) -> bool:
    """Whether a file can have changed after `time`; a missing one has."""
    try:
        about = path.stat()
    except (OSError, ValueError):
        return True
    return max(about.st_mtime, about.st_ctime) >= time
