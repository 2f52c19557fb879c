"""An edit of your own: the noun as it is encoded without its modifiers, so that its colour is no longer heard."""

import matplotlib.pyplot as plt
from PIL import Image

from attrbind_exp.backbones.stable_diffusion import load_stable_diffusion
from attrbind_exp.edits import Edit, Variant
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.paths import PACKAGE


class NounAlone(Edit):
    def texts(self, prompt):  # what must be encoded besides the prompt
        return (prompt.prefix + prompt.parse.target_text,)

    def apply(self, E, encoded, prompt):
        alone, edited = encoded[self.texts(prompt)[0]], E.clone()
        edited[list(prompt.q)] = alone.states[list(alone.tokens.content)[-len(prompt.q) :]]
        return edited


expression, assets = "the white circle", PACKAGE / "assets"
picture = Image.open(assets / "shapes" / "images" / "test_0001.jpg").convert("RGB")
segmenter = Segmenter(load_stable_diffusion(str(assets / "bundled")))
maps = [segmenter([picture], [expression], Variant("v", edits))[0].values for edits in ((), (NounAlone(),))]
figure, axes = plt.subplots(1, 3, figsize=(7, 2.6), layout="constrained")
for axis, shown, title in zip(axes, [picture, *maps], [expression, "baseline", "noun alone"], strict=True):
    axis.imshow(shown, vmin=0, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])
figure.savefig("own_edit.png", dpi=100)
