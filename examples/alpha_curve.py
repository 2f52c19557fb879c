"""mIoU by alpha, the weight that averaging leaves to the noun, on the first expressions of the bundled benchmark."""

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from attrbind_exp.backbones.stable_diffusion import load_stable_diffusion
from attrbind_exp.data.masks import decode_mask
from attrbind_exp.data.refer import load_refer
from attrbind_exp.edits import Averaging, Variant
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.paths import PACKAGE

samples = load_refer(str(PACKAGE / "assets"), "shapes", "made", "test", limit=24).samples
pictures = [Image.open(sample.image_path).convert("RGB") for sample in samples]
truths = [decode_mask(sample.segmentation, sample.size) for sample in samples]
segmenter = Segmenter(load_stable_diffusion(str(PACKAGE / "assets" / "bundled")))

alphas, curve = [0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1.2], []
for alpha in alphas:
    variant = Variant("averaging", (Averaging(alpha=alpha),))
    heats = segmenter(pictures, [sample.text for sample in samples], variant, [sample.image_id for sample in samples])
    masks = [heat.mask(0.5) for heat in heats]
    curve.append(100 * np.mean([(m & t).sum() / (m | t).sum() for m, t in zip(masks, truths, strict=True)]))
figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
axis.plot(alphas, curve, marker="o")
axis.set(xlabel="alpha", ylabel="mIoU in %", title=f"{len(samples)} expressions, threshold 0.5")
figure.savefig("alpha_curve.png", dpi=100)
