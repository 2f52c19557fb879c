"""Is the heat on the right object? Mean heat on each of two circles, when one or the other is named."""

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw

from attrbind_exp import load_segmenter

boxes = {"blue": (10, 40, 55, 85), "orange": (75, 40, 120, 85)}
picture, places = Image.new("RGB", (128, 128), "lightgrey"), {}
for colour, box in boxes.items():
    ImageDraw.Draw(picture).ellipse(box, fill=colour)
    place = Image.new("1", picture.size)
    ImageDraw.Draw(place).ellipse(box, fill=1)
    places[colour] = np.asarray(place)

named = [f"the {colour} circle" for colour in boxes]
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained")
left.imshow(picture)
left.axis("off")
for number, result in enumerate(load_segmenter()(picture, named, edit="baseline")):
    heats = [result.heat_map[place].mean() for place in places.values()]
    right.bar(np.arange(2) + 0.4 * number - 0.2, heats, 0.38, color=[*boxes][number], label=named[number])
right.set(xticks=range(2), xticklabels=[f"on the {colour} one" for colour in places], ylabel="mean heat")
right.legend(title="named", fontsize=8)
figure.savefig("target_and_distractor.png", dpi=100)
