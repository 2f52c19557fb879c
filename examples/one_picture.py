"""One picture, one expression: the heat map of the noun, and the mask at a threshold."""

import matplotlib.pyplot as plt
from PIL import Image

from attrbind_exp.backbones.stable_diffusion import load_stable_diffusion
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.paths import PACKAGE

assets = PACKAGE / "assets"
picture = Image.open(assets / "shapes" / "images" / "test_0016.jpg").convert("RGB")
expression = "the blue circle"

segmenter = Segmenter(load_stable_diffusion(str(assets / "bundled")))
heat = segmenter([picture], [expression])[0]

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(7, 2.6), layout="constrained")
left.imshow(picture)
left.set_title(expression)
shown = middle.imshow(heat.values, vmin=0, vmax=1)
figure.colorbar(shown, ax=middle)
middle.set_title("heat")
right.imshow(heat.mask(0.5), cmap="gray")
right.set_title("mask at 0.5")
for axis in (left, middle, right):
    axis.axis("off")
figure.savefig("one_picture.png", dpi=100)
