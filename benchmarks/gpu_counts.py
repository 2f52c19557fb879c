"""The checks of gpu.py that look at counting on the device; see gpu_checks.py."""

from functools import partial

import numpy as np
import torch

from attrbind_exp.backbones.stable_diffusion import load_stable_diffusion
from attrbind_exp.backbones.tensors import beside
from attrbind_exp.config import PACKAGE
from attrbind_exp.data.dataset import by_image
from attrbind_exp.data.refer import load_refer
from attrbind_exp.edits import Averaging, NounChunk, Variant
from attrbind_exp.evaluation import heat
from attrbind_exp.evaluation.batching import segment_images
from attrbind_exp.evaluation.loading import map_ahead
from attrbind_exp.evaluation.loop import count_image
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.scoring import metrics
from attrbind_exp.scoring.classes import count_classes
from attrbind_exp.scoring.counting import count_maps
from attrbind_exp.tasks.choose import choose_task
from attrbind_exp.tasks.settings import RunSettings
from benchmarks.gpu_machine import SIZE, Machine
from benchmarks.models import BUNDLED

CHUNK, READ = NounChunk(), (NounChunk(where="read"), Averaging(0.9, where="read"))
VARIANTS = [
    Variant("baseline"),
    Variant("ours", (CHUNK, Averaging(0.9)), 0.9),
    Variant("read", READ, 0.9),
    Variant("chunk_read", READ[:1]),
]


def check_counts(machine: Machine) -> tuple[bool, str]:
    """What is counted on the device, on a second stream, is what the host counts; means within 1e-6."""
    random = np.random.default_rng(0)
    near = [metrics.THRESHOLDS, *(np.nextafter(metrics.THRESHOLDS, end).clip(0, 1) for end in (0, 2))]
    heats = np.stack([random.random(SIZE, np.float32), random.choice(np.concatenate(near), SIZE)]).astype(np.float32)
    masks = [random.random(SIZE) < share for share in (0.2, 0.5, 0.0)]
    with beside(machine.device)():
        there = torch.from_numpy(heats).to(machine.device)
        pairs = list(zip(count_maps(there, masks), count_maps(heats, masks), strict=True))
        classes = count_classes(dict(enumerate(there, 1)), masks[0].astype(np.uint8))
    alike = all(
        np.array_equal(getattr(mine, name), getattr(theirs, name))
        for mine, theirs in pairs
        for name in ("intersection", "union", "under")
    )
    on_host = count_classes(dict(enumerate(heats, 1)), masks[0].astype(np.uint8))
    alike &= all(np.array_equal(getattr(classes, name), getattr(on_host, name)) for name in ("predicted", "hit"))
    gap = max(float(np.nanmax(np.abs(mine.means - theirs.means))) for mine, theirs in pairs)
    return alike and gap < 1e-6, f"counts alike: {alike}, means {gap:.0e}"


def check_rows(machine: Machine) -> tuple[bool, str]:
    """Rows of a run, two of its variants only read, are the same whether the device or the host counts."""
    dataset = load_refer(str(PACKAGE / "assets"), "shapes", "made", "val", limit=60)
    settings = RunSettings(VARIANTS, batch_size=32)
    segmenter, images = Segmenter(load_stable_diffusion(BUNDLED, machine.device.type)), by_image(dataset)
    task, found = choose_task(dataset, settings), []
    count, before = partial(count_image, task, settings, dataset, images), heat.counts_there
    try:
        for there in (True, False):
            heat.counts_there = lambda _, there=there: there
            counted = map_ahead(count, segment_images(images, segmenter, settings), depth=2)
            found.append([row for image in counted for row in image.rows])
    finally:
        heat.counts_there = before
    differ = sum(
        (a.union, a.intersection, a.peak) != (b.union, b.intersection, b.peak) for a, b in zip(*found, strict=True)
    )
    return not differ and len(found[0]) == 240, f"{differ} of {len(found[0])} rows differ"
