"""Proposals for refine=refdiff_heat from pictures alone, by classical segmentation, where no Segment Anything is at hand.

    python benchmarks/proposals.py FOLDER dataset=shapes dataset.split=test

Writes one JSON file an image, as docs/refinement.md describes them. Needs opencv-contrib-python-headless. Of a data set
the pictures are read, and no mask, no box, no expression.

1. The picture is cut into regions of even colour, at each of SCALES anew: Felzenszwalb and Huttenlocher, "Efficient
   Graph-Based Image Segmentation" (IJCV 2004), OpenCV's.
2. The two neighbours that are most alike become one region, again and again, until one is left: Uijlings et al.,
   "Selective Search for Object Recognition" (IJCV 2013), section 3.2, without the term of texture. Histograms c of the
   colours, sizes in pixels, p pixels in the picture, b the smallest box around both:

       s(i, j) = sum_n min(c_i^n, c_j^n) + (1 - (size_i + size_j) / p) + (1 - (size_b - size_i - size_j) / p)

3. All regions of all scales are proposals, the last grouped first. One that is smaller than LEAST, the whole picture, or
   nearly one before it is left out, and so is what comes after MOST.
"""

import heapq
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import hydra
import numpy as np
from hydra.errors import HydraException
from PIL import Image
from scipy import ndimage

from attrbind_exp import config
from attrbind_exp.data.images import read_image
from attrbind_exp.data.masks import encode_mask
from attrbind_exp.data.proposals import file_names
from attrbind_exp.heatmaps.guided_filter import load_opencv
from attrbind_exp.runs.store import write_text
from attrbind_exp.types import Sample, SampleError, UserError
from attrbind_exp.work import Work

# The first three are the papers'; the others are ours, set once.
SCALES = (50, 100, 150, 300)  # k of the cut, and the least pixels of its regions: Selective Search's
SIGMA = 0.8  # of the blur before the cut, in pixels: both papers'
BINS = 25  # of hue, of saturation and of value: Selective Search's
LARGEST_SIDE = 640  # a larger picture is cut at this size, the longer side of COCO's
LEAST = 32**2 / (640 * 480)  # of the picture: below, COCO calls an object small
ALIKE = 0.9  # IoU of two masks of which the second says nothing new
MOST = 200  # proposals an image: about what Segment Anything makes


@dataclass(frozen=True, eq=False)
class Region:
    """Some regions of a cut, together: their numbers, pixels, box (top, left, bottom, right), and histogram, which sums
    to 1."""

    parts: tuple[int, ...]
    size: int
    box: tuple[int, int, int, int]
    colours: np.ndarray  # (3 BINS,)

    def joined(self, other: "Region") -> "Region":
        size = self.size + other.size
        colours = (self.size * self.colours + other.size * other.colours) / size
        return Region(self.parts + other.parts, size, box_around(self, other), colours)


def box_around(one: Region, other: Region) -> tuple[int, int, int, int]:
    (top, left, bottom, right), (y, x, down, across) = one.box, other.box
    return min(top, y), min(left, x), max(bottom, down), max(right, across)


def likeness(one: Region, other: Region, pixels: int) -> float:
    """s(i, j) of two regions of a picture of so many pixels."""
    top, left, bottom, right = box_around(one, other)
    size = one.size + other.size
    fill = 1 - ((bottom - top) * (right - left) - size) / pixels
    return float(np.minimum(one.colours, other.colours).sum()) + (1 - size / pixels) + fill


def propose(image: Image.Image) -> list[np.ndarray]:
    """Masks (H, W) bool of a picture in RGB, no two of them equal; none of a picture of one colour."""
    small = image.copy()
    small.thumbnail((LARGEST_SIDE, LARGEST_SIDE))  # a smaller picture stays as it is
    pixels = np.asarray(small)  # (h, w, 3)
    cuts = [cut(pixels, scale) for scale in SCALES]
    last_first = [reversed(group(labels, pixels)) for labels in cuts]
    return [enlarged(mask, image.size) for mask in choose(cuts, zip_longest(*last_first))]


def enlarged(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask in a picture's size (width, height); the very same where it has that size."""
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def cut(pixels: np.ndarray, scale: int) -> np.ndarray:
    """The number of every pixel's region (h, w), from 0 on, in a picture (h, w, 3)."""
    segmentation = load_opencv("benchmarks/proposals.py").ximgproc.segmentation
    return segmentation.createGraphSegmentation(SIGMA, scale, scale).processImage(np.ascontiguousarray(pixels))


def describe(labels: np.ndarray, pixels: np.ndarray) -> list[Region]:
    """The regions of a cut, by number."""
    cv2 = load_opencv("benchmarks/proposals.py")
    bins = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL).astype(int) * BINS // 256 + BINS * np.arange(3)  # (h, w, 3)
    places = ndimage.find_objects(labels + 1)
    n = len(places)
    counts = np.bincount((labels[..., None] * 3 * BINS + bins).ravel(), minlength=n * 3 * BINS).reshape(n, -1)
    return [
        Region((i,), int(count.sum()) // 3, (y.start, x.start, y.stop, x.stop), count / count.sum())
        for i, ((y, x), count) in enumerate(zip(places, counts, strict=True))
    ]


def touching(labels: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of regions (i < j) that share an edge of a pixel."""
    beside = [(labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])]
    pairs = np.concatenate([np.stack([a.ravel(), b.ravel()], 1) for a, b in beside])
    pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], 1)
    return [(int(i), int(j)) for i, j in np.unique(pairs, axis=0)]


def group(labels: np.ndarray, pixels: np.ndarray) -> list[Region]:
    """The regions of a cut, then what they are grouped to, one after the other, up to the whole picture."""
    regions, pairs = describe(labels, pixels), touching(labels)
    near: dict[int, set[int]] = {i: set() for i in range(len(regions))}  # of those that are not grouped yet
    waiting: list[tuple[float, int, int]] = []  # the most alike first, of equals the earlier numbers

    def meet(i: int, j: int) -> None:
        near[i].add(j)
        near[j].add(i)
        heapq.heappush(waiting, (-likeness(regions[i], regions[j], labels.size), i, j))

    for i, j in pairs:
        meet(i, j)
    while waiting:
        _, i, j = heapq.heappop(waiting)
        if i not in near or j not in near:
            continue
        around = (near.pop(i) | near.pop(j)) - {i, j}
        near[len(regions)] = set()
        regions.append(regions[i].joined(regions[j]))
        for other in around:
            near[other] -= {i, j}
            meet(other, len(regions) - 1)
    return regions


def choose(cuts: Sequence[np.ndarray], rounds: Iterable[Sequence[Region | None]]) -> Iterator[np.ndarray]:
    """The masks (h, w) bool of at most MOST regions; a round has one of each cut, None where a cut has no more.

    Regions of any cut are unions of atoms, the pixels that are together in all cuts, so pixels are looked at once.
    """
    codes = np.ravel_multi_index([c.ravel() for c in cuts], [c.max() + 1 for c in cuts])
    _, first, atoms, sizes = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
    kept = np.zeros((MOST, len(first)), np.float32)  # which atoms each one has; sums of pixels are exact in float32
    areas, number = np.zeros(MOST), 0
    for labels, region in ((c, r) for found in rounds for c, r in zip(cuts, found, strict=True) if r is not None):
        if number == MOST:
            return
        if region.size < LEAST * labels.size or region.size == labels.size:
            continue
        has = np.isin(labels.ravel()[first], region.parts)  # (atoms,)
        both = kept[:number] @ (has * sizes).astype(np.float32)  # pixels in this one and each one before
        if (both <= ALIKE * (areas[:number] + region.size - both)).all():
            kept[number], areas[number] = has, region.size
            number += 1
            yield has[atoms].reshape(labels.shape)


def write_proposals(folder: Path, name: str, masks: Sequence[np.ndarray]) -> None:
    """One image's file, in the form of SamAutomaticMaskGenerator's coco_rle. Raises UserError where another one is
    there: of another split's picture of that name it may be, whose proposals would be taken for this one's."""
    found = json.dumps([{"segmentation": encode_mask(mask), "area": int(mask.sum())} for mask in masks])
    file = folder / name
    if file.is_file() and file.read_text(encoding="utf-8") != found:
        raise UserError(
            f"'{file}' holds other proposals, of another picture of that name or made by another OpenCV or by something "
            "else; give another folder, or remove the file"
        )
    write_text(file, found)


def name_images(samples: Iterable[Sample]) -> dict[str, Sample]:
    """One sample of each image, by the name of the image's file. Raises UserError where two images share one."""
    named: dict[str, Sample] = {}
    for sample in samples:
        name = file_names(sample)[0]
        if named.setdefault(name, sample).image_id != sample.image_id:
            raise UserError(
                f"images '{named[name].image_id}' and '{sample.image_id}' would both have their proposals in '{name}'; "
                "give one of the pictures another name"
            )
    return named


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    folder, overrides = Path(sys.argv[1]), sys.argv[2:]
    if "=" in sys.argv[1] or (folder.exists() and not folder.is_dir()):
        raise UserError(
            f"'{folder}' is no folder; the first word is the folder of the proposals: FOLDER dataset=shapes"
        )
    with hydra.initialize_config_dir(str(config.CONF), version_base="1.3"):
        dataset = config.load_dataset(hydra.compose("run", overrides))
    images = name_images(dataset.samples)
    folder.mkdir(parents=True, exist_ok=True)
    total, failures = 0, []
    with Work("proposals", len(images), "image") as work:
        for name, sample in images.items():
            try:
                masks = propose(read_image(sample.image_path, sample.size))
                write_proposals(folder, name, masks)
                total += len(masks)
            except SampleError as error:
                failures.append(f"{error.reason}: {error}")
            work.advance()
    print(*failures, sep="\n", end="\n" if failures else "")
    print(f"{total} proposals of {len(images) - len(failures)} images in {folder}; {len(failures)} images failed")


if __name__ == "__main__":
    try:
        main()
    except (UserError, HydraException) as error:
        sys.exit(f"error: {error.__cause__ or error}")
