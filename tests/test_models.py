"""Stable Diffusion 2.x's structure, half precision, and models that are missing or of another kind."""

import json
import shutil

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import Attention
from huggingface_hub import constants
from huggingface_hub.utils import filter_repo_objects
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from attrbind_exp import config
from attrbind_exp.backbones import capture as attention
from attrbind_exp.backbones.backbone import Layer, Request, encode_images
from attrbind_exp.backbones.stable_diffusion import StableDiffusion, load_stable_diffusion
from attrbind_exp.backbones.tensors import overflowed
from attrbind_exp.backbones.weights import CHOICES, READ, find_model
from attrbind_exp.config import CONF, PACKAGE
from attrbind_exp.edits import Variant
from attrbind_exp.hub import fetch_command
from attrbind_exp.types import SampleError, UserError
from tests.conftest import DIFFSEGMENTER, make_segmenter, picture, states_of
from tests.oracle import sharpen
from tests.test_core import EXPRESSIONS, NCR, OURS, oracle_maps

BUNDLED = PACKAGE / "assets" / "bundled"
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def text_config(tokenizer, layers):
    return CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=2,
        max_position_embeddings=24, hidden_act="gelu", bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def sd2():
    """Stable Diffusion 2.1's structure, small, with random weights that attend."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(BUNDLED / "tokenizer", pad_token="!")  # as 2.x pads
    unet = UNet2DConditionModel(
        sample_size=24, block_out_channels=(16, 32, 64, 64), attention_head_dim=[1, 2, 4, 4], cross_attention_dim=32,
        layers_per_block=2, norm_num_groups=8, use_linear_projection=True, upcast_attention=True,
    )  # fmt: skip
    sharpen(unet)
    return StableDiffusionPipeline(
        vae=AutoencoderKL.from_config(AutoencoderKL.load_config(BUNDLED / "vae")),
        text_encoder=CLIPTextModel(text_config(tokenizer, 23)), tokenizer=tokenizer, unet=unet,
        scheduler=DDIMScheduler(**SCHEDULE, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def test_text_is_encoded_as_the_pipeline_encodes_it(sd2):
    texts = ["a photograph of the white star!", "", "two words " * 20]
    theirs = sd2.encode_prompt(texts, "cpu", 1, do_classifier_free_guidance=False)[0]
    assert torch.equal(states_of(StableDiffusion(sd2), texts), theirs)


def test_an_encoder_without_its_last_layer_gives_the_penultimate_one_normed(sd2):
    torch.manual_seed(0)
    whole = CLIPTextModel(text_config(sd2.tokenizer, 24)).eval()
    own = sd2.text_encoder.state_dict()
    whole.load_state_dict(own, strict=False)
    ids = sd2.tokenizer(["the white star"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        penultimate = whole(ids, output_hidden_states=True).hidden_states[-2]
        expected = whole.final_layer_norm(penultimate)
    torch.testing.assert_close(states_of(StableDiffusion(sd2), ["the white star"]), expected)


@pytest.mark.parametrize("variant", [NCR, OURS], ids=lambda v: v.name)
@pytest.mark.parametrize("batch", [1, 8])
def test_sd2_structure_equals_oracle(sd2, variant, batch):
    segmenter = make_segmenter(StableDiffusion(sd2), weights=DIFFSEGMENTER)
    assert {column.ratio for _, column in segmenter.plan.columns} == {1, 2, 4, 8}
    images = [picture(50 + 10 * i, 90 - 5 * i, i) for i in range(batch)]
    ours = segmenter(images, EXPRESSIONS[:batch], variant)
    for heat, plain in zip(ours, oracle_maps(segmenter, images, EXPRESSIONS[:batch], variant), strict=True):
        assert plain.std() > 0.01
        torch.testing.assert_close(torch.from_numpy(heat.values), plain, rtol=1e-5, atol=1e-5)


def test_larger_input_keeps_the_ratios(sd2):
    """768 px are 96 latent cells a side: the same four ratios as 512 px."""
    layers = attention.find_layers(sd2.unet)
    found = {x.name: x.ratio for x in layers}
    assert found["down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor"] == 1
    assert found["mid_block.attentions.0.transformer_blocks.0.attn2.processor"] == 8
    assert found["up_blocks.3.attentions.2.transformer_blocks.0.attn1.processor"] == 1
    assert StableDiffusion(sd2).size == (96, 96)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    "kind", [DDPMScheduler, DDIMScheduler, PNDMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler]
)
def test_noise_is_that_of_training_whatever_the_sampler(sd2, kind, prediction):
    scheduler = kind(**SCHEDULE, prediction_type=prediction)
    parts = {k: v for k, v in sd2.components.items() if k != "scheduler"}
    model = StableDiffusion(StableDiffusionPipeline(**parts, scheduler=scheduler, requires_safety_checker=False))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    keep = (1 - betas).cumprod(0)[100].float()
    clean = torch.ones(1, 4, 24, 24)
    noise = model.add_noise(torch.zeros_like(clean), ["7"], 100, 0, 3) / (1 - keep).sqrt()
    assert 0.9 < noise.std() < 1.1
    torch.testing.assert_close(
        model.add_noise(clean, ["7"], 100, 0, 3), keep.sqrt() * clean + (1 - keep).sqrt() * noise
    )


@pytest.fixture
def strong():
    """A layer whose scores are beyond what fp16 holds, and its input in fp16; two tokens of the context are equal."""
    torch.manual_seed(0)
    layer = Attention(query_dim=16, heads=2, dim_head=8, upcast_attention=True).requires_grad_(False)
    layer.to_q.weight *= 600
    layer.to_k.weight *= 600
    states = torch.randn(2, 9, 16)
    states[:, 1] = states[:, 0]
    return layer.half(), states.half()


def scores_of(layer, states):
    query, key = (attention._heads(layer, to(states)) for to in (layer.to_q, layer.to_k))
    return query, key


def test_upcast_attention_is_honoured_where_probabilities_are_read(strong):
    layer, states = strong
    query, key = scores_of(layer, states)
    assert (query * layer.scale @ key.transpose(-1, -2)).isinf().any()  # what half precision would make of it
    pools = torch.eye(9)[[0, 3]][:, None]  # (B, K, L)
    place = Layer("attn2", "up", 1, True)
    notes = attention._Notes(Request(cross=(place,)), {place, Layer("another", "up", 1, True)})
    output = attention._CrossReader(notes, place, pools, None, None)(layer, states, states)
    probabilities = (query.double() @ key.double().transpose(-1, -2) * layer.scale).softmax(-1)
    expected = torch.stack([probabilities[b, :, :, t].mean(0) for b, t in enumerate((0, 3))])
    found = notes.seen.cross[place][:, 0, 0]  # (B, n)
    torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-3)
    assert found.max() > 0.2 and output.isfinite().all()


def test_upcast_attention_is_honoured_where_the_fused_kernel_works(strong):
    layer, states = strong
    query, key = scores_of(layer, states)
    place = Layer("attn1", "up", 1, False)
    notes = attention._Notes(Request(queries_keys=(place,)), {place, Layer("another", "up", 1, True)})
    output = attention._SelfReader(notes, place, [attention.Part(slice(None), [0, 1])])(layer, states)
    probabilities = (query.double() @ key.double().transpose(-1, -2) * layer.scale).softmax(-1)
    value = attention._heads(layer, layer.to_v(states)).double()
    expected = attention._output(layer, (probabilities @ value).half())
    torch.testing.assert_close(output, expected, rtol=5e-3, atol=5e-3)
    kept = notes.seen.self_attention[0]
    assert torch.equal(kept.query, query) and torch.equal(kept.key, key)


def test_bf16_on_a_cpu_comes_close_to_fp32(model):
    """bf16 keeps 8 bits: a heat map differs by 0.02 on average, its mask at 0.5 by a twentieth of the pixels at most."""
    images, expressions = [picture(60, 80, i) for i in range(4)], EXPRESSIONS[:4]
    half, own = load_stable_diffusion(str(BUNDLED), "cpu", "bf16"), {8: 0.0, 4: 0.0, 2: 1.0, 1: 0.0}
    assert half.dtype == torch.bfloat16
    found = [make_segmenter(m, weights=own)(images, expressions, OURS) for m in (half, model)]
    for ours, plain in zip(*found, strict=True):
        assert abs(ours.values - plain.values).mean() < 0.02
        assert (ours.mask(0.5) != plain.mask(0.5)).mean() < 0.05


def test_auto_precision_on_a_cpu_is_fp32(model):
    assert model.dtype == torch.float32


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_autoencoder_that_overflows_is_named_not_averaged_in(model, monkeypatch, value):
    encode, images = model.encode_pixels, [picture(64, 64, i) for i in range(3)]
    spoilt = model.pixels(images[1]).values

    def overflowing(pixels):
        latents = encode(pixels)
        if torch.equal(pixels.values, spoilt):
            latents[0, 3, 5] = value
        return latents

    monkeypatch.setattr(model, "encode_pixels", overflowing)
    assert overflowed(encode_images(model, images)) == [False, True, False]
    with pytest.raises(SampleError, match=r"image 'b'.*model\.dtype=bf16 or fp32") as error:
        make_segmenter(model)(images, EXPRESSIONS[:3], Variant("baseline"), ["a", "b", "c"])
    assert error.value.reason == "vae_overflow"


def test_the_python_api_raises_rather_than_returns_a_map_that_is_not_finite(model, monkeypatch):
    monkeypatch.setattr(model, "denoise", lambda *_: None)
    segmenter = make_segmenter(model)
    monkeypatch.setattr(segmenter, "complete", lambda *_, **__: torch.full((1, 16, 16), float("nan")))
    with pytest.raises(SampleError, match="image '0': its map is not finite"):
        segmenter([picture(64, 64)], ["the star"])


@pytest.fixture
def folder(tmp_path):
    """A whole model, to be spoilt."""
    return shutil.copytree(BUNDLED, tmp_path / "model")


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refused(path, *words):
    with pytest.raises(UserError) as error:
        find_model(str(path))
    message = str(error.value)
    assert "\n" not in message and all(w in message for w in (str(path), *words)), message
    return message


def test_a_saved_pipeline_is_found_and_loaded(sd2, tmp_path):
    sd2.save_pretrained(tmp_path / "tuned")
    model = load_stable_diffusion(str(tmp_path / "tuned"), "cpu")
    assert torch.equal(states_of(model, ["a star"]), states_of(StableDiffusion(sd2), ["a star"]))
    assert model.scheduler.config.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_class_name": "StableDiffusionXLPipeline", "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]},
         ["StableDiffusionXLPipeline with text_encoder_2 CLIPTextModelWithProjection"]),
        ({"_class_name": "StableDiffusion3Pipeline", "unet": [None, None], "transformer": ["diffusers", "SD3Transformer2DModel"]},
         ["StableDiffusion3Pipeline", "transformer SD3Transformer2DModel", "no unet"]),
        ({"_class_name": "StableDiffusionControlNetPipeline", "controlnet": ["diffusers", "ControlNetModel"]}, ["controlnet ControlNetModel"]),
        ({"_class_name": "AltDiffusionPipeline", "text_encoder": ["alt", "RobertaSeriesModelWithTransformation"]}, ["RobertaSeries"]),
        ({"unet": ["my_code", "MyUNet"]}, ["unet MyUNet"]),
    ],
    ids=["sdxl", "sd3", "controlnet", "altdiffusion", "custom"],
)  # fmt: skip
def test_models_of_another_kind_are_refused_by_what_they_are(folder, changes, words):
    edit(folder / "model_index.json", **changes)
    refused(folder, *words, CHOICES)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"in_channels": 9}, "a UNet of 9 input channels for latents of 4"),
        ({"addition_embed_type": "text_time"}, "addition_embed_type 'text_time'"),
        ({"class_embed_type": "projection"}, "class_embed_type 'projection'"),
    ],
)
def test_unets_that_want_more_than_image_and_text_are_refused(folder, changes, words):
    edit(folder / "unet" / "config.json", **changes)
    refused(folder, words, CHOICES)


def test_parts_of_a_model_are_refused(folder, tmp_path):
    edit(folder / "unet" / "config.json", _class_name="ControlNetModel")
    refused(folder / "unet", "found a ControlNetModel alone")
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "pytorch_lora_weights.safetensors").touch()
    refused(tmp_path / "lora", "no model_index.json, only pytorch_lora_weights.safetensors")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no model_index.json, only nothing")
    (folder / "model_index.json").write_text("{")
    with pytest.raises(UserError, match=r"model_index\.json' cannot be read"):
        find_model(str(folder))


def test_pickled_weights_are_refused_by_name(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    refused(folder, "unet/ without diffusion_pytorch_model.safetensors: config.json, diffusion_pytorch_model.bin",
            "safe_serialization=True")  # fmt: skip
    refused(folder.parent, "no model_index.json, only model")


def test_torn_weights_are_named(folder):
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"the weights at model\.path=.* cannot be read"):
        load_stable_diffusion(str(folder), "cpu")


@pytest.mark.parametrize("option", [o for o in config.options("model") if o != "bundled"])
def test_missing_weights_name_the_command_for_this_very_model(option, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    line = next(x for x in (CONF / "model" / f"{option}.yaml").read_text().splitlines() if x.startswith("path: "))
    name = line.removeprefix("path: ")
    refused(name, f"fetch it by 'hf download {name} --include ", CHOICES)


def test_a_local_path_that_is_missing_is_not_taken_for_a_hub_name():
    assert "hf download /nowhere" not in refused("/nowhere", "does not exist", "hf download stable-diffusion-v1-5/")
    refused("~/none", "does not exist")


def test_every_model_option_is_named_among_the_choices():
    assert all(option in CHOICES for option in config.options("model"))


def test_what_the_command_fetches_is_what_loading_needs(tmp_path, monkeypatch):
    """A repository as they are on the hub, fetched by the command's patterns into the cache, loads by its name."""
    files = {str(f.relative_to(BUNDLED)) for f in BUNDLED.rglob("*") if f.is_file()}
    needless = {
        "v1-5-pruned.safetensors", "v1-5-pruned.ckpt", "unet/diffusion_pytorch_model.bin", "safety_checker/model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors",
        "text_encoder/pytorch_model.bin", "text_encoder/model.fp16.safetensors", "README.md", "samples.png",
    }  # fmt: skip
    patterns = fetch_command("some/model", READ).split('"')[1::2]
    fetched = set(filter_repo_objects(files | needless, allow_patterns=patterns))
    assert fetched == files - {"samples.png"}
    cache = tmp_path / "models--some--model"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("abc")
    for name in fetched:
        (cache / "snapshots" / "abc" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(BUNDLED / name, cache / "snapshots" / "abc" / name)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert load_stable_diffusion("some/model", "cpu").size == (64, 64)
    (cache / "snapshots" / "abc" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    refused("some/model", "vae/ without", "fetch it by 'hf download some/model")
