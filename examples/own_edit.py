"""An edit of your own: the words around the noun are silenced, so that the model hears the noun alone."""

from dataclasses import dataclass

import matplotlib.pyplot as plt
from PIL import Image

from attrbind_exp.backbones.stable_diffusion import load_stable_diffusion
from attrbind_exp.edits import Edit, Variant
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.paths import PACKAGE


@dataclass(frozen=True)
class Silence(Edit):
    def apply(self, E, encoded, prompt):
        words = [i for i in prompt.pos if i not in prompt.q]  # the noun chunk without its noun
        edited = E.clone()
        edited[words] = encoded[""].states[words]
        return edited


picture = Image.open(PACKAGE / "assets" / "shapes" / "images" / "test_0001.jpg").convert("RGB")
segmenter = Segmenter(load_stable_diffusion(str(PACKAGE / "assets" / "bundled")))
figure, axes = plt.subplots(1, 3, figsize=(7, 2.6), layout="constrained")
maps = [segmenter([picture], ["the blue circle"], Variant("v", edits))[0].values for edits in ((), (Silence(),))]
for axis, shown, title in zip(axes, [picture, *maps], ["the blue circle", "baseline", "silenced"], strict=True):
    axis.imshow(shown, vmin=0, vmax=1)
    axis.set_title(title)
figure.savefig("own_edit.png", dpi=100)
