"""Two ways of reading attention: DiffSegmenter's spreads the heat by self-attention, DAAM's does not."""

import matplotlib.pyplot as plt

from attrbind_exp import load_segmenter
from attrbind_exp.paths import PACKAGE

picture = PACKAGE / "assets" / "shapes" / "images" / "test_0016.jpg"
expression, readings = "the blue circle", ["diffsegmenter", "daam"]
results = [load_segmenter(heatmap=reading)(picture, expression, edit="baseline") for reading in readings]

figure, axes = plt.subplots(1, 3, figsize=(7, 2.6), layout="constrained")
shown = [results[0].image, *(result.heat_map for result in results)]
for axis, values, title in zip(axes, shown, [expression, *readings], strict=True):
    axis.imshow(values, vmin=0, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])
figure.savefig("daam_beside_diffsegmenter.png", dpi=100)
