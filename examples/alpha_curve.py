"""mIoU by alpha, the weight that averaging leaves to the noun, on the first expressions of the bundled benchmark."""

import matplotlib.pyplot as plt
import numpy as np

from attrbind_exp import load_segmenter
from attrbind_exp.data.masks import decode_mask
from attrbind_exp.data.refer import load_refer
from attrbind_exp.paths import PACKAGE

samples = load_refer(str(PACKAGE / "assets"), "shapes", "made", "test", limit=16).samples
pictures, texts = [sample.image_path for sample in samples], [sample.text for sample in samples]
truths = [decode_mask(sample.segmentation, sample.size) for sample in samples]
segmenter = load_segmenter(edit="uea")

alphas, curve = [0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1.2], []
for alpha in alphas:
    masks = [result.mask(threshold=0.5) for result in segmenter(pictures, texts, alpha=alpha)]
    curve.append(100 * np.mean([(m & t).sum() / (m | t).sum() for m, t in zip(masks, truths, strict=True)]))
figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
axis.plot(alphas, curve, marker="o")
axis.set(xlabel="alpha", ylabel="mIoU in %", title=f"{len(samples)} expressions, threshold 0.5")
figure.savefig("alpha_curve.png", dpi=100)
