"""Every short cut of the core against the plain way: sums, batches, memory that runs out, kept maps, rescoring."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from attrbind_exp import config
from attrbind_exp.backbones.backbone import Embedding, Request, encode_images
from attrbind_exp.backbones.cached import CachedBackbone
from attrbind_exp.backbones.stable_diffusion import StableDiffusion, load_stable_diffusion
from attrbind_exp.cache import Cache
from attrbind_exp.config import PACKAGE
from attrbind_exp.data.dataset import by_image
from attrbind_exp.data.images import read_image
from attrbind_exp.data.refer import load_refer
from attrbind_exp.edits import Averaging, NounChunk, Variant
from attrbind_exp.evaluation import batch_size
from attrbind_exp.evaluation.batching import segment_images
from attrbind_exp.heatmaps.layers import Column
from attrbind_exp.heatmaps.score_map import attend
from attrbind_exp.runs.maps import KeptMaps, maps_file, read_maps, write_maps
from attrbind_exp.scoring import metrics
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.types import LayerChoice, UserError
from tests.conftest import ALL_RESOLUTIONS, embeddings_of, make_segmenter, make_variant, picture
from tests.oracle import reference_heat_map
from tests.test_command import command, composed, process
from tests.test_core import as_pipeline

BASELINE, OURS = Variant("baseline"), make_variant("ours", replace=True, alpha=0.9)
ALL = ALL_RESOLUTIONS


@pytest.fixture(scope="module")
def scenes():
    return by_image(load_refer(str(PACKAGE / "assets"), "shapes", "made", "val", limit=14))


def heats(images, segmenter, settings):
    """Heat maps of a dataset, (expressions, variants, seeds) of (H, W)."""
    return [
        [[item.heats[number].values for number in row] for row in item.index]
        for image in segment_images(images, segmenter, settings)
        for item in image.items
    ]


def passes_of(model, monkeypatch):
    """Notes the rows of every pass."""
    sizes, denoise = [], model.denoise
    monkeypatch.setattr(model, "denoise", lambda noisy, *rest: sizes.append(len(noisy)) or denoise(noisy, *rest))
    return sizes


def test_a_whole_run_equals_the_oracle(model, scenes, tmp_path, monkeypatch):
    """Batches across images, the last one filled up, cache cold and warm, memory that runs out: all at once."""
    few, denoise = dict(list(scenes.items())[:2]), model.denoise
    samples = [sample for group in few.values() for sample in group]

    def small(noisy, *rest):
        if len(noisy) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return denoise(noisy, *rest)

    for _ in ("cold", "warm"):
        own = StableDiffusion(as_pipeline(model))
        cached = CachedBackbone(own, Cache(tmp_path))
        segmenter = make_segmenter(cached, weights=ALL)
        monkeypatch.setattr(own, "denoise", small)
        found = heats(few, segmenter, RunSettings([BASELINE, OURS], batch_size=8))
        cached.cache.flush()
        for variant in (0, 1):
            for i, sample in enumerate(samples):
                plain = oracle_map(make_segmenter(model, weights=ALL), sample, [BASELINE, OURS][variant])
                torch.testing.assert_close(torch.from_numpy(found[i][variant][0]), plain, rtol=1e-5, atol=1e-5)
    assert cached.cache.hits >= len(few)


def oracle_map(segmenter, sample, variant):
    """The readable recipe from the picture on, (H, W)."""
    model, image = segmenter.backbone, read_image(sample.image_path, sample.size)
    prompt = segmenter.prepare([sample.text], [sample.category])[0]
    embedding = segmenter.edit([prompt], [variant])[0].embedding(0)
    noisy = model.add_noise(encode_images(model, [image]), [sample.image_id], 100, 0, 0)
    uncond = model.encode_text([""])[0].states
    return reference_heat_map(model.unet, noisy, 100, embedding.keys, uncond, list(prompt.q), ALL, sample.size)


def everything(layers):
    """The request of all these layers' attention."""
    return Request(cross=tuple(x for x in layers if x.cross), queries_keys=tuple(x for x in layers if not x.cross))


def test_the_pass_ends_with_the_last_layer_that_is_read(model, segmenter):
    ran = []
    handles = [
        m.register_forward_hook(lambda *_, name=n: ran.append(name))
        for n, m in model.unet.named_modules()
        if n in ("conv_out", "mid_block", "down_blocks.0")
    ]
    noisy, embedding = torch.zeros(1, 4, 16, 16), Embedding(model.encode_text(["star"])[0].states[None])
    pools = torch.ones(1, 1, embedding.keys.shape[1])
    try:
        for read, expected in [
            (model.layers, ["down_blocks.0", "mid_block"]),
            ([x for x in model.layers if x.name.startswith("down_blocks.1")], ["down_blocks.0"]),
        ]:
            ran.clear()
            seen = model.observe(noisy, 100, embedding, everything(read), pools)
            assert ran == expected
            assert set(seen.cross) == {x for x in read if x.cross}
            assert {x.layer for x in seen.self_attention} == {x for x in read if not x.cross}
        ran.clear()
        seen = model.observe(noisy, 100, embedding, Request(noise=True))
        assert ran[-1] == "conv_out" and torch.equal(seen.noise, model.denoise(noisy, 100, embedding))
    finally:
        for handle in handles:
            handle.remove()


def test_a_truncated_pass_reads_what_a_whole_one_does(model):
    noisy, texts = torch.randn(2, 4, 16, 16), model.encode_text(["red star", "heart"])
    embedding = Embedding(torch.stack([x.states for x in texts]))
    pools = torch.ones(2, 1, embedding.keys.shape[1]) / 24
    layers = [x for x in model.layers if x.cross or x.ratio == 1]
    whole = model.observe(noisy, 100, embedding, everything(layers), pools)
    for read in (layers[:2], layers[3:5]):
        part = model.observe(noisy, 100, embedding, everything(read), pools)
        assert part.cross
        for layer, found in part.cross.items():
            torch.testing.assert_close(found, whole.cross[layer])


def test_a_pass_keeps_the_sums_of_large_self_attention_and_completes_by_them(model):
    noisy = torch.randn(2, 4, 32, 32)
    embedding = Embedding(torch.stack([x.states for x in model.encode_text(["red star", "heart"])]))
    pools = torch.ones(2, 1, embedding.keys.shape[1]) / 24
    layers = [x for x in model.layers if x.cross or x.ratio <= 2]
    with torch.no_grad():
        seen = model.observe(noisy, 100, embedding, everything(layers), pools)
    for one in seen.self_attention:
        if one.layer.ratio > 1:
            assert one.log_sums is None, "few cells: the fused kernel is as fast"
            continue
        scores = one.query @ one.key.transpose(-1, -2) * one.scale
        torch.testing.assert_close(one.log_sums, scores.logsumexp(-1))
        c = torch.rand(2, 3, 1024)
        torch.testing.assert_close(attend(one, c), attend(replace(one, log_sums=None), c), rtol=1e-5, atol=1e-6)
    full = [one for one in seen.self_attention if one.layer.ratio == 1]
    assert full
    with torch.enable_grad():  # plain attention, which gradients go through
        seen = model.observe(noisy, 100, embedding, everything(layers), pools)
    assert all(one.log_sums is None for one in seen.self_attention)


def test_rows_of_one_image_share_what_the_text_has_not_touched(segmenter):
    images, words = [picture(64, 64, i) for i in range(2)], ["the white star", "a red heart", "the star"]
    latents = encode_images(segmenter.backbone, images)
    edited = embeddings_of(segmenter, words, BASELINE)
    owner = [1, 0, 1]  # not in order
    shared = segmenter.complete(latents, ["a", "b"], *edited, images=owner)
    apart = segmenter.complete(latents[owner], ["b", "a", "b"], *edited)
    torch.testing.assert_close(shared, apart, rtol=1e-5, atol=1e-6)
    assert not torch.equal(shared[0], shared[1])


def test_passes_fill_batches_across_images_and_seeds_in_order(model, scenes, monkeypatch):
    settings = RunSettings([BASELINE, OURS], batch_size=6, seeds=(0, 1))
    sizes = passes_of(model, monkeypatch)
    together = heats(scenes, make_segmenter(model), settings)
    bound = sum(1 if row[0][0] is row[1][0] else 2 for row in together)
    assert set(sizes) == {6}, "every pass has one size, the last one is filled up"
    assert len(sizes) == 2 * -(-bound // 6)
    alone = heats(scenes, make_segmenter(model), RunSettings([BASELINE, OURS], batch_size=1, seeds=(0, 1)))
    np.testing.assert_allclose(np.array(together), np.array(alone), atol=1e-5)


@pytest.mark.parametrize("left_out", [1, 2])
def test_a_row_is_the_same_to_the_last_bit_whatever_shares_its_batch(model, scenes, left_out):
    settings = RunSettings([BASELINE, OURS], batch_size=4)
    whole = heats(scenes, make_segmenter(model), settings)
    rest = dict(list(scenes.items())[left_out:])
    part = heats(rest, make_segmenter(model), settings)
    assert np.array_equal(np.array(whole[-len(part) :]), np.array(part))


def test_out_of_memory_halves_the_batch_and_loses_nothing(model, scenes, monkeypatch, capsys):
    settings = RunSettings([BASELINE, OURS], batch_size=8)
    plain = heats(scenes, make_segmenter(model), settings)
    denoise, tried = model.denoise, []

    def small(noisy, *rest):
        tried.append(len(noisy))
        if len(noisy) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return denoise(noisy, *rest)

    monkeypatch.setattr(model, "denoise", small)
    halved = heats(scenes, make_segmenter(model), settings)
    np.testing.assert_allclose(np.array(halved), np.array(plain), atol=1e-5)
    assert tried[:3] == [8, 4, 2] and set(tried[2:]) == {2}
    assert "batch_size is 4" in (said := capsys.readouterr().err) and "batch_size is 2" in said
    monkeypatch.setattr(model, "denoise", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    with pytest.raises(UserError, match=r"out of memory even with batch_size 1 \(no\); free the device's memory, or"):
        heats(scenes, make_segmenter(model), settings)


def test_batch_size_follows_free_memory(model, monkeypatch):
    segmenter = make_segmenter(model)
    assert batch_size.fit_batch_size(segmenter, 5) == 5  # a CPU
    monkeypatch.setattr(model, "device", torch.device("cuda"))
    monkeypatch.setattr(batch_size, "measure_peak", lambda _, rows, reads: 1000 + 100 * rows * (1 + reads))
    for name, value in {"memory_reserved": 700, "memory_allocated": 500}.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    for free, expected in [(10**9, 128), (1800, 16), (1801, 16), (40, 1), (0, 1)]:  # 80 % of 1800 + 200 is 16 rows
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 0))
        assert batch_size.fit_batch_size(segmenter, 5) == expected
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1800, 0))
    read = [
        Variant(f"{a}", (NounChunk(where=w), Averaging(a, where="read"))) for a in (0.1, 0.9) for w in ("read", "both")
    ]
    assert batch_size.fit_batch_size(segmenter, 5, [BASELINE, OURS, *read[::2]]) == 4  # three texts a row: 5 rows fit
    assert batch_size.count_reads([BASELINE, OURS]) == 0
    assert batch_size.count_reads(read) == 2  # two on the plain prompt's row, two on the edited one's


def test_memory_is_measured_with_the_texts_that_a_row_reads(model, monkeypatch):
    for name in ("reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda _: 10**6)
    seen, observe = [], model.observe
    monkeypatch.setattr(
        model, "observe", lambda *a, reads=(): seen.append([len(r) for r in reads]) or observe(*a, reads)
    )
    for reads in (0, 3):
        batch_size.measure_peak(make_segmenter(model), 2, reads)
    assert seen == [[], [3, 3]]


def test_a_grid_of_layers_equals_separate_settings_and_costs_no_pass(model, scenes, monkeypatch):
    choices = {
        "all": LayerChoice(weights=ALL), "up": LayerChoice(blocks=("up",), weights=ALL), "half": LayerChoice(ratios=(2,), weights=ALL),
        "uniform": LayerChoice(weights={8: 1.0, 4: 1.0, 2: 1.0, 1: 1.0}),
    }  # fmt: skip
    sizes = passes_of(model, monkeypatch)
    variants = [Variant("baseline", layers=name) for name in choices]
    found = heats(scenes, make_segmenter(model, weights=ALL, grid=choices), RunSettings(variants, batch_size=4))
    assert len(sizes) == 4  # 14 expressions
    for i, choice in enumerate(choices.values()):
        own = make_segmenter(model, ratios=choice.ratios, blocks=choice.blocks, weights=choice.weights)
        plain = heats(scenes, own, RunSettings([BASELINE], batch_size=4))
        np.testing.assert_allclose(np.array(found)[:, i], np.array(plain)[:, 0], atol=1e-5)


def test_nothing_asks_diffusers_what_takes_a_walk_through_all_modules(scenes, tmp_path, monkeypatch):
    model = load_stable_diffusion(str(PACKAGE / "assets" / "bundled"), "cpu")
    segmenter = make_segmenter(CachedBackbone(model, Cache(tmp_path)))
    for name in ("device", "dtype", "attn_processors"):
        monkeypatch.setattr(UNet2DConditionModel, name, property(lambda _: pytest.fail("a walk")))
    monkeypatch.setattr(UNet2DConditionModel, "set_attn_processor", lambda *_: pytest.fail("a walk"))
    assert len(heats(scenes, segmenter, RunSettings([BASELINE], batch_size=4))) == 14


def test_levels_are_those_of_a_search():
    below, above = np.nextafter(metrics.THRESHOLDS[1:], 0), np.nextafter(metrics.THRESHOLDS[:-1], 1)
    drawn = np.random.default_rng(0).random(10**6, np.float32)
    values = np.concatenate([metrics.THRESHOLDS, below, above, drawn]).astype(np.float32)
    assert np.array_equal(metrics.find_level(values), np.searchsorted(metrics.THRESHOLDS, values, side="right") - 1)


def test_kept_maps_come_back(tmp_path):
    drawn = np.random.default_rng(0).random((3, 2, 8, 8), np.float32)
    maps = drawn * np.array([1e-3, 5.0], np.float32)[:, None, None] + np.float32(2)
    maps[0, 0] = 1.5  # constant
    columns = [("diffsegmenter", Column(1, ("down", "up"))), ("daam", Column(8, ("mid",)))]
    layers = [("mid.attn2", "mid", 8, True)]
    kept = KeptMaps(maps, columns, {"s": [[0, 1], [2, 1]]}, [("baseline", None), ("ours", 0.9)], layers)
    write_maps(tmp_path, "a/b", kept)
    found = read_maps(tmp_path, "a/b")
    spread = (maps.max((-2, -1)) - maps.min((-2, -1)))[..., None, None]
    assert (np.abs(found.maps - maps) <= 5e-4 * spread + 1e-7).all()
    assert (found.columns, found.layers) == (columns, layers)
    assert np.array_equal(found.find("s", OURS, 0), found.maps[2])
    with pytest.raises(UserError, match="no maps of variant 'noun_chunk'"):
        found.find("s", make_variant("noun_chunk", True), 0)
    torn = maps_file(tmp_path, "a/b")
    torn.write_bytes(torn.read_bytes()[:-10])
    with pytest.raises(UserError, match="keep_maps=true"):
        read_maps(tmp_path, "a/b")


@pytest.mark.parametrize("data", ["shapes", "shapes_classes"])
def test_rescoring_equals_a_fresh_run(tmp_path, data):
    given = [
        "tracker=none", "gallery=0", "changed=0", f"dataset={data}", "dataset.fraction=0.04", "text_processor=paper",
        "seeds=2", "cache.folder=null",
    ]  # fmt: skip
    keeping = ["keep_maps=true", "attention_layers=grid", f"hydra.run.dir={tmp_path / 'kept'}"]
    assert command(*given, *keeping)[0] == 0
    for layers, threshold in (("down", "0.5"), ("uniform", "grid")):
        again = tmp_path / f"again_{layers}"
        code, _, err = process(
            str(tmp_path / "kept"), f"attention_layers={layers}", f"threshold={threshold}", "--out", str(again),
            module="rescore",
        )  # fmt: skip
        assert code == 0, err
        fresh = tmp_path / f"fresh_{layers}"
        code, _, err = command(*given, f"attention_layers={layers}", f"threshold={threshold}", f"hydra.run.dir={fresh}")
        assert code == 0, err
        plain, made = (json.loads((folder / "summary.json").read_text()) for folder in (fresh, again))
        typed = {o.replace("threshold.value=", "threshold=") for o in plain["overrides"]}
        assert set(made["overrides"]) == {*typed, "keep_maps=true"}, "the page's commands would draw other maps"
        for one, other in zip(plain["variants"], made["variants"], strict=True):
            assert one["label"] == other["label"]
            assert one["mIoU"] == pytest.approx(other["mIoU"], abs=0.1)  # 1e-3, in percent
        rows = [[json.loads(x) for x in (f / "expressions.jsonl").read_text().splitlines()] for f in (fresh, again)]
        names = ("image_id", "sample_id", "text_processor", "alpha", "seed", "prompt")
        assert [[r.get(n) for n in names] for r in rows[0]] == [[r.get(n) for n in names] for r in rows[1]]
    code, _, err = process(str(tmp_path / "kept"), "alpha=0.5", module="rescore")
    assert code == 2 and "cannot be rescored" in err


def test_what_was_not_kept_is_named(tmp_path):
    given = ["tracker=none", "gallery=0", "changed=0", "dataset.limit=2", "cache.folder=null"]
    assert command(*given, "keep_maps=true", f"hydra.run.dir={tmp_path / 'kept'}")[0] == 0
    code, _, err = process(str(tmp_path / "kept"), "attention_layers=down", module="rescore")
    assert code == 2 and "attention_layers=grid" in err
    assert command(*given, f"hydra.run.dir={tmp_path / 'bare'}")[0] == 0
    code, _, err = process(str(tmp_path / "bare"), module="rescore")
    assert code == 2 and "keep_maps=true" in err


def test_a_grid_with_an_unknown_choice_is_refused():
    cfg = composed("attention_layers=grid", "attention_layers.grid=[all,middle]")
    with pytest.raises(UserError, match="'middle'; choose from all, down, eighth"):
        config.map_settings(cfg)
