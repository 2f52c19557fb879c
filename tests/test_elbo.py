"""ELBO-T2IAlign's reading: a text's map beside its rivals', against an oracle, and what it must not depend on."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from attrbind_exp.api.segmenter import LoadedSegmenter
from attrbind_exp.backbones.backbone import encode_images
from attrbind_exp.backbones.stable_diffusion import draw_noise
from attrbind_exp.commands.run import segment_with
from attrbind_exp.config import PACKAGE, read_settings
from attrbind_exp.config.settings import heatmap_methods
from attrbind_exp.data.dataset import by_image
from attrbind_exp.data.images import read_image
from attrbind_exp.data.refer import load_refer
from attrbind_exp.demo.compute import Compared, see
from attrbind_exp.edits import Averaging, NounChunk, TextBlind, Variant
from attrbind_exp.evaluation.batching import segment_images
from attrbind_exp.heatmaps.diffsegmenter import DiffSegmenter
from attrbind_exp.heatmaps.elbo import Elbo
from attrbind_exp.heatmaps.losses import relative_losses
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.types import UserError
from tests.conftest import DIFFSEGMENTER, make_segmenter, picture, states_of
from tests.oracle import reference_elbo, reference_losses
from tests.test_command import command, composed, process
from tests.test_fast_core import passes_of

TEXTS = ["the white skateboarder next to a blue square", "the star", "a red heart"]
STEPS = (1, 401, 951)
FEW = {"diffsegmenter": DiffSegmenter(), "elbo": Elbo(loss_timesteps=(501,))}
BASELINE, FLOOR = Variant("baseline"), Variant("text_blind", (TextBlind(),))
EDITED = Variant("edited", (NounChunk(), Averaging(0.5)), 0.5)
READ = Variant("read", (NounChunk(where="read"), Averaging(0.3, where="read")), 0.3)


def test_it_equals_its_oracle(exact_model):
    """In float64 to 1e-7: three rivals on a picture, of which one is neither best nor worst."""
    segmenter = make_segmenter(exact_model, weights=DIFFSEGMENTER, methods={"elbo": Elbo(loss_timesteps=STEPS)})
    image, latents = picture(64, 64), encode_images(exact_model, [picture(64, 64)])
    found = segmenter([image] * 3, TEXTS, image_ids=["p"] * 3)
    noise = {t: draw_noise(tuple(latents.shape[1:]), 0, "p", t, 0)[None].double() for t in STEPS}
    prompts = segmenter.prepare(TEXTS)
    embeddings, (uncond,) = states_of(exact_model, [p.text for p in prompts]), states_of(exact_model, [""])
    with torch.no_grad():
        losses = reference_losses(exact_model.unet, exact_model.scheduler, latents, noise, embeddings, STEPS)
    assert len(set(relative_losses(losses)) - {0.0}) == 2
    noisy = exact_model.add_noise(latents, ["p"], 100, 0, 0)
    for i, (prompt, embedding) in enumerate(zip(prompts, embeddings, strict=True)):
        given = (exact_model.unet, noisy, 100, embedding, uncond, list(prompt.read), DIFFSEGMENTER, (64, 64))
        plain = reference_elbo(*given, losses, i)
        torch.testing.assert_close(torch.from_numpy(found[i].values).double(), plain, rtol=0, atol=1e-7)


def test_relative_losses_by_hand():
    assert relative_losses([3.0, 1.0, 2.0]) == pytest.approx([1, 0, 0.5])
    assert relative_losses([2.0, 2.0]) == [0, 0] and relative_losses([5.0]) == [0]


@pytest.mark.parametrize("rivals", ["none", "the same text", "equal losses", "strength 1"])
def test_without_a_worse_rival_it_is_diffsegmenter(model, monkeypatch, rivals):
    """To the last bit; a text alone costs no further pass."""
    methods = dict(FEW)
    if rivals == "equal losses":
        monkeypatch.setattr(model, "denoising_loss", lambda latents, *_: torch.full((len(latents),), 0.5))
    if rivals == "strength 1":
        methods["elbo"] = Elbo(strength=1, loss_timesteps=(1, 501))
    texts = {"none": TEXTS[:1], "the same text": TEXTS[:1] * 2}.get(rivals, TEXTS)
    segmenter = make_segmenter(model, methods=methods)
    sizes = passes_of(model, monkeypatch)
    image = picture(64, 64)
    plain = segmenter([image] * len(texts), texts, Variant("b", heatmap="diffsegmenter"))
    if len(set(texts)) == 1:
        assert len(sizes) == 1
    found = segmenter([image] * len(texts), texts, Variant("b", heatmap="elbo"))
    assert all(np.array_equal(one.values, other.values) for one, other in zip(found, plain, strict=True))


def test_the_loss_is_that_of_the_noise_that_is_drawn(model):
    """A prediction that is 2 off everywhere has loss 4. A model of v that is right has loss 0; one that is 2 off is
    2 sqrt(share of the picture) off in noise."""
    own = copy.copy(model)
    latents = encode_images(model, [picture(64, 64), picture(64, 64, 1)])
    noise = torch.stack([draw_noise(tuple(latents.shape[1:]), 3, name, 401, 1) for name in "ab"])
    own.denoise = lambda *_: noise + 2
    given = (latents, ["a", "b"], 401, 1, 3, None)
    torch.testing.assert_close(own.denoising_loss(*given), torch.tensor([4.0, 4.0]))
    own.scheduler = DDPMScheduler.from_config(model.scheduler.config, prediction_type="v_prediction")
    velocity = own.scheduler.get_velocity(latents, noise, torch.tensor([401, 401]))
    for off in (0, 2):
        own.denoise = lambda *_, off=off: velocity + off
        expected = off**2 * own.scheduler.alphas_cumprod[401].expand(2)
        torch.testing.assert_close(own.denoising_loss(*given), expected, rtol=1e-4, atol=1e-9)


class Deaf:
    """A backbone that cannot tell losses."""

    def __init__(self, model):
        self.model = model

    def __getattr__(self, name):
        if name == "denoising_loss":
            raise AttributeError(name)
        return getattr(self.model, name)


def test_what_cannot_be_is_refused(model):
    with pytest.raises(
        UserError, match=r"heatmap=elbo compares denoising losses, .* has no denoising_loss; give it one"
    ):
        make_segmenter(Deaf(model), methods={"elbo": Elbo()})
    assert make_segmenter(Deaf(model)).methods  # the others do not ask
    late = {"elbo": Elbo(loss_timesteps=[1, 1000])}
    with pytest.raises(
        UserError, match=r"heatmap\.elbo\.loss_timesteps=\[1, 1000\]; give one or more between 0 and 999"
    ):
        make_segmenter(model, methods=late)
    with pytest.raises(UserError, match=r"heatmap\.elbo\.loss_timesteps=\[\]; give one or more"):
        make_segmenter(model, methods={"elbo": Elbo(loss_timesteps=())})
    for strength in (0, -1, True, "3", float("nan")):
        with pytest.raises(UserError, match=r"strength=.* of a heatmap; give a number above 0"):
            Elbo(strength=strength)


def test_the_option_has_the_authors_constants():
    made = heatmap_methods(composed("heatmap=[diffsegmenter,elbo]"))
    assert made["elbo"] == Elbo(weights=made["diffsegmenter"].weights)
    assert made["elbo"].loss_timesteps == tuple(range(1, 999, 50)) and len(made["elbo"].loss_timesteps) == 20


@pytest.fixture(scope="module")
def scenes():
    """Three pictures of the bundled benchmark, one of them with an expression that stands twice."""
    dataset = load_refer(str(PACKAGE / "assets"), "shapes", "made", "val", limit=14)
    first = dataset.samples[0]
    samples = [replace(s, text=first.text) if i == 1 else s for i, s in enumerate(dataset.samples)]
    found = by_image(replace(dataset, samples=samples))
    assert len(found) > 2 and [s.image_id for s in samples[:2]] == [first.image_id] * 2
    return found


def heats(scenes, segmenter, variants, done=0, batch_size=4, seeds=(0, 1)):
    """Every heat map by (image, sample, label, seed)."""
    settings = RunSettings(variants, batch_size=batch_size, seeds=seeds)
    return {
        (image.image_id, item.sample.sample_id, variant.label, seed): item.heats[item.index[v][s]].values
        for image in segment_images(scenes, segmenter, settings, done=done)
        for item in image.items
        for v, variant in enumerate(variants)
        for s, seed in enumerate(seeds)
    }


def read_both(*variants):
    return [replace(v, heatmap=name) for v in variants for name in FEW]


def test_a_row_depends_on_the_expressions_of_its_picture_and_on_nothing_else(model, scenes):
    """Not on the other pictures of a shard or of what is left of a run, to the last bit; not on other variants."""
    segmenter, variants = make_segmenter(model, methods=FEW), read_both(BASELINE, READ, FLOOR)
    whole = heats(scenes, segmenter, variants)
    parts = [dict(list(scenes.items())[k::2]) for k in (0, 1)]
    shards = heats(parts[0], segmenter, variants) | heats(parts[1], segmenter, variants)
    assert whole.keys() == shards.keys() and all(np.array_equal(whole[key], shards[key]) for key in whole)
    resumed = heats(scenes, segmenter, variants, done=1)
    assert len(resumed) < len(whole) and all(np.array_equal(resumed[key], whole[key]) for key in resumed)
    for label in ("baseline", "text_blind"):
        alone = heats(scenes, segmenter, [v for v in variants if v.method == label])
        assert all(np.allclose(alone[key], whole[key], rtol=0, atol=2e-5) for key in alone)
    image = next(iter(scenes))
    few = heats({image: scenes[image][2:]}, segmenter, variants)
    moved = [key for key in few if not np.allclose(few[key], whole[key], rtol=0, atol=1e-3)]
    assert moved and all("heatmap=elbo" in label for _, _, label, _ in moved)


def test_the_weight_of_a_text_is_that_of_its_row(model, scenes):
    """Equal texts have the same map, each seed weighs anew, edits and what is read are weighed by the plain prompt, the
    floor by nothing."""
    segmenter = make_segmenter(model, methods=FEW)
    found = heats(scenes, segmenter, read_both(BASELINE, EDITED, READ, FLOOR))
    image, samples = next(iter(scenes.items()))
    one, same = ([found[image, s.sample_id, "baseline heatmap=elbo", seed] for seed in (0, 1)] for s in samples[:2])
    assert np.array_equal(one, same) and not np.allclose(*one, atol=1e-2)
    for (picture_id, sample, label, seed), heat in found.items():
        if "text_blind" in label:
            assert np.array_equal(heat, found[picture_id, sample, "text_blind heatmap=diffsegmenter", seed])
    changed = {label for (i, s, label, seed), heat in found.items() if not np.allclose(
        heat, found[i, s, label.replace("=elbo", "=diffsegmenter"), seed], atol=1e-2)}  # fmt: skip
    assert len(changed) == 3 and all("elbo" in label for label in changed)
    latents = encode_images(model, [read_image(samples[0].image_path)])
    prompts = segmenter.prepare([s.text for s in samples])
    relative = segmenter.compare_texts(latents, [image], prompts, [0] * len(samples), 1, 4)
    best = [i for i, own in enumerate(relative) if own["elbo"] == 0]
    for i, sample in enumerate(samples):
        pair = [found[image, sample.sample_id, f"baseline heatmap={name}", 1] for name in FEW]
        assert np.array_equal(*pair) == (i in best)


def test_a_picture_is_drawn_as_it_was_scored(model, scenes):
    """Pictures show one expression or two of an image; its map is still that beside all others of the run."""
    segmenter, variants = make_segmenter(model, methods=FEW), read_both(BASELINE)
    samples = [s for group in scenes.values() for s in group]
    dataset = replace(load_refer(str(PACKAGE / "assets"), "shapes", "made", "val", limit=1), samples=samples)
    whole = heats(scenes, segmenter, variants, seeds=(0,))
    segment = segment_with(segmenter, None, dataset)
    drawn = list(segment({samples[0].image_id: samples[:1]}, RunSettings(variants, batch_size=4)))
    item = drawn[0].items[0]
    assert item.sample == samples[0] and len(drawn) == 1
    for v, variant in enumerate(variants):
        expected = whole[samples[0].image_id, samples[0].sample_id, variant.label, 0]
        assert np.array_equal(item.heats[item.index[v][0]].values, expected)


def test_the_expressions_of_a_call_are_rivals(model):
    """In the core, the Python API and the demo: those of one picture, not those of another one."""
    core = make_segmenter(model, methods={"elbo": FEW["elbo"]})
    image, other = picture(64, 64), picture(64, 64, 5)
    expected = [heat.values for heat in core([image] * 3, TEXTS, image_ids=["0"] * 3)]
    alone = core([image, other, other], TEXTS, image_ids=["0", "1", "1"])[0].values
    assert not all(np.allclose(heat, alone, atol=1e-2) for heat in expected)
    assert any(
        not np.allclose(core([image], [t], image_ids=["0"])[0].values, e, atol=1e-2)
        for t, e in zip(TEXTS, expected, strict=True)
    )
    by_object = core([image] * 3, TEXTS)  # the first one's noise is that of "0"
    assert np.allclose(by_object[0].values, expected[0], atol=1e-4)
    api = LoadedSegmenter(core, read_settings(composed()).segmenter.model, "baseline", 0.9)
    seen = see(Compared(core, [BASELINE, FLOOR], 8), image, TEXTS)
    pairs = api([image, other, image, image], [TEXTS[0], TEXTS[0], *TEXTS[1:]])
    for i, found in enumerate((api(image, TEXTS), [pairs[0], *pairs[2:]])):
        assert all(np.allclose(r.heat_map, e, atol=1e-4) for r, e in zip(found, expected, strict=True)), i
    for number, heat in enumerate(expected):
        assert np.allclose(core.heat_map(seen[number].completed[0], (64, 64)).values, heat, atol=1e-4)
    floors = [one.completed[one.index[1]] for one in seen]
    plain = make_segmenter(model)([image], TEXTS[:1], FLOOR, ["0"])[0].values
    assert np.allclose(core.heat_map(floors[0], (64, 64)).values, plain, atol=1e-4)


@pytest.mark.parametrize("data", [pytest.param("shapes", marks=pytest.mark.slow), "shapes_classes"])
def test_a_run_in_parts_and_a_rescored_one_are_the_run(tmp_path, data):
    """Expressions and classes; merged shards are the whole run, and its kept maps are the scored ones."""
    given = [
        f"dataset={data}", "dataset.fraction=0.02", "batch_size=8", "tracker=none", "gallery=0", "changed=0",
        "text_processor=baseline", "heatmap=[diffsegmenter,elbo]", "heatmap.elbo.loss_timesteps=[501]", "cache.folder=null",
    ]  # fmt: skip
    whole, parts, again = tmp_path / "whole", tmp_path / "parts", tmp_path / "again"
    assert command(*given, "keep_maps=true", f"hydra.run.dir={whole}")[0] == 0
    code, _, err = command("-m", "shard=0/2,1/2", *given, f"hydra.sweep.dir={parts}")
    assert code == 0, err
    (merged,) = parts.glob("merged*")
    assert (merged / "expressions.jsonl").read_text() == (whole / "expressions.jsonl").read_text()
    code, _, err = process(str(whole), "threshold=0.5", "--out", str(again), module="rescore")
    assert code == 0, err
    found = [json.loads((folder / "summary.json").read_text())["variants"] for folder in (whole, again)]
    labels = [v["label"] for v in found[0]]
    assert labels == [f"{name} heatmap={heatmap}" for name in ("baseline", "text_blind") for heatmap in FEW]
    plain, elbo, blind, blind_elbo = found[0]
    assert plain["mIoU"] != elbo["mIoU"] and blind["mIoU"] == blind_elbo["mIoU"]
    rows = [[json.loads(x) for x in (f / "expressions.jsonl").read_text().splitlines()] for f in (whole, again)]
    for one, other in zip(*rows, strict=True):
        assert (one["image_id"], one["heatmap"]) == (other["image_id"], other["heatmap"])
