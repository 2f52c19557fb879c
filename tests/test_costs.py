"""What each reading costs in counts: what a run really makes, beside what is counted from the formulas.

The UNet has the blocks of Stable Diffusion 1.5, few channels and random weights: counts depend on neither. E expressions of
I pictures, three of each and no text twice. Self-attention: 5 layers of the finest resolution, 16 in all.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from pycocotools import mask as coco_mask
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from attrbind_exp.backbones.stable_diffusion import StableDiffusion
from attrbind_exp.config import CONF, PACKAGE
from attrbind_exp.data.dataset import by_image
from attrbind_exp.data.refer import load_refer
from attrbind_exp.edits import Averaging, NounChunk, TextBlind, Variant
from attrbind_exp.evaluation.batching import segment_images
from attrbind_exp.evaluation.loop import count_image
from attrbind_exp.heatmaps import diffseg, iseg, refdiff_heat, score_map
from attrbind_exp.heatmaps.daam import Daam
from attrbind_exp.heatmaps.diffseg import DiffSeg
from attrbind_exp.heatmaps.diffsegmenter import DiffSegmenter
from attrbind_exp.heatmaps.elbo import Elbo
from attrbind_exp.heatmaps.iseg import ISeg
from attrbind_exp.heatmaps.ovam import Ovam
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.latent_steps.attend_and_excite import AttendAndExcite
from attrbind_exp.reporting.costs import read_costs
from attrbind_exp.tasks.choose import choose_task
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.types import MapSettings

CELLS = 256  # of the finest self-attention; no weight of the UNet is a matrix of that size
FINEST, EVERY = 5, 16
PLAIN = (Variant("baseline"),)
READ = tuple(Variant(str(a), (NounChunk(where="read"), Averaging(a, where="read")), a) for a in (0.1, 0.5, 0.9))
BLIND = (Variant("text_blind", (TextBlind(),)),)


@dataclass(frozen=True)
class Counts:
    """`passes`: rows of the UNet; `back`: those of them whose gradient is taken; `products`: S of one layer times the
    maps of a row, or of all rows of a picture where S is the same for them; `matrices`: S of one layer, entry by entry;
    `rounds`: products with a matrix that was made of S; `means`: of a heat map over a proposal."""

    passes: int
    back: int = 0
    products: int = 0
    matrices: int = 0
    rounds: int = 0
    means: int = 0


@dataclass(frozen=True)
class Reading:
    """How a reading is set up, what is `counted` of E expressions of I pictures, and what a run `makes`; None = just
    that."""

    method: DiffSegmenter | Daam | Ovam | ISeg | DiffSeg
    counted: Callable[[int, int], Counts]
    makes: Callable[[int, int], Counts] | None = None
    variants: tuple[Variant, ...] = PLAIN
    steps: int = 0
    proposals: int = 0
    batch: int = 3  # rows of a pass: a picture's own, so that none is filled up with copies


# What differs from the count, and why:
#
# - Nothing has seen the text before the UNet's first self-attention, which is one of the five finest layers. So a picture's
#   rows of one pass share its S: I products and not E.
# - The floor reads the empty prompt: a picture's expressions that read the same positions share its row. Here two of three do.
# - OVAM's texts are edits of an expression, and the expression's own prompt conditions the pass: a pass an expression.
# - DiffSeg's script segments a picture once, with the empty prompt. Here each expression's pass does: a pass a picture less,
#   but S of all layers for each expression.
# - A latent step is counted as 3 P: a pass, and a way back of about two. The last pass, which is read, is a pass.
READINGS = {
    "cross_only": Reading(DiffSegmenter(power=0), lambda e, i: Counts(e)),
    "daam": Reading(Daam(), lambda e, i: Counts(e)),
    "daam_normalized": Reading(Daam(normalize=True), lambda e, i: Counts(e)),
    "ovam": Reading(Ovam(), lambda e, i: Counts(e)),
    "ovam, three texts read": Reading(Ovam(), lambda e, i: Counts(e), variants=READ),
    "text_blind": Reading(
        DiffSegmenter(power=0), lambda e, i: Counts(e), lambda e, i: Counts(2 * i), variants=BLIND, batch=1
    ),
    "diffsegmenter": Reading(
        DiffSegmenter(), lambda e, i: Counts(e, products=FINEST * e), lambda e, i: Counts(e, products=4 * e + i)
    ),
    "self_attention_power, k = 2": Reading(
        DiffSegmenter(power=2),
        lambda e, i: Counts(e, products=2 * FINEST * e),
        lambda e, i: Counts(e, products=2 * (4 * e + i)),
    ),
    "iseg": Reading(ISeg(), lambda e, i: Counts(e, matrices=FINEST * e, rounds=10 * e)),
    "diffseg": Reading(
        DiffSeg(), lambda e, i: Counts(e + i, matrices=EVERY * i), lambda e, i: Counts(e, matrices=EVERY * e)
    ),
    "elbo": Reading(
        Elbo(),
        lambda e, i: Counts(20 * e + e, products=FINEST * e),
        lambda e, i: Counts(20 * e + e, products=4 * e + i),
    ),
    "refdiff_heat of cross_only": Reading(
        DiffSegmenter(power=0), lambda e, i: Counts(e, means=4 * e), proposals=4
    ),
    "latent steps, k = 2": Reading(
        DiffSegmenter(power=0), lambda e, i: Counts(2 * e + e, back=2 * e), steps=2
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def sd15(model):
    """The blocks of SD 1.5, which are diffusers' defaults, on the bundled model's text encoder, at 128 x 128 pixels."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 16, 32, 32), norm_num_groups=8, cross_attention_dim=128
    )
    pipeline = StableDiffusionPipeline(
        model.vae, model.text_encoder, model.tokenizer, unet, model.scheduler, None, None, requires_safety_checker=False
    )
    made = StableDiffusion(pipeline)
    finest = [x for x in made.layers if not x.cross and x.ratio == 1]
    assert (len(finest), sum(not x.cross for x in made.layers)) == (FINEST, EVERY)
    return made


@pytest.fixture
def counter(sd15, monkeypatch):
    """What was made so far, by the names of Counts."""
    found = Counter()

    def count(place, name, key, many=lambda *_: 1):
        inner = getattr(place, name)

        def counting(*given, **named):
            found[key] += many(*given)
            return inner(*given, **named)

        monkeypatch.setattr(place, name, counting)

    count(sd15.unet, "forward", "passes", lambda noisy, *_: len(noisy))
    count(sd15, "gradient", "back", lambda noisy, *_: len(noisy))
    count(score_map, "attend", "products", lambda layer, _: len(layer.query))
    for module in (iseg, diffseg):
        count(module, "mean_matrix", "matrices", len)
    count(refdiff_heat, "score", "means")
    return found


class Squares(TorchDispatchMode):
    """Counts matrix products with S, or what was made of it."""

    def __init__(self, counter):
        super().__init__()
        self.counter = counter

    def __torch_dispatch__(self, function, types, given=(), named=MappingProxyType({})):
        if function is torch.ops.aten.mm.default:
            self.counter["rounds"] += given[1].shape == (CELLS, CELLS)
        return function(*given, **named)


def some(pictures):
    """The first three expressions of the first pictures of the bundled benchmark."""
    dataset = load_refer(str(PACKAGE / "assets"), "shapes", "made", "val")
    samples = [s for own in list(by_image(dataset).values())[:pictures] for s in own[:3]]
    assert len({s.text for s in samples}) == len(samples) == 3 * pictures
    return replace(dataset, samples=samples)


def write_proposals(folder, dataset, count):
    """So many proposals of each picture."""
    for sample in dataset.samples:
        whole = coco_mask.encode(np.ones(sample.size, np.uint8, order="F"))
        one = {"segmentation": {"size": list(sample.size), "counts": whole["counts"].decode()}}
        (folder / f"{sample.image_id}.json").write_text(json.dumps([one] * count))
    return refdiff_heat.RefdiffHeat(str(folder))


@pytest.mark.parametrize("pictures", [1, 2])
@pytest.mark.parametrize("name", READINGS)
def test_a_reading_makes_what_is_counted(sd15, counter, tmp_path, name, pictures):
    reading, dataset = READINGS[name], some(pictures)
    expressions = len(dataset.samples)
    refinement = write_proposals(tmp_path, dataset, reading.proposals) if reading.proposals else None
    settings = RunSettings(reading.variants, batch_size=reading.batch, refinement=refinement)
    steps = AttendAndExcite(steps=reading.steps) if reading.steps else None
    segmenter = Segmenter(sd15, maps=MapSettings((100,)), methods={name: reading.method}, latent_steps=steps)
    task, images = choose_task(dataset, settings), by_image(dataset)
    with Squares(counter) if isinstance(reading.method, ISeg) else torch.no_grad():
        segmented = list(segment_images(images, segmenter, settings))
    for image in segmented:
        counted = count_image(task, settings, dataset, images, image)
        assert not counted.failures and len(counted.rows) == 3 * len(reading.variants)
    assert Counts(**{"passes": 0, **counter}) == (reading.makes or reading.counted)(expressions, pictures)


def test_the_counted_column_is_made_of_multiply_adds():
    """Of SD 1.5 at 512 pixels, over those of a bare pass as torch counts them: docs/readings-cost.json to a hundredth. Four
    maps go through S, one a resolution."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as flops:
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        unet(torch.empty(1, 4, 64, 64), torch.empty(1), torch.empty(1, 77, 768))
    bare = flops.get_total_flops() / 2  # of multiply-adds each is two operations
    cells, heads, columns, anchors = 64 * 64, 8, 4, 16 * 16
    scores = {1: FINEST * heads * cells**2 * 40}  # queries by keys, of all layers of a resolution
    scores |= {2: 5 * heads * (cells // 4) ** 2 * 80, 4: 5 * heads * (cells // 16) ** 2 * 160}
    scores[8] = heads * (cells // 64) ** 2 * 160
    product = scores[1] + FINEST * heads * cells**2 * columns
    merged = 3 * anchors * cells**2 + 2 * 3 * anchors**2 * cells  # distances are two products, means one
    work = {
        "cross_only": 0,
        "diffsegmenter": product,
        "self_attention_power": 2 * product,
        "iseg": scores[1] + 10 * columns * cells**2,
        "diffseg": sum(scores.values()) + merged,
        "elbo": 20 * bare + product,
    }
    found = {name: round(1 + more / bare, 2) for name, more in work.items()}
    costs = read_costs(CONF.parent / "docs" / "readings-cost.json").readings
    assert found == pytest.approx({name: costs[name].counted for name in work}, abs=0.011)
