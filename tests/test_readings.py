"""Further ways of reading attention: each against its oracle, alone and beside the others."""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import pytest
import torch

from attrbind_exp.backbones.backbone import Layer, Observation, Request, SelfAttention, encode_images
from attrbind_exp.config.settings import heatmap_methods
from attrbind_exp.edits import Averaging, NounChunk, Variant
from attrbind_exp.heatmaps.daam import Daam
from attrbind_exp.heatmaps.diffseg import DiffSeg, aggregate, anchor_line, merge, symmetric_kl
from attrbind_exp.heatmaps.diffsegmenter import DiffSegmenter
from attrbind_exp.heatmaps.iseg import ISeg, cut_weak_links
from attrbind_exp.heatmaps.matrices import mean_matrix
from attrbind_exp.heatmaps.method import HeatMapMethod
from attrbind_exp.heatmaps.ovam import Ovam
from attrbind_exp.types import LayerChoice, UserError
from tests import oracle
from tests.conftest import DIFFSEGMENTER, completed_maps, embeddings_of, make_segmenter, picture
from tests.oracle import (
    keep_all_attention,
    reference_daam,
    reference_diffseg,
    reference_heat_map,
    reference_iseg,
    reference_ovam,
)
from tests.test_command import composed
from tests.test_core import random_sd15

TEXT = "the white skateboarder next to a blue square"  # a target of several pieces
EDITED = Variant("edited", (NounChunk(), Averaging(0.9)), 0.9)
READ = Variant("read", (NounChunk(where="read"), Averaging(0.3, where="read")), 0.3)
BASELINE = Variant("baseline")
SIZE = (64, 64)


def powers(power):
    return lambda *given, content, **more: reference_heat_map(*given[:-1], DIFFSEGMENTER, SIZE, power=power, **more)


def without_content(reference):
    return lambda *given, content, **more: reference(*given, **more)


def notebook(*given, content):
    return oracle.normalise(torch.sigmoid(8 * (powers(1)(*given, content=content) - 0.4)))


# A method, its oracle, and the weights it is given.
METHODS = {
    "cross_only": (DiffSegmenter(power=0), powers(0), DIFFSEGMENTER),
    "self_attention_power": (DiffSegmenter(power=3), powers(3), DIFFSEGMENTER),
    "daam_normalized": (Daam(normalize=True), reference_daam, None),
    "iseg": (ISeg(), without_content(reference_iseg), None),
    "diffseg": (DiffSeg(points=5, tau=0.05), partial(without_content(reference_diffseg), points=5, tau=0.05), None),
}


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


# And those whose oracles in float64 stand in other files' tests.
ALL_METHODS = METHODS | {
    "diffsegmenter": (DiffSegmenter(weights=DIFFSEGMENTER), powers(1), None),
    "diffsegmenter_notebook": (DiffSegmenter(weights=DIFFSEGMENTER, sigmoid=True), notebook, None),
    "daam": (Daam(), without_content(reference_daam), None),
    "ovam": (Ovam(), without_content(reference_ovam), None),
}


@pytest.mark.slow
def test_each_equals_its_float64_oracle_on_stable_diffusions_architecture(monkeypatch):
    """All readings of one float32 pass; random weights, 256 x 192 pixels: at 512 the oracle's matrices take 5 GB beside
    7 GB of weights. A cell of DiffSeg's may fall to another segment."""
    model = random_sd15()
    methods = {name: method for name, (method, *_) in ALL_METHODS.items()}
    own = {n: replace(m, weights=DIFFSEGMENTER) if isinstance(m, DiffSegmenter) else m for n, m in methods.items()}
    segmenter = make_segmenter(model, weights=None, methods=own)
    (prompt,), (embedding,) = embeddings_of(segmenter, [TEXT], BASELINE)
    latents = encode_images(model, [picture(64, 64)])
    maps = segmenter.complete(latents, ["0"], [prompt], [embedding])
    found = segmenter.heat_maps(maps.expand(len(own), -1, -1, -1), SIZE, [(name, None) for name in own])
    noisy = model.add_noise(latents, ["0"], 100, 0, 0).double()
    keys, uncond = embedding.keys.double(), model.encode_text([""])[0].states.double()
    del segmenter
    model.unet.double()
    kept = oracle.keep_all_attention(model.unet, noisy, 100, keys, uncond)
    monkeypatch.setattr(oracle, "keep_all_attention", lambda *_, **__: kept)  # one pass serves all recipes
    for (name, (_, recipe, _)), heat in zip(ALL_METHODS.items(), found, strict=True):
        plain = recipe(model.unet, noisy, 100, keys, uncond, list(prompt.read), SIZE, content=list(prompt.content))
        difference = (heat.double() - plain).abs().mean()
        assert plain.std() > 0.05 and difference < (1e-2 if name == "diffseg" else 5e-4), (name, difference)


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


@dataclass(frozen=True)
class Asks(HeatMapMethod):
    """Notes what it is given of a pass; it asks for one layer of each kind."""

    given: ClassVar[list[Observation]] = []

    def request(self, columns, layers):
        cross = next(x for x in layers if x.cross and x.ratio == 4)
        return Request((cross,), queries_keys=(next(x for x in layers if not x.cross),), inputs=(cross,))

    def raw_maps(self, seen, columns, grid):
        self.given.append(seen)
        return torch.rand(len(next(iter(seen.inputs.values()))), len(columns), *grid)


@dataclass(frozen=True)
class AsksAll(Asks):
    """Asks for everything."""

    def request(self, columns, layers):
        cross = tuple(x for x in layers if x.cross)
        return Request(cross, True, tuple(x for x in layers if not x.cross), cross, tuple(layers), True)


def test_a_method_is_given_what_it_asked_for_and_no_more(model):
    Asks.given.clear()
    segmenter = make_segmenter(model, methods={"little": Asks(), "all": AsksAll(), "daam": Daam()})
    completed_maps(segmenter, [TEXT], [BASELINE])
    little, everything = Asks.given
    request = Asks().request([], model.layers)
    assert tuple(little.cross) == tuple(little.inputs) == request.cross and not little.outputs and little.noise is None
    assert [x.layer for x in little.self_attention] == list(request.queries_keys)
    assert little.cross[request.cross[0]].shape[1] == 1 and little.cross[request.cross[0]].ndim == 3
    assert everything.cross[request.cross[0]].shape[1:3] == (1, 2) and everything.noise is not None
    assert len(everything.outputs) == len(model.layers) and len(everything.self_attention) > 1


def test_a_choice_of_layers_leaves_the_sum_over_tokens_as_it_is(model):
    """So the map of one resolution is the same whichever others are read in the run."""
    daam = {"daam": Daam(normalize=True)}
    every = make_segmenter(model, weights=None, methods=daam, keep=True)
    coarse = make_segmenter(model, ratios=(4,), weights=None, methods=daam)
    both = make_segmenter(model, weights=None, methods=daam, grid={"coarse": LayerChoice((8,))})
    found, one, more = (completed_maps(x, [TEXT], [BASELINE])[0] for x in (every, coarse, both))
    assert torch.equal(found[:, 2:], one) and torch.equal(found, more[:, :3]) and more.shape[1] == 4


def test_options_make_the_methods():
    made = heatmap_methods(composed(f"heatmap=[{','.join(METHODS)}]"))
    expected = {"cross_only": 0, "self_attention_power": 2}
    assert {name: made[name].power for name in expected} == expected
    found = [made[name] for name in ("daam_normalized", "iseg", "diffseg")]
    assert found == [Daam(normalize=True), ISeg(), DiffSeg()]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiffSeg(points=0), "points=0 of a heatmap; give a whole number, 1 or more"),
        (lambda: DiffSeg(rounds=2.5), r"rounds=2\.5 of a heatmap; give a whole number, 1 or more"),
        (lambda: DiffSeg(tau=0), "tau=0 of a heatmap; give a number above 0"),
        (lambda: ISeg(rounds=-1), "rounds=-1 of a heatmap; give a whole number, 0 or more"),
        (lambda: ISeg(ent="much"), "ent='much' of a heatmap; give a number, 0 or more"),
    ],
)
def test_a_constant_that_makes_no_map_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_weak_links_are_cut_by_hand():
    """Columns by their largest: (1, 0.1), (0.01, 1); at ent = 0.5 the 0.1 becomes 0.1 + 0.5 log10(0.1 e) < 0."""
    matrix = torch.tensor([[0.5, 0.01], [0.05, 1.0]], dtype=torch.float64)
    assert cut_weak_links(matrix.clone(), 0.5).tolist() == [[1, 0], [0, 1]]
    kept = 0.1 + 0.01 * math.log10(0.1 * math.e)
    whole = 1 + 0.01 * math.log10(math.e)
    found = cut_weak_links(matrix.clone(), 0.01)
    torch.testing.assert_close(found[1], torch.tensor([kept, whole]).double() / (kept + whole))
    nothing = cut_weak_links(torch.tensor([[0.0, 0.0], [0.5, 1.0]]), 0.1)
    assert nothing[0].tolist() == [0, 0] and nothing.isfinite().all()


def test_a_target_that_no_cell_attends_to_has_a_flat_map_that_is_counted(exact_model, monkeypatch):
    """Its attention is nowhere above zero, so it has no sum to be divided by; the row beside it is as ever."""
    segmenter = make_segmenter(exact_model, weights=None, methods={"iseg": ISeg()})
    variants = [BASELINE, READ]  # the first text is read once, the other twice: what lacks a text is no flat map
    plain = completed_maps(segmenter, ["the star", TEXT], variants, batch_size=4)
    assert segmenter.flat_note() is None
    observe, lost = exact_model.observe, []

    def deaf(*given, **more):
        seen = observe(*given, **more)
        for pooled in seen.cross.values():
            pooled[0] = 0
        lost.append(seen)
        return seen

    monkeypatch.setattr(exact_model, "observe", deaf)
    found = completed_maps(segmenter, ["the star", TEXT], variants, batch_size=4)
    assert lost and not found[0].any() and torch.equal(found[1], plain[1]) and plain[1].any()
    assert not segmenter.heat_map(found[0][0], SIZE, BASELINE).values.any()
    assert segmenter.flat.tolist() == [1, 1] and "1 at 1/2 of the latents' resolution" in segmenter.flat_note()

    def unattended(*given, **more):
        return {name: m * (".attn2." not in name) for name, m in keep_all_attention(*given, **more).items()}

    monkeypatch.setattr("tests.oracle.keep_all_attention", unattended)
    (prompt,), (embedding,) = embeddings_of(segmenter, ["the star"], BASELINE)
    noisy = exact_model.add_noise(encode_images(exact_model, [picture(64, 64)]), ["0"], 100, 0, 0)
    given = (exact_model.unet, noisy, 100, embedding.keys, embedding.keys, list(prompt.read), SIZE)
    assert not reference_iseg(*given).any()


def test_anchors_lie_evenly_in_the_middle():
    assert anchor_line(64, 16) == list(range(1, 62, 4))
    assert anchor_line(16, 16) == anchor_line(16, 99) == list(range(16))
    assert anchor_line(5, 1) == [2] and anchor_line(1, 16) == [0]


def test_merging_takes_in_what_is_close_in_order():
    """The second map is close to both others, which are not close to each other: it goes to the first and is gone, but
    the third, which comes after, still takes it into its mean."""
    maps = torch.tensor([[0.5, 0.5], [0.6, 0.4], [0.7, 0.3]], dtype=torch.float64)
    distance = symmetric_kl(maps, maps)
    assert distance[0, 1].item() == pytest.approx(0.05 * math.log(1.5))  # half of 0.1 (log 0.6/0.5 - log 0.4/0.5)
    torch.testing.assert_close(distance, distance.T)
    found = merge(maps, 0.03)
    torch.testing.assert_close(found, torch.tensor([[0.55, 0.45], [0.65, 0.35]]).double())


def test_attention_of_all_resolutions_on_a_grid_of_odd_sides():
    """Equal queries look everywhere alike, at any resolution; keys that stand out are seen at their place."""
    layers = [
        SelfAttention(Layer("", "down", ratio, False), torch.zeros(1, 2, n, 4), torch.randn(1, 2, n, 4), 0.5, [0])
        for ratio, n in ((2, 2 * 3), (1, 3 * 5), (1, 3 * 5))
    ]
    found = aggregate(layers, (3, 5))
    torch.testing.assert_close(found, torch.full((15, 15), 1 / 15))
    layers[0].query.copy_(layers[0].key.mul_(9))
    coarse = mean_matrix(layers[:1]).view(6, 1, 2, 3)
    maps = torch.nn.functional.interpolate(coarse, (3, 5), mode="bilinear").view(6, 15)
    expected = [
        2 / 3 / 15 + maps[place] / maps[place].sum() / 3 for place in (0, 0, 1, 1, 2, 0, 0, 1, 1, 2, 3, 3, 4, 4, 5)
    ]
    torch.testing.assert_close(aggregate(layers, (3, 5)), torch.stack(expected))
