"""One picture, one expression: the heat map of the noun, and the mask at a threshold."""

from attrbind_exp import load_segmenter
from attrbind_exp.paths import PACKAGE

picture = PACKAGE / "assets" / "shapes" / "images" / "test_0016.jpg"

result = load_segmenter()(picture, "the blue circle", edit="baseline")
print(result.target, "of", result.chunk, "covers", result.mask(threshold=0.5).mean(), "of the picture")
result.save("one_picture.png")
