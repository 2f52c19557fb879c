"""The same pass read at different layers: the choice costs nothing, since all maps come from one pass."""

import matplotlib.pyplot as plt
from PIL import Image

from attrbind_exp.backbones.stable_diffusion import load_stable_diffusion
from attrbind_exp.edits import Variant
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.paths import PACKAGE
from attrbind_exp.types import LayerChoice, MapSettings

assets = PACKAGE / "assets"
picture = Image.open(assets / "shapes" / "images" / "test_0016.jpg").convert("RGB")
expression = "the blue circle"

ratios = {"16 cells a side": 1, "8 cells a side": 2, "4 cells a side": 4}
choices = {name: LayerChoice(ratios=(ratio,), weights={ratio: 1.0}) for name, ratio in ratios.items()}
segmenter = Segmenter(load_stable_diffusion(str(assets / "bundled")), maps=MapSettings(grid=choices))

figure, axes = plt.subplots(1, 4, figsize=(8, 2.6), layout="constrained")
axes[0].imshow(picture)
axes[0].set_title(expression)
for axis, name in zip(axes[1:], choices, strict=True):
    axis.imshow(segmenter([picture], [expression], Variant("baseline", layers=name))[0].values, vmin=0, vmax=1)
    axis.set_title(name)
for axis in axes:
    axis.axis("off")
figure.savefig("layers_compared.png", dpi=100)
