"""Open choices of the recipe as keys: each by hand-computed answers, and as before where nothing is typed."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from attrbind_exp import config
from attrbind_exp.backbones.stable_diffusion import StableDiffusion, draw_noise, load_stable_diffusion
from attrbind_exp.cache import digest
from attrbind_exp.edits import NounChunk, Variant
from attrbind_exp.evaluation.kept import KeptHeat
from attrbind_exp.heatmaps import score_map
from attrbind_exp.heatmaps.diffsegmenter import DiffSegmenter
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.language.caption import BlipCaptioner
from attrbind_exp.language.prompts import place_prompts
from attrbind_exp.types import MapSettings, TextSettings, UserError
from tests.conftest import make_segmenter, make_variant, picture
from tests.test_caption import WORDS, blip, pictures  # noqa: F401
from tests.test_command import composed

BUNDLED = str(config.PACKAGE / "assets" / "bundled")


@pytest.mark.parametrize(
    ("template", "prefix"),
    [("a photograph of", "a photograph of "), ("a photography of", "a photography of "), ("", "")],
)
def test_the_template_stands_before_the_expression_and_moves_its_positions(model, template, prefix):
    text = "a circle beside the white star"
    (prompt,) = place_prompts(model.window, [text], settings=TextSettings(template=template))
    (plain,) = place_prompts(model.window, [text])
    assert prompt.text == prefix + text and prompt.prefix == prefix and prompt.parse == plain.parse
    before = len(model.window([prefix])[0].content)
    chunk = model.window([plain.parse.chunk_text])[0].content
    assert len(prompt.pos) == len(chunk) and [i - before for i in prompt.q] == [i - 3 for i in plain.q]
    assert NounChunk("template").texts(prompt) == (prefix + plain.parse.chunk_text,)
    assert NounChunk("none").texts(prompt) == (plain.parse.chunk_text,)


def test_with_the_prefix_kept_a_chunk_in_front_is_the_baseline_under_any_template(model):
    segmenter = make_segmenter(model, text=TextSettings(template="an old drawing of"))
    (prompt,) = segmenter.prepare(["the white star beside a circle"])
    (edited,) = segmenter.edit([prompt], [make_variant("baseline"), make_variant("ncr", True, prefix="template")])
    torch.testing.assert_close(edited.embedding(0).keys, edited.embedding(1).keys)


def test_the_template_is_one_value_and_reaches_prompts_and_captioner():
    cfg = composed("captioner=blip", "text_processor.template=a photo, say,  of")
    settings = config.read_settings(cfg)
    assert settings.segmenter.text.template == "a photo, say, of" and cfg.captioner.template == "a photo, say,  of"
    assert config.read_settings(composed()).segmenter.text == TextSettings(overrides=settings.segmenter.text.overrides)
    assert BlipCaptioner("x").key("i", "dog") == BlipCaptioner("x", template="a photograph of").key("i", "dog")
    keys = [
        BlipCaptioner("x", **more).key("i", "dog")
        for more in ({}, {"template": "a photography of"}, {"max_length": 20})
    ]
    assert len(set(keys)) == 3
    with pytest.raises(UserError, match=r"text_processor\.template=None"):
        config.read_settings(composed("text_processor.template=null"))


@pytest.mark.parametrize(
    ("max_new", "longest", "length", "room"),
    [(20, None, 30, 20), (20, 20, 7, 14), (6, 20, 7, 6), (20, 20, 21, 0), (20, 20, 40, 0), (20, 20, 20, 1)],
)
def test_the_longest_caption_counts_the_prompt(max_new, longest, length, room):
    """A prompt of 7 tokens has its separator among them, which BLIP drops: 6 stay, and 14 more make 20."""
    assert BlipCaptioner("x", max_new_tokens=max_new, max_length=longest).room(length) == room


def test_the_longest_caption_is_the_one_of_the_plain_library(blip, pictures):  # noqa: F811
    captioner = BlipCaptioner(blip, max_length=8)
    model, tokenizer, processor = captioner._load()
    pieces = [i for token, i in tokenizer.get_vocab().items() if token.startswith("##")]
    for image, word, caption in zip(pictures, WORDS, captioner.caption(pictures, WORDS), strict=True):
        pixels, ids = (
            processor(image, return_tensors="pt").pixel_values,
            tokenizer(f"a photograph of {word}", return_tensors="pt").input_ids,
        )
        plain = model.generate(pixels, ids, max_length=8, do_sample=False, begin_suppress_tokens=pieces)
        assert tokenizer.decode(plain[0], skip_special_tokens=True) == f"a photograph of {caption}" and caption != word
    assert BlipCaptioner(blip, max_length=4).caption(pictures, WORDS) == WORDS


@pytest.mark.parametrize("name", ["bicubic", "bilinear", "lanczos", "nearest"])
def test_pictures_are_resized_by_the_filter_that_is_named(name):
    model = load_stable_diffusion(BUNDLED, "cpu", size=(64, 128), resize=name)
    image = picture(90, 50)
    seen = model.pixels(image).values.permute(1, 2, 0).numpy()
    assert (seen == np.asarray(image.resize((128, 64), Image.Resampling[name.upper()]))).all()


def test_a_sample_of_the_latents_is_drawn_by_seed_and_picture_alone(model):
    one, same, other = (load_stable_diffusion(BUNDLED, "cpu", latents="sample", seed=s) for s in (3, 3, 4))
    first, second = (model.pixels(picture(64, 64, i)) for i in (0, 1))
    drawn = one.encode_pixels(first)
    assert torch.equal(drawn, same.encode_pixels(first)) and not torch.equal(drawn, other.encode_pixels(first))
    posterior = model.vae.encode(first.values[None] / 127.5 - 1).latent_dist
    scale = model.vae.config.scaling_factor
    assert torch.equal(model.encode_pixels(first), posterior.mean[0] * scale)
    noise = draw_noise(tuple(drawn.shape), 3, digest(first.values), -1, 0)
    torch.testing.assert_close(drawn, (posterior.mean[0] + posterior.std[0] * noise) * scale)
    assert not torch.equal(noise, draw_noise(tuple(drawn.shape), 3, digest(second.values), -1, 0))
    assert len({m.image_encoder_digest() for m in (model, one, same, other)}) == 3


def test_wrong_choices_are_named():
    pipeline = None
    with pytest.raises(UserError, match=r"model\.latents='mean'; choose from mode, sample"):
        StableDiffusion(pipeline, latents="mean")
    for typed in (
        "model.resize=cubic",
        "model.latents=mean",
        "text_processor.ing_offsets=3",
        "text_processor.ing_offsets=[0]",
    ):
        with pytest.raises(UserError, match=f"{typed.split('=')[0]}.*choose from"):
            config.read_settings(composed(typed))
    with pytest.raises(UserError, match="sigmoid='maybe' of a heatmap; choose from"):
        DiffSegmenter(sigmoid="maybe")


@pytest.mark.parametrize(("typed", "further"), [("2", [2]), ("[2]", [2]), ("1", [1]), ("[1,2]", [1, 2])])
def test_the_ing_rule_reads_where_it_is_told(model, typed, further):
    settings = config.text_settings(composed("text_processor.ing_rule=true", f"text_processor.ing_offsets={typed}"))
    texts = ["the star sitting on a circle", "the star on a circle sitting"]
    sitting, plain = place_prompts(model.window, texts, settings=settings)
    assert [i - sitting.q[-1] for i in sitting.read[len(sitting.q) :]] == further and plain.read == plain.q


def test_the_notebooks_sigmoid_by_hand():
    """sigmoid(-3.2) = 0.0391657, sigmoid(0) = 0.5, sigmoid(4.8) = 0.9918374; then 0 and 1 are the ends again."""
    heat = torch.tensor([[[0.0, 0.4], [0.4, 1.0]]])
    middle = (0.5 - 0.0391657) / (0.9918374 - 0.0391657)
    torch.testing.assert_close(score_map.sharpen(heat), torch.tensor([[[0.0, middle], [middle, 1.0]]]))
    both = score_map.heat_map(torch.cat([3 * heat, 3 * heat, torch.ones(1, 2, 2)]), (2, 2), [False, True, True])
    torch.testing.assert_close(both, torch.cat([heat, score_map.sharpen(heat), torch.zeros(1, 2, 2)]))


def test_the_notebook_stands_beside_the_script_in_one_run(model):
    cfg = composed("heatmap=[diffsegmenter,diffsegmenter_notebook]", "model.weights={1: 1, 2: 1, 4: 0, 8: 0}")
    methods = config.segmenter_settings(cfg).make_methods()
    segmenter = Segmenter(model, TextSettings(), MapSettings((100,)), methods)
    (prompt,) = segmenter.prepare(["the white star"])
    (edited,) = segmenter.edit([prompt], [Variant("baseline")])
    completed = segmenter.complete(
        model.encode_pixels(model.pixels(picture(64, 64)))[None], ["0"], [prompt], [edited.embedding(0)]
    )
    script, notebook = (Variant("baseline", heatmap=name) for name in methods)
    plain, sharp = (segmenter.heat_map(completed[0], (50, 80), v).values for v in (script, notebook))
    np.testing.assert_allclose(sharp, score_map.sharpen(torch.from_numpy(plain)[None])[0].numpy(), atol=1e-6)
    assert np.abs(sharp - plain).max() > 0.1 and sharp.min() == 0 and sharp.max() == 1
    kept = KeptHeat(None, "0", methods, MapSettings((100,)), model.reading)
    layers = [(x.name, x.block, x.ratio, x.cross) for x in model.layers]
    kept.__dict__["kept"] = SimpleNamespace(
        find=lambda *_: completed[0].numpy(), layers=layers, columns=segmenter.plan.columns
    )
    for variant, heat in ((script, plain), (notebook, sharp)):
        np.testing.assert_allclose(kept(SimpleNamespace(sample_id="s", size=(50, 80)), variant, 0), heat, atol=1e-6)
