"""Door 3: heat-map methods against plain readings, and several of them in one pass."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from attrbind_exp.backbones.backbone import Embedding, Request, encode_images
from attrbind_exp.backbones.reading import DIFFSEGMENTER, Reading, read_reading
from attrbind_exp.backbones.stable_diffusion import load_stable_diffusion
from attrbind_exp.backbones.stable_diffusion_xl import StableDiffusionXL
from attrbind_exp.backbones.window import ClipWindow
from attrbind_exp.config import PACKAGE
from attrbind_exp.data.images import read_image
from attrbind_exp.data.masks import decode_mask
from attrbind_exp.data.refer import load_refer
from attrbind_exp.edits import TextBlind, Variant
from attrbind_exp.evaluation import batch_size
from attrbind_exp.heatmaps import score_map
from attrbind_exp.heatmaps.daam import Daam
from attrbind_exp.heatmaps.diffsegmenter import DiffSegmenter
from attrbind_exp.heatmaps.layers import Column
from attrbind_exp.heatmaps.method import HeatMapMethod, cross_layers
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.language.window import TextRequest
from attrbind_exp.scoring.metrics import count_overlap
from attrbind_exp.types import LayerChoice, MapSettings, UserError
from tests.conftest import embeddings_of, make_segmenter, make_variant, picture, states_of
from tests.oracle import reference_daam, reference_heat_map, sharpen
from tests.test_command import command

BUNDLED = PACKAGE / "assets" / "bundled"
OURS = make_variant("ours", replace=True, alpha=0.9)
EXPRESSIONS = ["the white star on the left", "tiny green skateboarder", "black ring above the orange heart"]


@pytest.fixture(scope="module")
def xl_pipeline():
    """Stable Diffusion XL's structure, small, with random weights that attend."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(BUNDLED / "tokenizer")
    second = CLIPTokenizer.from_pretrained(BUNDLED / "tokenizer", pad_token="!")  # as the second encoder pads
    common = {
        "vocab_size": len(tokenizer), "intermediate_size": 64, "num_attention_heads": 2, "bos_token_id": 0,
        "max_position_embeddings": tokenizer.model_max_length, "eos_token_id": 2, "pad_token_id": 1,
    }  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=32, block_out_channels=(16, 32, 64), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2), attention_head_dim=(2, 4, 8), cross_attention_dim=72,
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 24,
    )  # fmt: skip
    sharpen(unet)
    return StableDiffusionXLPipeline(
        vae=AutoencoderKL.from_config(AutoencoderKL.load_config(BUNDLED / "vae")),
        text_encoder=CLIPTextModel(CLIPTextConfig(hidden_size=32, num_hidden_layers=2, **common)),
        text_encoder_2=CLIPTextModelWithProjection(
            CLIPTextConfig(hidden_size=40, num_hidden_layers=3, projection_dim=24, hidden_act="gelu", **common)
        ),
        tokenizer=tokenizer, tokenizer_2=second, unet=unet, scheduler=DDPMScheduler(), add_watermarker=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def xl(xl_pipeline):
    return StableDiffusionXL(xl_pipeline)


def daam_oracle(segmenter, image, expression, number):
    model = segmenter.backbone
    (prompt,), (embedding,) = embeddings_of(segmenter, [expression], OURS)
    noisy = model.add_noise(encode_images(model, [image]), [str(number)], 100, 0, 0)
    uncond = states_of(model, [""])[0]
    size = (image.height, image.width)
    return reference_daam(model.unet, noisy, 100, embedding.keys, uncond, list(prompt.read), size)


def test_daam_equals_its_oracle(exact_model):
    """In float64 only rounding is left; pieces of a word, heads and layers are upsampled one by one."""
    segmenter = make_segmenter(exact_model, weights=None, methods={"daam": Daam()})
    images = [picture(40 + 10 * i, 90 - 5 * i, i) for i in range(3)]
    for i, heat in enumerate(segmenter(images, EXPRESSIONS, OURS)):
        plain = daam_oracle(segmenter, images[i], EXPRESSIONS[i], i)
        assert plain.std() > 0.05
        torch.testing.assert_close(torch.from_numpy(heat.values).double(), plain.double(), rtol=0, atol=1e-6)


def test_methods_of_one_run_share_its_passes_and_change_nothing_in_each_other(model, monkeypatch):
    passes, denoise = [], model.denoise
    monkeypatch.setattr(model, "denoise", lambda noisy, *rest: passes.append(len(noisy)) or denoise(noisy, *rest))
    images = [picture(64, 48, i) for i in range(3)]
    methods = {"diffsegmenter": DiffSegmenter(), "daam": Daam()}
    both = make_segmenter(model, weights=None, methods=methods)
    prompts, embeddings = embeddings_of(both, EXPRESSIONS, OURS)
    completed = both.complete(encode_images(model, images), ["0", "1", "2"], prompts, embeddings)
    assert passes == [3]
    for name, method in methods.items():
        alone = make_segmenter(model, weights=None, methods={name: method})(images, EXPRESSIONS, OURS)
        for maps, image, heat in zip(completed, images, alone, strict=True):
            read = both.heat_map(maps, (image.height, image.width), Variant("ours", heatmap=name))
            np.testing.assert_allclose(read.values, heat.values, atol=1e-5)


def test_daam_leaves_the_coarsest_resolution_out_unless_it_is_asked_for(model):
    daam, every = Daam(), model.layers
    found = daam.columns(LayerChoice(), every, DIFFSEGMENTER)
    assert [c.ratio for c in found] == [1, 2, 4] and sum(found.values()) == pytest.approx(1)
    counts = {c: len(cross_layers([c], every)) for c in found}
    assert {c: round(w * sum(counts.values())) for c, w in found.items()} == counts
    assert [c.ratio for c in daam.columns(LayerChoice(ratios=(8,)), every, DIFFSEGMENTER)] == [8]
    assert daam.columns(LayerChoice(weights={1: 0.5, 2: 2.0, 4: 0.0}), every, DIFFSEGMENTER) == {
        Column(1, ("down", "up")): 0.5, Column(2, ("down", "up")): 2.0, Column(4, ("down", "up")): 0.0
    }  # fmt: skip


@dataclass(frozen=True)
class Late(HeatMapMethod):
    """The plain mean of cross-attention, at timesteps of its own."""

    def raw_maps(self, seen, columns, grid):
        means = [
            score_map.mean_map([seen.cross[x][:, 0] for x in cross_layers([c], list(seen.cross))],
                               score_map.grid_at(c.ratio, grid), grid)
            for c in columns
        ]  # fmt: skip
        return torch.stack(means, 1)


def test_a_method_may_read_at_timesteps_of_its_own(model):
    """Each timestep is one pass that serves every method that reads there; maps are meaned over a method's own."""
    images, seen = [picture(64, 64)], []
    methods = {"diffsegmenter": DiffSegmenter(), "late": Late((100, 700))}
    both = make_segmenter(model, methods=methods)
    observe, model.observe = model.observe, lambda noisy, t, *rest: seen.append(t) or observe(noisy, t, *rest)
    try:
        prompts, embeddings = embeddings_of(both, EXPRESSIONS[:1], OURS)
        completed = both.complete(encode_images(model, images), ["0"], prompts, embeddings)
        assert seen == [100, 700]
        late = [
            make_segmenter(model, methods={"late": Late((t,))}).complete(
                encode_images(model, images), ["0"], prompts, embeddings
            )
            for t in (100, 700)
        ]
    finally:
        del model.observe
    mine = [i for i, (name, _) in enumerate(both.plan.columns) if name == "late"]
    torch.testing.assert_close(completed[:, mine], (late[0] + late[1]) / 2, rtol=1e-5, atol=1e-7)
    with pytest.raises(UserError, match=r"heatmap.late.timesteps=\[1000\]"):
        make_segmenter(model, methods={"late": Late((1000,))})


def test_inputs_and_outputs_of_layers_can_be_asked_for(model):
    """From the inputs of cross-attention the map of any text can be read; the outputs are what the layer hands on."""
    layer = next(x for x in model.layers if x.cross and x.ratio == 2)
    embedding = embeddings_of(make_segmenter(model), ["the white star"], OURS)[1][0]
    batch = Embedding.stack([embedding])
    noisy = model.add_noise(torch.randn(1, 4, 16, 16), ["0"], 100, 0, 0)
    pools = torch.zeros(1, 1, batch.keys.shape[1])
    pools[0, 0, 5] = 1
    seen = model.observe(noisy, 100, batch, Request(cross=(layer,), inputs=(layer,), outputs=(layer,)), pools)
    module = model.unet.get_submodule(layer.name.removesuffix(".processor"))
    with torch.no_grad():
        query = module.head_to_batch_dim(module.to_q(seen.inputs[layer]))
        key = module.head_to_batch_dim(module.to_k(batch.keys))
        probabilities = module.get_attention_scores(query, key)  # (heads, n, L)
        value = module.head_to_batch_dim(module.to_v(batch.keys))
        output = module.to_out[0](module.batch_to_head_dim(probabilities @ value))
    torch.testing.assert_close(seen.cross[layer][0, 0, 0], probabilities[..., 5].mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(seen.outputs[layer], output, rtol=1e-4, atol=1e-5)


def test_two_requests_make_one_that_serves_both(model):
    cross = [x for x in model.layers if x.cross]
    one, two = Request(cross=(cross[0],)), Request(cross=(cross[1], cross[0]), by_head=True, noise=True)
    assert (one | two) == Request(cross=(cross[0], cross[1]), by_head=True, noise=True)
    assert (one | two).layers == (cross[0], cross[1])


def test_the_model_brings_its_own_timestep_and_weights(tmp_path):
    assert read_reading(str(BUNDLED)) == Reading((35,), {8: 0.0, 4: 0.0, 2: 1.0, 1: 0.0})
    assert read_reading(str(tmp_path)) == DIFFSEGMENTER == read_reading("nobody/nothing")
    (tmp_path / "reading.json").write_text(json.dumps({"timesteps": [50, 60], "weights": {"2": 1}}))
    assert read_reading(str(tmp_path)) == Reading((50, 60), {2: 1.0})
    for spoilt in (
        "{",
        "[]",
        '{"timesteps": 3, "weights": {}}',
        '{"timesteps": [3]}',
        '{"timesteps": [3], "weights": 1}',
    ):
        (tmp_path / "reading.json").write_text(spoilt)
        with pytest.raises(UserError, match=r"reading\.json"):
            read_reading(str(tmp_path))


def test_the_default_of_the_python_api_is_the_models_own_reading():
    model = load_stable_diffusion(str(BUNDLED), "cpu")
    default, image = Segmenter(model), picture(64, 64)
    told = MapSettings(timesteps=(35,), layers=LayerChoice(weights={8: 0.0, 4: 0.0, 2: 1.0, 1: 0.0}))
    found, expected = (s([image], EXPRESSIONS[:1])[0].values for s in (default, Segmenter(model, maps=told)))
    assert np.array_equal(found, expected)
    assert [column.ratio for _, column in default.plan.columns] == [2]  # maps of weight 0 are not made


def test_measuring_memory_counts_no_flat_maps(model, monkeypatch):
    """The empty pictures that fill memory for the measurement have flat maps; nobody is warned of them."""
    segmenter = make_segmenter(model)
    monkeypatch.setattr("attrbind_exp.heatmaps.score_map.is_flat", lambda maps, _: maps.amax((-2, -1)) >= 0)
    for name in ("reset_peak_memory_stats", "max_memory_allocated", "memory_reserved", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda _: 10**6)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10**9, 10**9))
    assert batch_size.measure_peak(segmenter, 2) == 10**6
    assert segmenter.flat_note() is None
    segmenter([picture(64, 64)], ["the star"])
    assert "1 at 1/1 of the latents' resolution" in segmenter.flat_note()


@pytest.mark.parametrize("where", ["both", "read"])
def test_another_backbone_fits_the_same_segmenter(xl, where):
    """SDXL's architecture, tiny and random: two text encoders, a pooled text, no attention at the finest resolution."""
    segmenter = Segmenter(xl, maps=MapSettings((100,), layers=LayerChoice(weights={2: 0.6, 4: 0.4})))
    images = [picture(40 + 10 * i, 90 - 5 * i, i) for i in range(3)]
    variant = Variant("ours", tuple(replace(edit, where=where) for edit in OURS.edits))
    for i, heat in enumerate(segmenter(images, EXPRESSIONS, variant)):
        (prompt,), (embedding,) = embeddings_of(segmenter, EXPRESSIONS[i : i + 1], variant)
        uncond = xl.encode_text([""])[0]
        noisy = xl.add_noise(encode_images(xl, images[i : i + 1]), [str(i)], 100, 0, 0)
        added = {"text_embeds": torch.stack([uncond.pooled, embedding.pooled]), "time_ids": xl.time_ids.expand(2, -1)}
        plain = reference_heat_map(
            xl.unet, noisy, 100, embedding.keys, uncond.states, list(prompt.read), {2: 0.6, 4: 0.4},
            (images[i].height, images[i].width), added_cond_kwargs=added, read=embedding.read,
        )  # fmt: skip
        assert plain.std() > 0.05
        torch.testing.assert_close(torch.from_numpy(heat.values), plain, rtol=1e-5, atol=1e-5)


def test_two_text_encoders_give_what_the_pipeline_gives(xl, xl_pipeline):
    texts = ["a photograph of the white star", ""]
    theirs, _, pooled, _ = xl_pipeline.encode_prompt(texts, device="cpu", do_classifier_free_guidance=False)
    ours = xl.encode_text(texts)
    torch.testing.assert_close(torch.stack([x.states for x in ours]), theirs)
    torch.testing.assert_close(torch.stack([x.pooled for x in ours]), pooled)
    assert isinstance(xl.second_window, ClipWindow)
    with pytest.raises(UserError, match="Stable Diffusion XL has neither"):
        xl.encode_text(["", TextRequest("a star", layer=-2)])


def test_the_python_api_gives_the_very_map_that_a_run_scores(tmp_path):
    """Down to the last bit, at one row a pass: a pass of another size adds in another order."""
    given = [
        "batch_size=1",
        "cache.folder=null",
        "dataset.limit=4",
        "text_processor=paper",
        "text_processor.overrides=null",
    ]
    assert command(*given, "tracker=none", "gallery=0", "changed=0", f"hydra.run.dir={tmp_path}")[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "expressions.jsonl").read_text().splitlines()]
    samples = {s.sample_id: s for s in load_refer(str(PACKAGE / "assets"), "shapes", "made", "test", limit=4).samples}
    segmenter = Segmenter(load_stable_diffusion(str(BUNDLED), "cpu"))
    variants = {"baseline": Variant("baseline"), "attribute_binding": OURS}
    variants["text_blind"] = Variant("text_blind", (TextBlind(),))
    assert len(rows) == 12
    for row in rows:
        sample = samples[row["sample_id"]]
        image = read_image(sample.image_path, sample.size)
        heat = segmenter([image], [sample.text], variants[row["text_processor"]], [sample.image_id])[0]
        hit, union = count_overlap(heat.values, decode_mask(sample.segmentation, sample.size))
        assert (hit.tolist(), union.tolist()) == (row["intersection"], row["union"])
