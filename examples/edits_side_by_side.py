"""One picture under the baseline, noun chunk replacement (NCR), and NCR with averaging (UEA)."""

from attrbind_exp import load_segmenter
from attrbind_exp.paths import PACKAGE

picture = PACKAGE / "assets" / "shapes" / "images" / "test_0024.jpg"
expression = "to the right of a white heart, the red heart"

segmenter = load_segmenter()
segmenter.compare(picture, expression, ["baseline", "ncr_prefixed", "ncr_prefixed+uea"]).save("edits_side_by_side.png")
