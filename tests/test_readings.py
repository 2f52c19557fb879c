"""Further ways of reading attention: each against its oracle, alone and beside the others."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from attrbind_exp.backbones.backbone import encode_images
from attrbind_exp.config.settings import heatmap_methods
from attrbind_exp.edits import Averaging, NounChunk, Variant
from attrbind_exp.heatmaps.daam import Daam
from attrbind_exp.heatmaps.diffseg import DiffSeg
from attrbind_exp.heatmaps.diffsegmenter import DiffSegmenter
from attrbind_exp.heatmaps.iseg import ISeg
from attrbind_exp.types import LayerChoice, UserError
from tests.conftest import DIFFSEGMENTER, make_segmenter, picture
from tests.oracle import reference_daam, reference_diffseg, reference_heat_map, reference_iseg
from tests.test_command import composed

TEXT = "the white skateboarder next to a blue square"  # a target of several pieces
EDITED = Variant("edited", (NounChunk(), Averaging(0.9)), 0.9)
READ = Variant("read", (NounChunk(where="read"), Averaging(0.3, where="read")), 0.3)
BASELINE = Variant("baseline")
SIZE = (64, 64)


def powers(power):
    return lambda *given, content, **more: reference_heat_map(*given[:-1], DIFFSEGMENTER, SIZE, power=power, **more)


def without_content(reference):
    return lambda *given, content, **more: reference(*given, **more)


# A method, its oracle, and the weights it is given.
METHODS = {
    "cross_only": (DiffSegmenter(power=0), powers(0), DIFFSEGMENTER),
    "self_attention_power": (DiffSegmenter(power=3), powers(3), DIFFSEGMENTER),
    "daam_normalized": (Daam(normalize=True), reference_daam, None),
    "iseg": (ISeg(), without_content(reference_iseg), None),
    "diffseg": (DiffSeg(points=5, tau=0.05), partial(without_content(reference_diffseg), points=5, tau=0.05), None),
}


def completed_maps(segmenter, texts, variants, **given):
    """Completed maps of every text under every variant on a picture of its own: for each text (V, C, h, w)."""
    edited = segmenter.edit(segmenter.prepare(texts), variants)
    latents = encode_images(segmenter.backbone, [picture(64, 64, i) for i in range(len(texts))])
    rows = [(i, item.prompt, item.embedding(v)) for i, item in enumerate(edited) for v in range(len(variants))]
    images, prompts, embeddings = zip(*rows, strict=True)
    made = segmenter.complete(latents, [str(i) for i in range(len(texts))], prompts, embeddings, images=images, **given)
    return made.split([len(variants)] * len(texts))


@pytest.mark.parametrize("name", METHODS)
def test_each_equals_its_oracle(exact_model, model, name):
    """In float64 to 1e-7: the plain prompt, an edited pass, and a text that is only read, which shares a pass."""
    method, oracle, weights = METHODS[name]
    segmenter = make_segmenter(exact_model, weights=weights, methods={name: method})
    variants = [BASELINE, EDITED, READ]
    found = completed_maps(segmenter, ["the star", TEXT], variants)[1]
    single = completed_maps(
        make_segmenter(model, weights=weights, methods={name: method}), ["the star", TEXT], variants
    )
    item = segmenter.edit(segmenter.prepare([TEXT]), variants)[0]
    uncond = exact_model.encode_text([""])[0].states
    noisy = exact_model.add_noise(encode_images(exact_model, [picture(64, 64, 1)]), ["1"], 100, 0, 0)
    prompt = item.prompt
    assert len(prompt.read) > 1 and len(prompt.content) > len(prompt.read)
    for v, variant in enumerate(variants):
        embedding = item.embedding(v)
        plain = oracle(
            exact_model.unet, noisy, 100, embedding.keys, uncond, list(prompt.read), SIZE,
            content=list(prompt.content), read=embedding.read,
        )  # fmt: skip
        heat = torch.from_numpy(segmenter.heat_map(found[v], SIZE, variant).values).double()
        assert plain.std() > 0.05
        torch.testing.assert_close(heat, plain, rtol=0, atol=1e-7)
        near = torch.from_numpy(segmenter.heat_map(single[1][v], SIZE, variant).values).double()
        torch.testing.assert_close(near, plain, rtol=0, atol=1e-3)


def test_the_first_power_is_diffsegmenter(model):
    methods = {"diffsegmenter": DiffSegmenter(), "power": DiffSegmenter(power=1), "none": DiffSegmenter(power=0)}
    segmenter = make_segmenter(model, methods=methods)
    found = completed_maps(segmenter, ["the star", TEXT], [BASELINE, READ])
    for maps in found:
        own, power, none = maps.split(4, 1)
        assert torch.equal(own, power) and not torch.allclose(own, none, atol=1e-3)
    for power in (-1, 1.5, True, "2"):
        with pytest.raises(UserError, match=r"power=.* of a heatmap; give a whole number, 0 or more"):
            DiffSegmenter(power=power)


def test_a_methods_maps_are_the_same_alone_and_beside_the_others(model):
    """To the last bit: every method gets what it asked for, and no more."""
    methods = {"diffsegmenter": DiffSegmenter(), "daam": Daam()} | {n: method for n, (method, *_) in METHODS.items()}
    texts, variants = ["the star", "a red heart", TEXT], [BASELINE, READ]
    together = make_segmenter(model, methods=methods)
    found = completed_maps(together, texts, variants, batch_size=4)
    for name, method in methods.items():
        alone = completed_maps(make_segmenter(model, methods={name: method}), texts, variants, batch_size=4)
        mine = [i for i, (made_by, _) in enumerate(together.plan.columns) if made_by == name]
        for maps, own in zip(found, alone, strict=True):
            torch.testing.assert_close(maps[:, mine], own, rtol=0, atol=0 if name == "diffsegmenter" else 2e-6)


def test_a_choice_of_layers_leaves_the_sum_over_tokens_as_it_is(model):
    """So the map of one resolution is the same whichever others are read in the run."""
    daam = {"daam": Daam(normalize=True)}
    every = make_segmenter(model, weights=None, methods=daam, keep=True)
    coarse = make_segmenter(model, ratios=(4,), weights=None, methods=daam)
    both = make_segmenter(model, weights=None, methods=daam, grid={"coarse": LayerChoice((8,))})
    found, one, more = (completed_maps(x, [TEXT], [BASELINE])[0] for x in (every, coarse, both))
    assert torch.equal(found[:, 2:], one) and torch.equal(found, more[:, :3]) and more.shape[1] == 4


def test_options_make_the_methods():
    named = "heatmap=[cross_only,self_attention_power,daam_normalized]"
    made = heatmap_methods(composed(named))
    expected = {"cross_only": 0, "self_attention_power": 2}
    assert {name: made[name].power for name in expected} == expected
    assert made["daam_normalized"] == replace(Daam(), normalize=True)
