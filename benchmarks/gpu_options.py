"""The check of gpu.py that goes through all that can be chosen: every reading of attention under every edit of the words."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
from hydra import compose, initialize_config_dir

from attrbind_exp.backbones.stable_diffusion import load_stable_diffusion
from attrbind_exp.config import CONF
from attrbind_exp.config.settings import Settings, read_settings
from attrbind_exp.data.dataset import by_image
from attrbind_exp.evaluation.batching import segment_images
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.paths import options
from attrbind_exp.scoring import metrics
from benchmarks.gpu_machine import Machine
from benchmarks.models import BUNDLED

EXPRESSIONS = 12
# Readings that decide for whole segments: one near tie moves many cells.
CLUSTERED = ("diffseg", "diffseg_tuned_on_shapes")


def check_options(machine: Machine) -> tuple[bool, str]:
    """Every reading under every edit gives the CPU's heat maps in fp32: within 1e-2, mIoU of each within 0.3 (readings
    that choose segments: mIoU alone)."""
    chosen = f"heatmap=[{','.join(options('heatmap'))}]"
    given = ["text_processor=edits_of_the_field", chosen, "dataset.split=val", f"dataset.limit={EXPRESSIONS}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = read_settings(compose("run", [*given, "tracker=none"]))
    readings = list(settings.segmenter.make_methods())  # an option may bring several
    here, theirs = (segment_under(settings, device) for device in (machine.device.type, "cpu"))
    gaps, changes = defaultdict(float), defaultdict(float)
    for number, variant in enumerate(settings.run.variants):
        name = variant.heatmap or readings[0]
        gaps[name] = max(
            gaps[name], max(float(np.abs(a[number] - b[number]).max()) for a, b in zip(here[0], theirs[0]))
        )
        changes[name] = max(changes[name], float(np.abs(here[1][number] - theirs[1][number]).max()))
    bad = [n for n in readings if changes[n] >= 0.3 or (gaps[n] >= 1e-2 and n not in CLUSTERED)]
    seen = ", ".join(f"{name} {gaps[name]:.0e} mIoU {changes[name]:.2f}" for name in readings)
    return not bad, f"{len(settings.run.variants)} variants of {EXPRESSIONS} expressions: {seen}"


def segment_under(settings: Settings, device: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Heat maps (variants, H, W) of each expression, and the mIoU of each variant in percent (variants, K)."""
    maps = settings.segmenter
    segmenter = Segmenter(load_stable_diffusion(BUNDLED, device, "fp32"), maps.text, maps.maps, maps.make_methods())
    run = replace(settings.run, batch_size=32)
    images = segment_images(by_image(settings.load_dataset()), segmenter, run)
    items = [item for image in images for item in image.items]
    heats = [np.stack([item.heat(v, 0).values for v in range(len(run.variants))]) for item in items]
    iou = [
        [metrics.iou(*metrics.count_overlap(heat, item.truth)) for heat in row]
        for row, item in zip(heats, items, strict=True)
    ]
    return heats, 100 * np.array(iou).mean(0)
