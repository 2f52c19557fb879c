"""Whether rows that were read are what a run writes: each expression once, under every variant and seed. Loads no
torch, since merging does without."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from attrbind_exp.runs.rows import Row
from attrbind_exp.tasks.rows import cells
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.types import Failure, Sample, UserError


def check_images(
    found: Iterable[Sequence[Row]],
    images: Mapping[str, Sequence[Sample]],
    settings: RunSettings,
    failures: Sequence[Failure],
    where: Path,
) -> Iterator[Sequence[Row]]:
    """The rows of one image after the other, as they were `found`. Raises UserError, saying `where` they lie, for rows
    that the run does not write, and in the end for images that lack some."""
    left, failed = dict(images), {failure.sample_id for failure in failures}
    for rows in found:
        image = rows[0].image_id
        samples = left.pop(image, None)
        if find_wrong(rows, samples, settings) is not None or not is_whole(image, samples or (), rows, failed):
            raise UserError(
                f"the rows of image '{image}' below '{where}' are not what these runs write: a file or the data was "
                "changed; run that shard again"
            )
        yield rows
    if lacking := [image for image, samples in left.items() if not is_whole(image, samples, (), failed)]:
        raise UserError(f"no rows of image '{lacking[0]}' below '{where}' ({len(lacking)} lack them); run again")


def find_wrong(rows: Sequence[Row], samples: Sequence[Sample] | None, settings: RunSettings) -> int | None:
    """The place of the first of an image's rows that the run does not write there, None where there is none.

    It writes each expression once, or the image as a whole, under every variant and seed in their order. `samples`:
    those of the image, None where the dataset has no such image.
    """
    if samples is None:
        return 0
    variants = [(v.name, v.alpha, v.layers, v.heatmap) for v in settings.variants]
    wanted = [(*variants[v], settings.seeds[s]) for v, s in cells(settings)]
    left: set[str | None] = {sample.sample_id for sample in samples} | {None}
    current = None
    for place, row in enumerate(rows):
        of = getattr(row, "sample_id", None)  # rows of whole images have none
        if place % len(wanted) == 0:
            if of not in left:
                return place
            left.remove(of)
            current = of
        found = (row.text_processor, row.alpha, row.attention_layers, row.heatmap, row.seed)
        if of != current or found != wanted[place % len(wanted)]:
            return place
    return None


def is_whole(image: str, samples: Sequence[Sample], rows: Sequence[Row], failed: Collection[str]) -> bool:
    """Whether every expression of an image has rows or a failure; `failed`: ids of expressions and images."""
    found = {getattr(row, "sample_id", None) for row in rows}
    return image in failed or None in found or all(s.sample_id in found or s.sample_id in failed for s in samples)
