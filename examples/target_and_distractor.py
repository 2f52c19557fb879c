"""Is the heat on the right object? Mean heat on each of two circles, when one or the other is named."""

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw

from attrbind_exp.backbones.stable_diffusion import load_stable_diffusion
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.paths import PACKAGE

boxes = {"blue": (10, 40, 55, 85), "orange": (75, 40, 120, 85)}
picture, places = Image.new("RGB", (128, 128), "lightgrey"), {}
for colour, box in boxes.items():
    ImageDraw.Draw(picture).ellipse(box, fill=colour)
    place = Image.new("1", picture.size)
    ImageDraw.Draw(place).ellipse(box, fill=1)
    places[colour] = np.asarray(place)

segmenter = Segmenter(load_stable_diffusion(str(PACKAGE / "assets" / "bundled")))
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained")
left.imshow(picture)
left.axis("off")
for shift, named in ((-0.2, "blue"), (0.2, "orange")):
    heat = segmenter([picture], [f"the {named} circle"])[0].values
    right.bar(
        np.arange(2) + shift, [heat[p].mean() for p in places.values()], 0.38, color=named, label=f"the {named} circle"
    )
right.set(xticks=range(2), xticklabels=[f"on the {colour} one" for colour in places], ylabel="mean heat")
right.legend(title="named", fontsize=8)
figure.savefig("target_and_distractor.png", dpi=100)
