"""Scenes, captions, the bundled benchmark and model, and a training loop that survives being killed."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from attrbind_exp.backbones.stable_diffusion import load_stable_diffusion
from attrbind_exp.config import PACKAGE
from attrbind_exp.data.masks import decode_mask
from attrbind_exp.data.refer import load_refer
from attrbind_exp.language.overrides import read_overrides
from attrbind_exp.language.parse import parse_expressions
from attrbind_exp.pretrain import captions, scenes
from attrbind_exp.pretrain.architecture import WINDOW, build_tokenizer
from attrbind_exp.pretrain.benchmark import (
    PIXELS,
    SCENES,
    benchmark_scene,
    build_records,
    chosen_references,
    parse_rows,
)
from attrbind_exp.pretrain.clip import TWO_PHRASES, build_clip, cut_padding, noun_variance, tokenize
from attrbind_exp.pretrain.loop import Plan, differentiate, train
from attrbind_exp.pretrain.stages import UnetTraining
from attrbind_exp.scoring.binding import swaps
from tests.test_command import command

ASSETS = PACKAGE / "assets"


def bundled(split):
    return load_refer(str(ASSETS), "shapes", "made", split)


def test_the_shipped_benchmark_is_the_one_that_the_generator_makes():
    instances, refs, _ = build_records()
    assert json.loads((ASSETS / "shapes" / "refs(made).json").read_text()) == refs
    shipped = json.loads((ASSETS / "shapes" / "instances.json").read_text())
    assert shipped["images"] == instances["images"] and len(shipped["annotations"]) == len(instances["annotations"])
    lines = (ASSETS / "shapes" / "parses.csv").read_text().splitlines()
    assert len(lines) == len(parse_rows()) + 1


def test_the_benchmark_is_large_and_hard_enough():
    test, val = bundled("test"), bundled("val")
    assert len(test.samples) >= 1000 and len(val.samples) >= 300 and not test.failures + val.failures
    assert SCENES["test"] >= 300 and SCENES["val"] >= 100
    objects = [benchmark_scene("test", i).objects for i in range(SCENES["test"])]
    assert np.mean([len({o.shape for o in scene}) < len(scene) for scene in objects]) >= 0.5
    for sample in test.samples:
        assert set(sample.slices) == {"same_shape", "same_colour", "pair", "rivalry", "kind", "order"}
        assert decode_mask(sample.segmentation, sample.size).sum() > 30
    share = {k: np.mean([s.slices[k] == "distractor" for s in test.samples]) for k in ("same_shape", "same_colour")}
    assert share["same_shape"] >= 0.5 and share["same_colour"] >= 0.25
    for name, values in {
        "pair": {"rare", "common", "usual"},
        "rivalry": {"rare_beside_usual", "usual_beside_rare", "none"},
        "kind": {"colour", "position", "relation", "plain"},
        "order": {"one_noun", "target_first", "target_second"},
    }.items():
        counts = Counter(s.slices[name] for s in test.samples)
        assert set(counts) == values and min(counts.values()) >= 100


def test_roles_are_swapped_for_every_rare_pair_and_its_usual_rival():
    """Each is asked for as often as the other, in the same words but for the colours, and no pair is left out."""
    scenes_of = Counter()
    for index in range(SCENES["test"]):
        scene = benchmark_scene("test", index)
        first, second = scene.objects[:2]
        if first.shape != second.shape or first.pair != "rare" or second.pair != "usual":
            continue
        scenes_of[first.shape, first.colour] += 1
        found = chosen_references(np.random.default_rng(index), scene)
        for kind in ("one_noun", "target_second"):
            words = [next(r.text for r in of if r.order == kind and r.kind != "position") for of in found[:2]]
            assert all(obj.colour in text for obj, text in zip((first, second), words, strict=True))
    assert set(scenes_of) == {(s, c) for s in scenes.SHAPES for c in scenes.RARE[s]} and set(scenes_of.values()) == {5}


def test_every_scene_with_a_rival_has_the_swapped_modifier():
    samples = bundled("test").samples
    swapped = {samples[a].image_id for a, _ in swaps(samples)}
    assert swapped == {s.image_id for s in samples if s.slices["same_shape"] == "distractor"}
    assert all(samples[a].text.split()[1:] != samples[b].text.split()[1:] for a, b in swaps(samples))


def test_targets_are_read_as_they_are_meant():
    for split in SCENES:
        samples = bundled(split).samples
        overrides = read_overrides(ASSETS / "shapes" / "parses.csv")
        parses = parse_expressions([s.text for s in samples], overrides=overrides)
        right = []
        for sample, parse in zip(samples, parses, strict=True):
            find = sample.text.rindex if sample.slices["order"] == "target_second" else sample.text.index
            right.append(parse.target[0] == find(sample.category) and parse.target_text == sample.category)
        second = [r for s, r in zip(samples, right, strict=True) if s.slices["order"] == "target_second"]
        assert all(second) and np.mean(right) > 0.98


def test_splits_share_no_scene():
    seen = {}
    for split, count in {"train": 3000, **SCENES}.items():
        for i in range(count):
            scene = scenes.training_scene(i) if split == "train" else benchmark_scene(split, i)
            assert seen.setdefault(scene.objects, split) == split


def test_masks_lie_where_the_objects_are_drawn():
    for index in range(20):
        scene = benchmark_scene("val", index)
        picture = scenes.draw(scene, PIXELS).astype(float)
        for obj in scene.objects:
            inside = scenes.object_mask(obj, PIXELS) > 0.99
            assert np.abs(np.median(picture[inside], 0) - scenes.COLOURS[obj.colour]).max() < 60


def test_rare_pairs_are_rare_in_training():
    drawn = [o for i in range(4000) for o in scenes.training_scene(i).objects]
    share = {pair: np.mean([o.pair == pair for o in drawn]) for pair in ("rare", "usual")}
    assert 0.005 < share["rare"] < 0.04 and 0.25 < share["usual"] < 0.42
    for shape in scenes.SHAPES:
        assert sum(scenes.pair_weights(shape).values()) == pytest.approx(1)


def test_training_scenes_hold_rivals_and_colour_twins():
    drawn = [scenes.training_scene(i).objects for i in range(1500)]
    for name in ("shape", "colour"):
        assert 0.35 < np.mean([len({getattr(o, name) for o in objects}) < len(objects) for objects in drawn]) < 0.65
    assert all(len({(o.shape, o.colour) for o in objects}) == len(objects) for objects in drawn)


def test_usual_colours_go_without_saying():
    rng = np.random.default_rng(0)
    usual, rare = (scenes.Object("heart", c, 0, 0, 1, 0) for c in ("red", "green"))
    said = [np.mean([captions.says_colour(rng, obj) for _ in range(2000)]) for obj in (usual, rare)]
    assert said == [pytest.approx(0.4, abs=0.05), pytest.approx(0.65, abs=0.05)]


def test_jumbled_captions_keep_their_words():
    rng = np.random.default_rng(0)
    caption = "above a red moon, the star and a heart"
    found = {captions.jumble(rng, caption) for _ in range(20)}
    assert len(found) > 15 and all(sorted(x.split()) == sorted(caption.replace(",", "").split()) for x in found)


def test_what_a_noun_knows_is_told_by_what_its_state_varies_with(model):
    """Two encoders by hand: one state holds its own word alone, the other all words so far."""
    vectors = torch.randn(len(model.tokenizer), 64, generator=torch.Generator().manual_seed(0))

    def words_alone(ids):
        return SimpleNamespace(last_hidden_state=vectors[ids])

    def bag(ids):
        return SimpleNamespace(last_hidden_state=vectors[ids].cumsum(1))

    alone = noun_variance(model.tokenizer, words_alone, TWO_PHRASES, count=1000)
    assert alone["shape"] == pytest.approx(100) and max(v for k, v in alone.items() if k != "shape") < 3
    known = noun_variance(model.tokenizer, bag, TWO_PHRASES, count=1000)
    assert known["colour"] == pytest.approx(known["other colour"], abs=5) and 15 < known["colour"] < 35
    one = noun_variance(model.tokenizer, bag, "a {colour} {shape}", count=1000)
    assert one["colour"] > 35 and max(one["other colour"], one["other shape"]) < 3


def test_expressions_fit_one_object_only():
    for index in range(60):
        scene = benchmark_scene("test", index)
        for target in scene.objects:
            for reference in captions.references(np.random.default_rng(index), scene, target):
                words = reference.text.split()
                chunk = reference.text[slice(*reference.chunk)].split()
                assert chunk[0] == "the" and chunk[-1] == target.shape and set(chunk[1:-1]) <= {target.colour}
                fits = [o for o in scene.objects if o.shape in words]
                if reference.kind in ("colour", "plain"):
                    fits = [o for o in fits if o.colour in words or reference.kind == "plain"]
                    assert fits == [target]
                assert target.shape in words


def test_training_captions_are_true():
    for index in range(300):
        scene = scenes.training_scene(index)
        caption = captions.training_caption(np.random.default_rng(index), scene)
        shapes = {o.shape for o in scene.objects} | {captions.plural(o.shape) for o in scene.objects}
        named = [w.strip(",") for w in caption.split()]
        known = set(scenes.SHAPES) | {captions.plural(s) for s in scenes.SHAPES}
        assert {w for w in named if w in known} <= shapes
        assert {w for w in named if w in scenes.COLOURS} <= {o.colour for o in scene.objects}


def test_tokenizer_knows_its_words_and_takes_others_to_pieces():
    tokenizer = build_tokenizer([f"a photograph of the {c} {s}" for c in scenes.COLOURS for s in scenes.SHAPES])
    assert tokenizer.tokenize("The white star") == ["the</w>", "white</w>", "star</w>"]
    assert len(tokenizer.tokenize("skateboarder")) > 3
    assert tokenizer.decode(tokenizer("белая star 🐕").input_ids, skip_special_tokens=True) == "белая star 🐕"
    ids = tokenizer("a star", padding="max_length").input_ids
    assert len(ids) == WINDOW and ids[0] == tokenizer.bos_token_id and set(ids[3:]) == {tokenizer.eos_token_id}


def test_a_killed_training_goes_on_as_if_nothing_had_happened(tmp_path):
    class Killed(Exception):
        pass

    def fit(folder, dies_at=None):
        torch.manual_seed(0)
        net = torch.nn.Linear(5, 1)

        def sample(step):
            if step == dies_at:
                raise Killed
            x = torch.randn(16, 5, generator=torch.Generator().manual_seed(step))
            return x, x.sum(1, keepdim=True)

        def loss(x, y):
            return (net(x) - y).pow(2).mean()

        folder.mkdir(exist_ok=True)
        last = train(
            net, sample, loss, Plan("net", 60, 16, 1e-2, 0, warmup=5, checkpoint_every=10), folder, lambda *_: None
        )
        return net, last

    whole, whole_loss = fit(tmp_path / "whole")
    with pytest.raises(Killed):
        fit(tmp_path / "killed", dies_at=37)
    resumed, resumed_loss = fit(tmp_path / "killed")
    assert torch.equal(whole.weight, resumed.weight) and whole_loss == resumed_loss
    assert whole_loss < 6


def test_the_bundled_model_generates_with_plain_diffusers():
    pipeline = StableDiffusionPipeline.from_pretrained(ASSETS / "bundled", use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red circle", num_inference_steps=4, generator=torch.Generator().manual_seed(0)).images[0]
    assert image.size == (64, 64) and np.asarray(image).std() > 5
    assert sum(f.stat().st_size for f in (ASSETS / "bundled").rglob("*.safetensors")) < 20e6


def test_workers_share_a_batch_and_leave_the_gradient_of_the_whole():
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    found = []
    for workers in (1, 3):
        torch.manual_seed(0)
        net = torch.nn.Linear(5, 2)
        value = differentiate(
            net, (x,), lambda x, net=net: net(x).pow(2).mean(), Plan("n", 1, 12, 1, 0, workers=workers)
        )
        found.append((value, net.weight.grad, net.bias.grad))
    assert found[0][0] == pytest.approx(found[1][0])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found[0][1:], found[1][1:], strict=True))


def test_the_learning_rate_knows_the_end_only_when_it_cools_down():
    short, long = (Plan("net", steps, 8, 1e-3, 0, warmup=10) for steps in (1000, 2000))
    assert [short.rate(k) for k in range(690)] == [long.rate(k) for k in range(690)]
    assert short.rate(0) == pytest.approx(1e-4) and short.rate(999) == pytest.approx(1e-3 / 300)


def test_focused_timesteps():
    training = UnetTraining(empty=0.1, words_only=0, object_weight=10, focus=(50, 450), focus_share=0.5)
    t = training.draw_timesteps(np.random.default_rng(0), 20000, 1000)
    assert t.min() >= 0 and t.max() == 999
    assert np.mean((t >= 50) & (t <= 450)) == pytest.approx(0.5 + 0.5 * 0.401, abs=0.02)


def test_end_and_padding_are_hidden_in_the_given_share_of_captions():
    ids = torch.tensor([[7, 1, 2, 9, 9]] * 2000)
    training = UnetTraining(empty=0.1, words_only=0.3, object_weight=10, focus=(50, 450), focus_share=0.5)
    visible = training.visible_tokens(np.random.default_rng(0), ids, end=9)
    assert visible[:, :3].all() and torch.equal(visible[:, 3], visible[:, 4])
    assert 1 - visible[:, 3].float().mean() == pytest.approx(0.3, abs=0.03)


def test_clip_learns_from_the_diagonal_and_padding_can_be_cut():
    tokenizer, clip = build_clip(0)
    ids = tokenize(tokenizer, ["a red circle", "a photograph of two stars", "the moon"])
    cut = cut_padding(ids, tokenizer.eos_token_id)
    assert ids.shape[1] == WINDOW and cut.shape[1] < WINDOW
    assert torch.allclose(clip.embed_texts(ids), clip.embed_texts(cut), atol=1e-5)
    states = clip.text_encoder(ids).last_hidden_state
    means = torch.stack([of[:n].mean(0) for of, n in zip(states, (5, 7, 4), strict=True)])  # start, words, end
    assert torch.allclose(clip.embed_texts(ids), torch.nn.functional.normalize(clip.projection(means)), atol=1e-5)
    pictures = torch.rand(3, 3, 64, 64) * 2 - 1
    turned = torch.tensor([2, 0, 1])
    assert clip(ids, pictures).item() == pytest.approx(clip(ids[turned], pictures[turned]).item(), abs=1e-4)
    scores = clip.embed_texts(ids) @ clip.embed_images(pictures).T / 0.07
    by_hand = -(scores.log_softmax(1).diagonal() + scores.log_softmax(0).diagonal()).mean() / 2
    assert clip(ids, pictures).item() == pytest.approx(by_hand.item(), abs=1e-4)


def test_the_pretrain_command_makes_a_model_that_loads(tmp_path):
    small = ["scenes=60", "vae.steps=2", "vae.batch=2", "unet.steps=2", "unet.batch=2", "clip.steps=2", "clip.batch=2"]
    given = [f"folder={tmp_path}/work", f"out={tmp_path}/model", *small]
    code, out, err = command(*given, module="pretrain")
    assert code == 0, err
    assert out.splitlines()[-1] == f"{tmp_path}/model" and (tmp_path / "work" / "samples.png").is_file()
    model = load_stable_diffusion(f"{tmp_path}/model", device="cpu")
    assert model.encode_text(["a red circle"])[0].states.isfinite().all() and model.size == (64, 64)
    assert "swapped colours" in out
    for folder in (tmp_path / "model", ASSETS / "bundled"):
        for file in folder.rglob("*.json"):
            assert not any('"_name_or_path": "/' in line for line in file.read_text().splitlines()), file
    code, _, err = command("stage=clop", *given, module="pretrain")
    assert code == 2 and "choose from clip, vae, unet, export, benchmark, all" in err
