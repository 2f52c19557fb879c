"""What every loader returns, and how a random part of the images is chosen."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from attrbind_exp.types import Failure, Sample, Scene, UserError


@dataclass(frozen=True)
class Dataset:
    """Samples in file order, and the failures: what could not become a sample.

    `note`: a line on what the figures mean. `described`: the samples bring slice labels of their own, so none are
    added. Class-wise scoring also needs `scenes` by image id, images without any object included, and the names of all
    `classes`, background first. `category_ids`: COCO's number of each category, where the data comes with them.
    """

    name: str
    samples: list[Sample]
    failures: list[Failure]
    note: str | None = None
    described: bool = False
    scenes: Mapping[str, Scene] = field(default_factory=dict)
    classes: Sequence[str] = ()
    category_ids: Mapping[str, int] = field(default_factory=dict)


def by_image(dataset: Dataset, shard: tuple[int, int] = (0, 1)) -> dict[str, list[Sample]]:
    """The samples of every image, or of a `shard` (K, N): every N-th image from the K-th on. Images of a class-wise
    dataset without any label are in it, too."""
    groups: dict[str, list[Sample]] = {image: [] for image in dataset.scenes}
    for sample in dataset.samples:
        groups.setdefault(sample.image_id, []).append(sample)
    number, count = shard
    return dict(list(groups.items())[number::count])


def choose_image(image_id: str | int, fraction: float | None, seed: int = 0) -> bool:
    """Whether the image belongs to a random `fraction` of all images (0 to 1, None = all).

    The answer depends on (seed, image id) and the fraction alone. So all expressions of an image go together, and a
    smaller fraction is a part of a larger one. Raises UserError for a fraction outside (0, 1].
    """
    if fraction is None:
        return True
    if not 0 < fraction <= 1:
        raise UserError(f"dataset.fraction={fraction}; give a number above 0 and up to 1, or null for all images")
    digest = hashlib.sha256(f"{seed}/{image_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < fraction
