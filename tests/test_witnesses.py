"""Packages of other people as witnesses: they capture attention and weigh words by code that is none of ours.

`make test-witnesses` installs what is needed, from requirements-witnesses.lock, and runs this file.
"""

import pytest
import torch

from attrbind_exp.backbones.backbone import encode_images
from attrbind_exp.edits import CompelDown, Variant, Weight
from attrbind_exp.heatmaps.daam import Daam
from attrbind_exp.heatmaps.diffseg import DiffSeg
from attrbind_exp.heatmaps.diffsegmenter import DiffSegmenter
from attrbind_exp.heatmaps.iseg import ISeg
from attrbind_exp.heatmaps.ovam import Ovam
from tests import oracle
from tests.conftest import DIFFSEGMENTER, embeddings_of, make_segmenter, picture
from tests.test_core import as_pipeline

pytestmark = pytest.mark.slow

BASELINE = Variant("baseline")
TEXT = "the white skateboarder next to a blue square"  # a target of several pieces
SIZE = (64, 64)


def witness(name):
    return pytest.importorskip(name, reason=f"{name} is not installed; make test-witnesses installs and runs it")


def diffsegmenter(*given, power=1, sigmoid=False, content):
    heat = oracle.reference_heat_map(*given[:-1], DIFFSEGMENTER, given[-1], power=power)
    return oracle.normalise(torch.sigmoid(8 * (heat - 0.4))) if sigmoid else heat


def daam(*given, content):
    return oracle.reference_daam(*given)


def ovam(*given, content):
    return oracle.reference_ovam(*given)


def iseg(*given, content):
    return oracle.reference_iseg(*given)


def diffseg(*given, content):
    return oracle.reference_diffseg(*given, points=5, tau=0.05)


# A reading, its recipe, and how far apart they may be in float32 at t = 35 and at t = 100. Raw maps of other kernels differ
# in the last bit, and min-max divides that by how much a map rises: at t = 100 that of all fine layers rises least.
READINGS = {
    "diffsegmenter": (DiffSegmenter(weights=DIFFSEGMENTER), diffsegmenter),
    "diffsegmenter_notebook": (
        DiffSegmenter(weights=DIFFSEGMENTER, sigmoid=True),
        lambda *given, content: diffsegmenter(*given, sigmoid=True, content=content),
    ),
    "cross_only": (
        DiffSegmenter(weights=DIFFSEGMENTER, power=0),
        lambda *given, content: diffsegmenter(*given, power=0, content=content),
    ),
    "self_attention_power": (
        DiffSegmenter(weights=DIFFSEGMENTER, power=2),
        lambda *given, content: diffsegmenter(*given, power=2, content=content),
    ),
    "daam": (Daam(), daam),
    "daam_normalized": (Daam(normalize=True), oracle.reference_daam),
    "ovam": (Ovam(), ovam),
    "iseg": (ISeg(), iseg),
    "diffseg": (DiffSeg(points=5, tau=0.05), diffseg),
}


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
@pytest.mark.parametrize("name", READINGS)
def test_maps_that_another_package_captures_give_our_heat(model, monkeypatch, name, timestep):
    """The recipe of tests/oracle.py on raw maps that attention-map-diffusers takes from the same UNet."""
    monkeypatch.setattr(oracle, "keep_all_attention", capture_all_attention(model))
    method, recipe = READINGS[name]
    segmenter = make_segmenter(model, weights=None, methods={name: method}, timesteps=(timestep,))
    (prompt,), (embedding,) = embeddings_of(segmenter, [TEXT], BASELINE)
    latents = encode_images(model, [picture(64, 64, 1)])
    maps = segmenter.complete(latents, ["1"], [prompt], [embedding])[0]
    heat = torch.from_numpy(segmenter.heat_map(maps, SIZE, BASELINE).values)
    noisy = model.add_noise(latents, ["1"], timestep, 0, 0)
    theirs = recipe(
        model.unet, noisy, timestep, embedding.keys, None, list(prompt.read), SIZE, content=list(prompt.content)
    )
    assert len(prompt.read) > 1 and theirs.std() > 0.05
    print(name, timestep, (heat - theirs).abs().max().item())
    torch.testing.assert_close(heat, theirs, rtol=0, atol=1e-5)


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
    print(words, weight, (embedding.keys - theirs).abs().max().item())
    torch.testing.assert_close(embedding.keys, theirs.detach(), rtol=0, atol=1.2e-6)
