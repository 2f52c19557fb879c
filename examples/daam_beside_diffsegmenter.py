"""Two ways of reading the same passes: DiffSegmenter's spreads the heat by self-attention, DAAM's does not."""

import matplotlib.pyplot as plt
from PIL import Image

from attrbind_exp.backbones.stable_diffusion import load_stable_diffusion
from attrbind_exp.edits import Variant
from attrbind_exp.heatmaps.daam import Daam
from attrbind_exp.heatmaps.diffsegmenter import DiffSegmenter
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.paths import PACKAGE

assets = PACKAGE / "assets"
picture = Image.open(assets / "shapes" / "images" / "test_0016.jpg").convert("RGB")
expression = "the blue circle"

methods = {"diffsegmenter": DiffSegmenter(), "daam": Daam()}
segmenter = Segmenter(load_stable_diffusion(str(assets / "bundled")), methods=methods)

figure, axes = plt.subplots(1, 3, figsize=(7, 2.6), layout="constrained")
axes[0].imshow(picture)
axes[0].set_title(expression)
for axis, name in zip(axes[1:], methods, strict=True):
    axis.imshow(segmenter([picture], [expression], Variant("baseline", heatmap=name))[0].values, vmin=0, vmax=1)
    axis.set_title(name)
for axis in axes:
    axis.axis("off")
figure.savefig("daam_beside_diffsegmenter.png", dpi=100)
