"""One picture under the baseline, noun chunk replacement (NCR), and NCR with averaging (UEA)."""

import matplotlib.pyplot as plt
from PIL import Image

from attrbind_exp.backbones.stable_diffusion import load_stable_diffusion
from attrbind_exp.edits import Averaging, NounChunk, Variant
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.paths import PACKAGE

assets = PACKAGE / "assets"
picture = Image.open(assets / "shapes" / "images" / "test_0024.jpg").convert("RGB")
expression = "to the right of a white heart, the red heart"
variants = {
    "baseline": Variant("baseline"),
    "NCR, prefix kept": Variant("ncr", (NounChunk(prefix="template"),)),
    "NCR + UEA": Variant("both", (NounChunk(prefix="template"), Averaging(alpha=0.9))),
}
segmenter = Segmenter(load_stable_diffusion(str(assets / "bundled")))

figure, axes = plt.subplots(1, 4, figsize=(8, 2.6), layout="constrained")
figure.suptitle(expression)
axes[0].imshow(picture)
for axis, (name, variant) in zip(axes[1:], variants.items(), strict=True):
    axis.imshow(segmenter([picture], [expression], variant)[0].values, vmin=0, vmax=1)
    axis.set_title(name)
for axis in axes:
    axis.axis("off")
figure.savefig("edits_side_by_side.png", dpi=100)
