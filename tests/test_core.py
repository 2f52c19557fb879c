"""The core against the readable oracle, and the identities of the method."""

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from attrbind_exp.backbones.backbone import encode_images
from attrbind_exp.backbones.stable_diffusion import StableDiffusion, draw_noise
from attrbind_exp.edits import Variant
from attrbind_exp.heatmaps.diffsegmenter import DiffSegmenter
from attrbind_exp.types import UserError
from tests.conftest import DIFFSEGMENTER, embeddings_of, make_segmenter, make_variant, picture, shared
from tests.oracle import reference_daam, reference_heat_map, sharpen

NCR = make_variant("noun_chunk", replace=True)
OURS = make_variant("attribute_binding", replace=True, alpha=0.9)
EXPRESSIONS = [
    "the white star on the left", "a red circle next to a blue square", "tiny green skateboarder", "purple moon",
    "black ring above the orange heart", "the star", "yellow triangle", "two white dogs",
]  # fmt: skip


def oracle_maps(segmenter, images, expressions, variant, timestep=100):
    """What the oracle says of each pair, one after the other."""
    model, weights = segmenter.backbone, segmenter.settings.layers.weights
    uncond = model.encode_text([""])[0].states
    maps = []
    for i, (image, expression) in enumerate(zip(images, expressions, strict=True)):
        (prompt,), (embedding,) = embeddings_of(segmenter, [expression], variant)
        noisy = model.add_noise(encode_images(model, [image]), [str(i)], timestep, 0, segmenter.settings.seed)
        size = (image.height, image.width)
        maps.append(
            reference_heat_map(model.unet, noisy, timestep, embedding.keys, uncond, list(prompt.q), weights, size)
        )
    return maps


@pytest.mark.parametrize("variant", [Variant("baseline"), NCR, OURS], ids=lambda v: v.name)
@pytest.mark.parametrize("batch", [1, 8])
def test_bundled_model_equals_oracle(model, variant, batch):
    segmenter = make_segmenter(model)
    images = [picture(40 + 10 * i, 90 - 5 * i, i) for i in range(batch)]  # none of them square
    expressions = EXPRESSIONS[:batch]
    for ours, plain in zip(
        segmenter(images, expressions, variant), oracle_maps(segmenter, images, expressions, variant), strict=True
    ):
        assert ours.values.shape == plain.shape
        torch.testing.assert_close(torch.from_numpy(ours.values), plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", [Variant("baseline"), NCR, OURS], ids=lambda v: v.name)
def test_in_double_precision_only_rounding_is_left(exact_model, variant):
    """1e-8, from weights and noise that stay in fp32; whatever else differed from the oracle would show."""
    segmenter = make_segmenter(exact_model, weights=DIFFSEGMENTER)
    images = [picture(40 + 10 * i, 90 - 5 * i, i) for i in range(3)]
    plain = oracle_maps(segmenter, images, EXPRESSIONS[:3], variant)
    for ours, expected in zip(segmenter(images, EXPRESSIONS[:3], variant), plain, strict=True):
        assert expected.dtype == torch.float64
        torch.testing.assert_close(torch.from_numpy(ours.values), expected, rtol=0, atol=1e-7)


def test_the_oracle_makes_its_sums_where_its_inputs_are(model):
    """Whatever it made without saying where would lie on the meta device here, and could not be summed."""
    noisy, embedding = torch.randn(1, *model.latent_shape), torch.randn(24, model.unet.config.cross_attention_dim)
    given = (model.unet, noisy, 100, embedding, torch.zeros_like(embedding), [2, 3])
    weights, size = dict.fromkeys((1, 2, 4, 8), 0.25), (64, 64)
    plain, daam = reference_heat_map(*given, weights, size), reference_daam(*given, size)
    with torch.device("meta"):
        assert torch.equal(reference_heat_map(*given, weights, size), plain)
        assert torch.equal(reference_daam(*given, size), daam)


def test_non_square_model_input_equals_oracle(model):
    model = StableDiffusion(as_pipeline(model), size=(96, 32))
    segmenter = make_segmenter(model)
    image = picture(120, 50)
    ours = segmenter([image], ["the white star"], OURS)[0].values
    plain = oracle_maps(segmenter, [image], ["the white star"], OURS)[0]
    torch.testing.assert_close(torch.from_numpy(ours), plain, rtol=1e-5, atol=1e-5)


def test_a_noun_of_several_pieces_is_pooled_over_all_of_them(model):
    segmenter = make_segmenter(model)
    prompt = segmenter.prepare(["tiny green skateboarder"])[0]
    assert len(prompt.q) > 1 and prompt.read == prompt.q
    weights = DiffSegmenter().pools(prompt.read, 77)
    assert weights.nonzero()[:, 1].tolist() == list(prompt.q)
    assert weights.sum() == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 8])
def test_sd15_architecture_equals_oracle(batch):
    segmenter = make_segmenter(random_sd15(), weights=DIFFSEGMENTER)
    images = [picture(120 + i, 200, i) for i in range(batch)]
    expressions = ["white dog playing with two black dogs", "skateboarder in a red jacket", *EXPRESSIONS][:batch]
    ours = segmenter(images, expressions, OURS)
    for i, plain in enumerate(oracle_maps(segmenter, images, expressions, OURS)):
        torch.testing.assert_close(torch.from_numpy(ours[i].values), plain, rtol=1e-5, atol=1e-5)


def random_sd15(size=(256, 192)):
    """Stable Diffusion 1.5's exact architecture with random weights, at a smaller input to spare minutes."""
    folder = shared("sd15_config")
    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")),
        text_encoder=CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet")),
        scheduler=DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    sharpen(pipeline.unet)
    return StableDiffusion(pipeline, size)


def as_pipeline(model):
    return StableDiffusionPipeline(
        vae=model.vae, text_encoder=model.text_encoder, tokenizer=model.tokenizer, unet=model.unet,
        scheduler=model.scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def test_results_do_not_depend_on_batch_or_order(segmenter):
    images = [picture(64, 64, i) for i in range(5)]
    ids = ["a", "b", "c", "d", "e"]
    together = segmenter(images, EXPRESSIONS[:5], OURS, ids)
    for i in reversed(range(5)):
        alone = segmenter([images[i]], [EXPRESSIONS[i]], OURS, [ids[i]])[0]
        assert abs(alone.values - together[i].values).max() < 1e-5


def test_averaging_over_timesteps_and_draws_is_the_mean_of_their_maps(model):
    image, edited = picture(64, 64), lambda s: embeddings_of(s, ["the white star"], OURS)
    several = make_segmenter(model, timesteps=(50, 200), draws=2)
    total = several.complete(encode_images(model, [image]), ["x"], *edited(several))
    parts = []
    for t in (50, 200):
        for draw in (0, 1):
            one = make_segmenter(model, timesteps=(t,))
            plain = model.add_noise
            model.add_noise = lambda z, ids, step, _, seed, draw=draw, plain=plain: plain(z, ids, step, draw, seed)
            parts.append(one.complete(encode_images(model, [image]), ["x"], *edited(one)))
            del model.add_noise
    torch.testing.assert_close(total, sum(parts) / 4)


def test_noise_is_a_function_of_its_key_only():
    one = draw_noise((4, 8, 8), 0, "17", 100, 0)
    assert torch.equal(one, draw_noise((4, 8, 8), 0, "17", 100, 0))
    for other in [(1, "17", 100, 0), (0, "18", 100, 0), (0, "17", 101, 0), (0, "17", 100, 1)]:
        assert not torch.equal(one, draw_noise((4, 8, 8), *other))


def test_flat_maps_are_counted_and_named(model, monkeypatch):
    segmenter = make_segmenter(model)
    segmenter([picture(64, 64)], ["the star"])
    assert segmenter.flat_note() is None
    monkeypatch.setattr("attrbind_exp.heatmaps.score_map.is_flat", lambda maps, _: maps.amax((-2, -1)) >= 0)
    edited = embeddings_of(segmenter, ["a heart", "the star"], OURS)
    segmenter.complete(encode_images(model, [picture(64, 64)]), ["x"], *edited, batch_size=8, images=[0, 0])
    assert segmenter.flat.tolist() == [2, 2, 2, 2]  # rows that fill up the batch are not counted
    assert "2 at 1/1 of the latents' resolution, 2 at 1/2" in segmenter.flat_note()


def test_the_unet_is_as_before_after_a_failure(segmenter):
    before = segmenter.backbone.unet.attn_processors
    edited = embeddings_of(segmenter, ["the star"], Variant("baseline"))
    with pytest.raises(RuntimeError):
        segmenter.complete(torch.zeros(1, 3, 16, 16), ["0"], *edited)  # one channel short
    assert segmenter.backbone.unet.attn_processors == before


def test_settings_that_the_model_does_not_have_are_refused(model):
    for wrong, words in [
        ({"ratios": (3,)}, "1, 2, 4, 8"), ({"blocks": ("middle",)}, "down, mid, up"), ({"timesteps": (1000,)}, "999"),
        ({"weights": {1: 1.0}}, "ratio 2"),
        ({"weights": {1: 0.0}, "ratios": (1,)}, "one above 0"),
        ({"weights": {1: -1.0}, "ratios": (1,)}, ">= 0"),
        ({"ratios": (8,), "blocks": ("up",)}, "no cross-attention layer"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=words):
            make_segmenter(model, **wrong)


def test_layer_choice_reads_only_those_layers(model):
    plan = make_segmenter(model, ratios=(2,), blocks=("down",)).plan
    names = [x.name for x in DiffSegmenter().request(plan.of_method("diffsegmenter"), model.layers).cross]
    assert names and all(n.startswith("down_blocks.1.") for n in names)
