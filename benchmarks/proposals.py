"""Made proposals for refine=refdiff_heat, from a data set's own ground truth: to try the code, not to report.

    python benchmarks/proposals.py FOLDER dataset=shapes dataset.split=test

They are no model's. Of every annotated object of an image its mask, eroded or dilated and moved by a few pixels, comes in
two sizes; and as many rectangles as there are objects lie anywhere. So the right object is always among them, but never
exactly, which a real proposal model does not promise.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import hydra
import numpy as np
from scipy import ndimage

from attrbind_exp import config
from attrbind_exp.data.dataset import by_image
from attrbind_exp.data.masks import decode_mask, encode_mask
from attrbind_exp.types import Sample

PER_OBJECT = 2
LARGEST_SHIFT = 0.015  # of the picture's shorter side; as far does an edge go in or out


def propose(sample: Sample, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Masks (H, W) bool of one image, of which a sample names all objects."""
    segmentations = [sample.segmentation, *(other.segmentation for other in sample.others or ())]
    for segmentation in segmentations:
        mask = decode_mask(segmentation, sample.size)
        for _ in range(PER_OBJECT):
            yield jitter(mask, rng)
        yield rectangle(sample.size, rng)


def jitter(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mask moved, and made smaller or larger."""
    most = max(1, round(LARGEST_SHIFT * min(mask.shape)))
    moved = ndimage.shift(mask, rng.integers(-most, most, 2, endpoint=True), order=0)
    steps = int(rng.integers(1, most, endpoint=True))
    change = ndimage.binary_erosion if rng.random() < 0.5 else ndimage.binary_dilation
    changed = change(moved, iterations=steps)
    return changed if changed.any() else moved


def rectangle(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A rectangle of a quarter to half of each side, anywhere."""
    mask = np.zeros(size, bool)
    height, width = (int(n * rng.uniform(0.25, 0.5)) for n in size)
    top, left = int(rng.integers(size[0] - height)), int(rng.integers(size[1] - width))
    mask[top : top + height, left : left + width] = True
    return mask


def write_proposals(folder: Path, image_id: str, masks: Iterator[np.ndarray]) -> None:
    """One image's file, in the form of SamAutomaticMaskGenerator's coco_rle."""
    found = [{"segmentation": encode_mask(mask), "area": int(mask.sum())} for mask in masks if mask.any()]
    (folder / f"{image_id}.json").write_text(json.dumps(found))


def main() -> None:
    folder, overrides = Path(sys.argv[1]), sys.argv[2:]
    folder.mkdir(parents=True, exist_ok=True)
    with hydra.initialize_config_dir(str(config.CONF), version_base="1.3"):
        dataset = config.read_settings(hydra.compose("run", overrides)).load_dataset()
    images = by_image(dataset)
    for number, (image_id, samples) in enumerate(images.items()):
        write_proposals(folder, image_id, propose(samples[0], np.random.default_rng(number)))
    print(f"{len(images)} images' proposals in {folder}")


if __name__ == "__main__":
    main()
