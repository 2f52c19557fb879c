"""What a user may write: `make lint` has mypy read it, nobody runs it."""

from pathlib import Path
from typing import assert_type

import numpy as np
from PIL import Image

from attrbind_exp import Averaging, Comparison, LoadedSegmenter, NounChunk, Result, load_segmenter

segmenter = load_segmenter("sd15", edit=(NounChunk(), Averaging(0.9)), heatmap="daam", device="cpu")
photo = Path("photo.jpg")
one = segmenter(photo, "white dog", edit="ncr+uea", alpha=0.8)
comparison = segmenter.compare(photo, "white dog", edits=["baseline", "ncr+uea", Averaging(0.5)])

assert_type(segmenter, LoadedSegmenter)
assert_type(one, Result)
assert_type(segmenter("photo.jpg", ["white dog", "black dog"]), list[Result])
assert_type(segmenter([photo, photo], "white dog"), list[Result])
assert_type(segmenter(["a.jpg", Image.open(photo), np.zeros((8, 8))], ("a", "b", "c")), list[Result])
assert_type(one.save("out.png"), Path)
assert_type(one.target, str)
assert_type(comparison, Comparison)
assert_type(comparison["baseline"], Result)
mask: np.ndarray = one.mask(threshold=0.4) & (one.heat_map > 0)
comparison.show()
