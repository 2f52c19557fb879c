"""Edits that only change what is read: the pass keeps the plain prompt, and the maps of further texts come from it."""

from dataclasses import dataclass, replace

import pytest
import torch

from attrbind_exp import config
from attrbind_exp.backbones.backbone import Embedding, EncodedText, Request, encode_images
from attrbind_exp.config import PACKAGE
from attrbind_exp.config.settings import heatmap_methods
from attrbind_exp.data.dataset import by_image
from attrbind_exp.data.refer import load_refer
from attrbind_exp.edits import Averaging, Edit, NounChunk, TextBlind, Variant, Weight
from attrbind_exp.edits.chain import apply_chain
from attrbind_exp.edits.variant import is_floor
from attrbind_exp.evaluation.batching import segment_images
from attrbind_exp.heatmaps.daam import Daam
from attrbind_exp.heatmaps.diffsegmenter import DiffSegmenter
from attrbind_exp.heatmaps.ovam import Ovam
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.types import UserError
from tests.conftest import DIFFSEGMENTER, completed_maps, make_segmenter, picture
from tests.oracle import reference_daam, reference_heat_map, reference_ovam
from tests.test_command import composed
from tests.test_fast_core import passes_of

TEXT = "the white skateboarder next to a blue square"  # a target of several pieces
ALPHAS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
BASELINE = Variant("baseline")
READ = [Variant("read", (NounChunk(where="read"), Averaging(alpha, where="read")), alpha) for alpha in ALPHAS]
ALL = {"diffsegmenter": DiffSegmenter(), "daam": Daam(), "ovam": Ovam()}
PLAIN = {"daam": reference_daam, "ovam": reference_ovam}


@dataclass(frozen=True)
class Add(Edit):
    """E + amount."""

    amount: float = 0.0

    def apply(self, E, encoded, prompt):
        return E + self.amount


@pytest.mark.parametrize("name", ALL)
def test_the_maps_of_read_texts_equal_those_made_by_hand(exact_model, name):
    """In float64: cross-attention of the edited text to the plain pass's inputs, everything else of the plain pass."""
    weights = DIFFSEGMENTER if name == "diffsegmenter" else None
    segmenter = make_segmenter(exact_model, weights=weights, methods={name: ALL[name]})
    prompt = segmenter.prepare([TEXT])[0]
    edited = segmenter.edit([prompt], READ[:3])[0]
    E, U = (x.states for x in exact_model.encode_text([prompt.text, ""]))
    latents = exact_model.encode_pixels(exact_model.pixels(picture(64, 64)))[None]
    noisy = exact_model.add_noise(latents, ["0"], 100, 0, 0)
    embeddings = [edited.embedding(v) for v in range(3)]
    made = segmenter.complete(latents, ["0"], [prompt] * 3, embeddings, images=[0] * 3)
    assert len(prompt.read) > 1
    for v, maps in enumerate(made):
        assert torch.equal(embeddings[v].keys, E) and not torch.equal(embeddings[v].read, E)
        given = (exact_model.unet, noisy, 100, E, U, list(prompt.read))
        reference, given = PLAIN.get(name, reference_heat_map), given if name in PLAIN else (*given, DIFFSEGMENTER)
        plain = reference(*given, (64, 64), read=embeddings[v].read)
        heat = segmenter.heat_map(maps, (64, 64), READ[v]).values
        assert plain.std() > 0.05
        torch.testing.assert_close(torch.from_numpy(heat).double(), plain, rtol=0, atol=1e-7)


def test_single_precision_gives_the_same_maps(model, exact_model):
    found, exact = (completed_maps(make_segmenter(m, methods=ALL), [TEXT], READ)[0] for m in (model, exact_model))
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5)


def test_reading_by_an_edit_that_changes_nothing_is_the_baseline(model, segmenter):
    """To the last bit where the edit says so; where it is applied the text goes through another call of the kernel."""
    unchanged = [Variant("none", (Averaging(1.0, where="read"),)), Variant("same", (Add(where="read"),))]
    plain, none, same = completed_maps(segmenter, [TEXT], [BASELINE, *unchanged])[0]
    assert torch.equal(none, plain)
    torch.testing.assert_close(same, plain, rtol=0, atol=1e-6)


def test_the_first_layers_map_is_that_of_an_edited_pass_and_later_ones_are_not(model):
    """What comes to the first cross-attention no text has touched, so editing the pass and the reading are the same."""
    segmenter = make_segmenter(model)
    first, second = [x for x in model.layers if x.cross][:2]
    request = Request(cross=(first, second))
    prompt = segmenter.prepare([TEXT])[0]
    noisy = model.add_noise(torch.randn(1, 4, 16, 16), ["0"], 100, 0, 0)
    pools = DiffSegmenter().pools(prompt.read, 24)[None]
    variants = [Variant("read", (NounChunk(where="read"),)), Variant("edited", (NounChunk(),))]
    read, edited = segmenter.edit([prompt], variants)[0].embeddings
    one = model.observe(noisy, 100, Embedding.stack([read]), request, pools, reads=[read.read[None]])
    other = model.observe(noisy, 100, Embedding.stack([edited]), request, pools)
    assert not torch.allclose(one.cross[first][:, 0], other.cross[first][:, 0], atol=1e-4)
    torch.testing.assert_close(one.cross[first][:, 1], other.cross[first][:, 0], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(one.cross[second][:, 1], other.cross[second][:, 0], atol=1e-4)


def test_nine_alphas_read_take_one_row_and_leave_the_plain_map_as_it_is(model, monkeypatch):
    """The expressions have different numbers of texts; no map depends on what shares the pass, to the last bit."""
    segmenter = make_segmenter(model, methods=ALL)
    plain = completed_maps(segmenter, ["the star", TEXT], [BASELINE], batch_size=4)
    sizes = passes_of(model, monkeypatch)
    together = completed_maps(segmenter, ["the star", TEXT], [*READ, BASELINE], batch_size=4)
    assert sizes == [4]  # two rows, filled up
    assert all(torch.equal(found[-1], one[0]) for found, one in zip(together, plain, strict=True))
    assert all(torch.equal(maps, plain[0][0]) for maps in together[0])  # nothing to bind
    assert len(torch.unique(together[1], dim=0)) == 10
    other = completed_maps(segmenter, ["a red heart"], [BASELINE], batch_size=4)
    sizes.clear()
    three = completed_maps(segmenter, ["the star", TEXT, "a red heart"], [*READ, BASELINE], batch_size=4)
    assert sizes == [4] and torch.equal(three[1], together[1]) and other[0].shape == three[2][-1:].shape


def test_a_run_shares_passes_and_keeps_every_map(model, monkeypatch):
    dataset = load_refer(str(PACKAGE / "assets"), "shapes", "made", "val", limit=4)
    samples = [replace(s, text="the star") if i % 3 == 1 else s for i, s in enumerate(dataset.samples)]
    scenes = by_image(replace(dataset, samples=samples))
    edited = Variant("edited", (NounChunk(), Averaging(0.5)), 0.5)
    variants = [READ[2], edited, BASELINE, READ[5], Variant("text_blind", (TextBlind(where="read"),))]
    segmenter = make_segmenter(model)
    sizes = passes_of(model, monkeypatch)
    found = list(segment_images(scenes, segmenter, RunSettings(variants, batch_size=4, seeds=(0, 1), keep_maps=True)))
    bound = [item.prompt.bind for image in found for item in image.items]
    rows = sum(2 if bind else 1 for bind in bound)  # plain and edited; where nothing is bound plain alone
    assert len(sizes) == -(-rows // 4) * 2 and 0 < sum(bound) < len(bound)
    for number, variant in enumerate(variants):
        alone = segment_images(scenes, segmenter, RunSettings([variant], batch_size=4, seeds=(0, 1)))
        for image, own in zip(found, alone, strict=True):
            for item, single in zip(image.items, own.items, strict=True):
                for seed in (0, 1):
                    heat = item.heats[item.index[number][seed]].values
                    expected = single.heats[single.index[0][seed]].values
                    torch.testing.assert_close(torch.from_numpy(heat), torch.from_numpy(expected), rtol=0, atol=2e-5)
                    kept = torch.from_numpy(image.kept.find(item.sample.sample_id, variant, seed))
                    again = segmenter.heat_map(kept, heat.shape, variant).values
                    torch.testing.assert_close(torch.from_numpy(again), torch.from_numpy(heat), rtol=0, atol=1e-6)


def test_what_is_read_starts_from_the_keys_as_they_are_edited(segmenter):
    prompt = segmenter.prepare([TEXT])[0]
    encoded = {prompt.text: EncodedText(segmenter.backbone.window([prompt.text])[0], torch.zeros(2, 3))}
    chain = [Add(amount=a, where=w) for w, a in (("both", 1), ("values", 10), ("read", 100), ("keys", 1000))]
    found = apply_chain(chain, prompt, encoded)
    assert [x[0, 0].item() for x in (found.keys, found.values, found.read)] == [1001, 11, 1101]
    assert apply_chain(chain[:2], prompt, encoded).read is None


def test_the_pooled_text_is_part_of_the_pass(segmenter):
    """A reading of the empty prompt leaves the pooled vector of the plain one."""
    tokens = segmenter.backbone.window([""])[0]
    encoded = {t: EncodedText(tokens, torch.full((2, 3), v), torch.full((4,), v)) for t, v in (("", 0.0), ("a", 1.0))}
    prompt = segmenter.prepare(["a"])[0]
    encoded[prompt.text] = encoded["a"]
    found = apply_chain((TextBlind(where="read"),), prompt, encoded)
    assert found.pooled[0] == 1 and found.keys[0, 0] == 1 and found.read[0, 0] == 0


@pytest.mark.parametrize(
    "make", [NounChunk, lambda where: Averaging(0.9, where=where), lambda where: Weight(2, where=where)]
)
def test_a_place_that_is_none_is_refused(make):
    with pytest.raises(UserError, match=r"where='reads' of the edit \w+; choose from both, keys, values, read"):
        make(where="reads")


def test_labels_and_options_say_that_an_edit_is_only_read():
    found, head = config.variants(composed("text_processor=read_only", "alpha=grid", "text_blind=false"))
    label = "noun_chunk where=read + uncond_average alpha={} where=read"
    assert [v.label for v in found] == ["baseline", *(label.format(f"{alpha:g}") for alpha in ALPHAS)]
    assert found[head].alpha == 0.9
    typed = ["text_processor=paper", "+text_processor.ncr.where=read", "+text_processor.uea.where=read"]
    assert config.variants(composed(*typed, "text_blind=false"))[0][1].label == label.format(0.9)
    assert is_floor("text_blind layers=up") and not is_floor(Variant("x", (TextBlind(where="read"),)).label)
    both, _ = config.variants(composed("+sweeps=alpha_read_only", "text_blind=false"))
    assert len(both) == 1 + 2 * 15 and len({v.label for v in both}) == len(both)


def test_ovam_reads_the_prompt_and_leaves_the_middle_block_out(exact_model):
    """SD 2.x's layers have different numbers of heads, which OVAM sums; here a picture that is not square."""
    segmenter = make_segmenter(exact_model, weights=None, methods={"ovam": Ovam()})
    prompt, image = segmenter.prepare([TEXT])[0], picture(50, 90)
    E, U = (x.states for x in exact_model.encode_text([prompt.text, ""]))
    noisy = exact_model.add_noise(encode_images(exact_model, [image]), ["0"], 100, 0, 0)
    plain = reference_ovam(exact_model.unet, noisy, 100, E, U, list(prompt.read), (50, 90))
    heat = torch.from_numpy(segmenter([image], [TEXT])[0].values).double()
    torch.testing.assert_close(heat, plain, rtol=0, atol=1e-7)
    assert all(column.blocks == ("down", "up") for _, column in segmenter.plan.columns)
    assert set(heatmap_methods(composed("heatmap=[ovam]"))) == {"ovam"}


def test_further_texts_are_read_as_many_at_once_as_a_pass_has_rows(segmenter, monkeypatch):
    """So that no map depends on what shares its pass; three texts of one row beside rows that read none are filled up."""
    attention, batches = torch.nn.functional.scaled_dot_product_attention, []

    def noted(query, *given, **named):
        batches.append(len(query))
        return attention(query, *given, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    found = completed_maps(segmenter, ["the star", TEXT], [BASELINE, *READ[:3]], batch_size=4)
    assert all(len(maps) == 4 for maps in found)
    assert set(batches) == {1, 4, 8}  # an image before any text; passes and further texts; completing four texts of two
