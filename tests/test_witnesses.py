"""Packages of other people as witnesses: they capture attention and weigh words by code that is none of ours.

`make test-witnesses` installs what is needed, from requirements-witnesses.lock, and runs this file.
"""

import pytest
import torch

from attrbind_exp.backbones.backbone import encode_images
from attrbind_exp.edits import CompelDown, Variant, Weight
from tests import oracle
from tests.conftest import embeddings_of, make_segmenter, picture
from tests.test_core import as_pipeline
from tests.test_readings import ALL_METHODS, BASELINE, SIZE, TEXT

pytestmark = pytest.mark.slow


def witness(name):
    return pytest.importorskip(name, reason=f"{name} is not installed; make test-witnesses installs and runs it")


# float32, at most: raw maps of two kernels differ in the last bit, and further products with self-attention leave a map
# that rises less, so that min-max magnifies that more (three products at t = 35: 7.1e-5). In float64 all equal the oracle to 1e-7.
BARS = {"self_attention_power": 2e-4}


def capture_all_attention(model):
    """A stand-in for oracle.keep_all_attention whose matrices are captured by attention-map-diffusers."""
    package = witness("attention_map_diffusers")

    @torch.no_grad()
    def keep(unet, noisy, timestep, embedding, uncond):
        relations = ["image->text", "image->image"]
        with package.AttentionCapture(as_pipeline(model), relations=relations, mode="exact", heads="all") as capture:
            unet(noisy, timestep, embedding[None])
        return {record.layer_id.removeprefix("unet.") + ".": record.data[0] for record in capture.compute()}

    return keep


@pytest.mark.parametrize("timestep", [35, 100])
@pytest.mark.parametrize("name", ALL_METHODS)
def test_maps_that_another_package_captures_give_our_heat(model, monkeypatch, name, timestep):
    """The recipe of tests/oracle.py on raw maps that attention-map-diffusers takes from the same UNet."""
    monkeypatch.setattr(oracle, "keep_all_attention", capture_all_attention(model))
    method, recipe, weights = ALL_METHODS[name]
    segmenter = make_segmenter(model, weights=weights, methods={name: method}, timesteps=(timestep,))
    (prompt,), (embedding,) = embeddings_of(segmenter, [TEXT], BASELINE)
    latents = encode_images(model, [picture(64, 64, 1)])
    maps = segmenter.complete(latents, ["1"], [prompt], [embedding])[0]
    heat = torch.from_numpy(segmenter.heat_map(maps, SIZE, BASELINE).values)
    noisy = model.add_noise(latents, ["1"], timestep, 0, 0)
    theirs = recipe(
        model.unet, noisy, timestep, embedding.keys, None, list(prompt.read), SIZE, content=list(prompt.content)
    )
    assert len(prompt.read) > 1 and theirs.std() > 0.05
    torch.testing.assert_close(heat, theirs, rtol=0, atol=BARS.get(name, 1e-5))


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.8, 1.0, 1.21, 1.6])
@pytest.mark.parametrize("words", ["white", "white blue", "skateboarder"])
def test_compel_weighs_words_as_we_do(model, weight, words):
    """Bar: a few units of float32's rounding; compel's own order of sums is another one."""
    compel = witness("compel")
    chosen = words.split()
    edit = (Weight if weight >= 1 else CompelDown)(weight, chosen)
    (prompt,), (embedding,) = embeddings_of(make_segmenter(model), [TEXT], Variant("weighted", (edit,)))
    typed = " ".join(f"({word}){weight}" if word in chosen else word for word in prompt.text.split())
    theirs = compel.Compel(model.tokenizer, model.text_encoder).build_conditioning_tensor(typed)[0]
    torch.testing.assert_close(embedding.keys, theirs.detach(), rtol=0, atol=1.2e-6)
