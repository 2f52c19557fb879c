"""Scenes, captions, the bundled benchmark and model, and a training loop that survives being killed."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from attrbind_exp.config import PACKAGE
from attrbind_exp.data.masks import decode_mask
from attrbind_exp.data.refer import load_refer
from attrbind_exp.diffusion.model import load_model
from attrbind_exp.pretrain import captions, scenes
from attrbind_exp.pretrain.architecture import WINDOW, build_tokenizer
from attrbind_exp.pretrain.benchmark import PIXELS, SCENES, benchmark_scene, build_records
from attrbind_exp.pretrain.loop import Plan, train
from tests.test_command import command

ASSETS = PACKAGE / "assets"


def bundled(split):
    return load_refer(str(ASSETS), "shapes", "made", split)


def test_the_shipped_benchmark_is_the_one_that_the_generator_makes():
    instances, refs, _ = build_records()
    assert json.loads((ASSETS / "shapes" / "refs(made).json").read_text()) == refs
    shipped = json.loads((ASSETS / "shapes" / "instances.json").read_text())
    assert shipped["images"] == instances["images"] and len(shipped["annotations"]) == len(instances["annotations"])


def test_the_benchmark_is_large_and_hard_enough():
    test, val = bundled("test"), bundled("val")
    assert len(test.samples) >= 400 and len(val.samples) >= 200 and not test.failures + val.failures
    with_rival = [benchmark_scene("test", i).objects for i in range(SCENES["test"])]
    assert sum(len({o.shape for o in objects}) < len(objects) for objects in with_rival) >= len(with_rival) / 2
    for sample in test.samples:
        assert set(sample.slices) == {"same_shape", "same_colour", "pair", "kind"}
        assert decode_mask(sample.segmentation, sample.size).sum() > 30
    assert {s.slices["pair"] for s in test.samples} == {"rare", "common", "usual"}


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


def test_expressions_fit_one_object_only():
    for index in range(60):
        scene = benchmark_scene("test", index)
        for target in scene.objects:
            for reference in captions.references(np.random.default_rng(index), scene, target):
                words = reference.text.split()
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

        def loss(step):
            if step == dies_at:
                raise Killed
            x = torch.randn(16, 5, generator=torch.Generator().manual_seed(step))
            return (net(x) - x.sum(1, keepdim=True)).pow(2).mean()

        folder.mkdir(exist_ok=True)
        last = train(net, loss, Plan("net", 60, 16, 1e-2, 0, warmup=5, checkpoint_every=10), folder, lambda *_: None)
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


def test_the_pretrain_command_makes_a_model_that_loads(tmp_path):
    small = ["scenes=60", "vae.steps=2", "vae.batch=2", "unet.steps=2", "unet.batch=2"]
    given = [f"folder={tmp_path}/work", f"out={tmp_path}/model", *small]
    code, out, err = command(*given, module="pretrain")
    assert code == 0, err
    assert out.splitlines()[-1] == f"{tmp_path}/model" and (tmp_path / "work" / "samples.png").is_file()
    model = load_model(f"{tmp_path}/model", device="cpu")
    assert model.encode_text(["a red circle"]).isfinite().all() and model.size == (64, 64)
    code, _, err = command("stage=clip", *given, module="pretrain")
    assert code == 2 and "choose from vae, unet, export, benchmark, all" in err
