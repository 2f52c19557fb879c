"""Door 1: edits as a chain, and the identities that they must hold."""

from dataclasses import dataclass

import pytest
import torch

from attrbind_exp import config
from attrbind_exp.backbones.backbone import Embedding, EncodedText, Request
from attrbind_exp.edits import Averaging, Edit, NounChunk, Variant, Weight
from attrbind_exp.edits.chain import apply_chain, changing, edit_prompts
from attrbind_exp.types import UserError
from tests.conftest import make_segmenter, picture, states_of
from tests.test_command import composed

TEXT = "the white star next to a blue square"
BASELINE = Variant("baseline")


def edited(segmenter, text, *edits):
    """The prompt of a text and its embedding under a chain of edits."""
    found = segmenter.edit(segmenter.prepare([text]), [Variant("mine", edits)])[0]
    return found.prompt, found.embedding(0)


def test_averaging_is_weighting_of_the_target(segmenter):
    prompt, averaged = edited(segmenter, TEXT, Averaging(0.7))
    assert torch.equal(averaged.keys, edited(segmenter, TEXT, Weight(0.7))[1].keys)
    E, U = states_of(segmenter.backbone, [prompt.text, ""])
    q = list(prompt.q)
    torch.testing.assert_close(averaged.keys[q], (U + 0.7 * (E - U))[q])


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ("target", "star"),
        ("chunk", "the white star"),
        ("modifiers", "the white"),
        (["blue", "Square"], "blue square"),
        (["purple"], ""),
    ],
)
def test_weight_changes_the_chosen_words_alone(segmenter, words, chosen):
    prompt, found = edited(segmenter, TEXT, Weight(1.4, words))
    E = states_of(segmenter.backbone, [prompt.text])[0]
    tokens = segmenter.backbone.window([prompt.text])[0]
    start = prompt.text.find(chosen)
    expected = tokens.at(start, start + len(chosen)) if chosen else ()
    assert (found.keys != E).any(-1).nonzero().flatten().tolist() == list(expected)


def test_words_of_several_pieces_are_weighted_whole_and_wherever_they_stand(segmenter):
    text = "tiny skateboarder beside another skateboarder"
    prompt, found = edited(segmenter, text, Weight(0.5, ["skateboarder"]))
    E = states_of(segmenter.backbone, [prompt.text])[0]
    changed = (found.keys != E).any(-1).nonzero().flatten().tolist()
    tokens = segmenter.backbone.window([prompt.text])[0]
    first, last = prompt.text.find("skateboarder"), prompt.text.rfind("skateboarder")
    assert changed == [*tokens.at(first, first + 12), *tokens.at(last, last + 12)] and len(changed) > 2


@pytest.mark.parametrize("edit", [Averaging(1.0), Weight(1.0), Weight(1.0, "chunk")])
def test_weight_one_is_the_baseline_bit_for_bit(segmenter, edit):
    prompt, found = edited(segmenter, TEXT, edit)
    assert torch.equal(found.keys, states_of(segmenter.backbone, [prompt.text])[0])


def test_variants_that_come_to_the_same_share_an_embedding(segmenter):
    chains = [(), (NounChunk(),), (NounChunk(), Averaging(1.0)), (NounChunk(), Averaging(0.5)), (Averaging(1.0),)]
    variants = [Variant(str(i), chain) for i, chain in enumerate(chains)]
    bound, plain = segmenter.edit(segmenter.prepare([TEXT, "the star"]), variants)
    assert list(bound.index) == [0, 1, 1, 2, 0] and len(bound.embeddings) == 3
    assert list(plain.index) == [0] * 5 and len(plain.embeddings) == 1  # nothing to bind


def test_every_text_is_encoded_once(segmenter):
    asked = []

    def encode(texts):
        asked.extend(texts)
        return segmenter.backbone.encode_text(texts)

    variants = [Variant("a", (NounChunk(),)), Variant("b", (NounChunk(), Averaging(0.5))), BASELINE]
    edit_prompts(segmenter.prepare([TEXT, TEXT]), variants, encode)
    assert sorted(asked) == ["", f"a photograph of {TEXT}", "the white star"]


@dataclass(frozen=True)
class Add(Edit):
    """E + amount."""

    amount: float

    def apply(self, E, encoded, prompt):
        return E + self.amount


@dataclass(frozen=True)
class Scale(Edit):
    """E * factor."""

    factor: float

    def apply(self, E, encoded, prompt):
        return E * self.factor


def chain_of(segmenter, *edits):
    prompt = segmenter.prepare([TEXT])[0]
    encoded = {prompt.text: EncodedText(segmenter.backbone.window([prompt.text])[0], torch.ones(2, 3))}
    return apply_chain(edits, prompt, encoded)


def test_edits_apply_one_after_the_other(segmenter):
    assert chain_of(segmenter, Add(2.0), Scale(3.0)).keys[0, 0] == 9
    assert chain_of(segmenter, Scale(3.0), Add(2.0)).keys[0, 0] == 5


def test_keys_and_values_go_apart_where_an_edit_says_so(segmenter):
    both = chain_of(segmenter, Add(1.0))
    assert both.values is None
    split = chain_of(segmenter, Add(1.0), Scale(3.0, where="values"), Add(1.0), Scale(10.0, where="keys"))
    assert split.keys[0, 0] == 30 and split.values[0, 0] == 7


def test_editing_values_alone_leaves_the_first_layers_map_and_moves_what_comes_after(model):
    """Structured Diffusion Guidance's default: the layer's own map is untouched, since maps are made of keys."""
    segmenter, image = make_segmenter(model), picture(64, 64)
    latents = model.encode_pixels(model.pixels(image))[None]
    prompt = segmenter.prepare([TEXT])[0]
    columns = segmenter.plan.of_method("diffsegmenter")
    request = segmenter.methods["diffsegmenter"].request(columns, model.layers)
    pools = segmenter.methods["diffsegmenter"].pools(prompt.read, 24)[None]
    noisy = model.add_noise(latents, ["0"], 100, 0, 0)
    seen = {}
    for name, edits in {
        "plain": (), "values": (NounChunk(where="values"),), "keys": (NounChunk(where="keys"),), "both": (NounChunk(),)
    }.items():  # fmt: skip
        embedding = Embedding.stack([edited(segmenter, TEXT, *edits)[1]])
        seen[name] = list(model.observe(noisy, 100, embedding, request, pools).cross.values())
    first, later = 0, 1
    assert torch.equal(seen["values"][first], seen["plain"][first])
    assert not torch.equal(seen["keys"][first], seen["plain"][first])
    assert not torch.equal(seen["values"][later], seen["plain"][later])
    assert torch.equal(seen["keys"][first], seen["both"][first])
    assert not torch.equal(seen["keys"][later], seen["both"][later])


def test_values_reach_layers_that_are_not_read(model):
    """Where cross-attention is split, layers before the first one that is read must see the values too."""
    segmenter, text = make_segmenter(model), "the white star"
    noisy = model.add_noise(torch.randn(1, 4, 16, 16), ["0"], 100, 0, 0)
    plain, (_, split) = (
        states_of(model, [f"a photograph of {text}"]),
        edited(segmenter, text, NounChunk(where="values")),
    )
    one = model.observe(noisy, 100, Embedding.stack([split]), Request(noise=True)).noise
    assert not torch.equal(one, model.denoise(noisy, 100, Embedding(plain)))


def test_what_changes_nothing_is_left_out(segmenter):
    prompt, plain = segmenter.prepare([TEXT, "the star"])
    chain = (NounChunk(), Averaging(1.0), Weight(1.2))
    assert changing(prompt, chain) == (NounChunk(), Weight(1.2))
    assert changing(plain, chain) == ()


AVERAGING = "attrbind_exp.edits.Averaging"


@dataclass(frozen=True)
class FadeOut(Edit):
    """An edit of one's own."""

    alpha: float = 1.0
    words: tuple[str, ...] = ()

    def apply(self, E, encoded, prompt):
        return E


@pytest.mark.parametrize(
    ("edits", "label"),
    [
        ((), "baseline"),
        ((NounChunk(),), "noun_chunk"),
        ((NounChunk(prefix="template"),), "noun_chunk_prefixed"),
        ((Averaging(0.9),), "uncond_average alpha=0.9"),
        ((Averaging(0.1 + 0.2),), "uncond_average alpha=0.3"),
        ((Averaging(1.0, uncond="eos"),), "uncond_average alpha=1 uncond=eos"),
        ((NounChunk(), Averaging(0.9)), "attribute_binding alpha=0.9"),
        ((NounChunk(prefix="template"), Averaging(0.9, uncond="mean")), "attribute_binding_prefixed alpha=0.9 uncond=mean"),
        ((NounChunk(where="keys"), Averaging(0.9)), "noun_chunk where=keys + uncond_average alpha=0.9"),
        ((Averaging(0.9), NounChunk()), "uncond_average alpha=0.9 + noun_chunk"),  # another order is another method
        ((Weight(1.2, "chunk"),), "weight weight=1.2 words=chunk"),
        ((FadeOut(), NounChunk()), "fade_out + noun_chunk"),
        ((FadeOut(0.5, ("red", "blue")),), "fade_out alpha=0.5 words=red,blue"),
    ],
)  # fmt: skip
def test_a_label_is_made_of_the_edits_alone(edits, label):
    assert Variant("any name", edits).label == Variant("another", edits, 0.9).label == label
    assert Variant("any name", edits, layers="up", heatmap="daam").label == f"{label} heatmap=daam layers=up"


def test_the_same_edits_have_the_same_label_whatever_option_makes_them():
    def labels(*overrides):
        return [v.label for v in config.variants(composed("text_blind=false", *overrides))[0]]

    ablation = labels("text_processor=ablation")
    assert ablation == [
        "baseline", "noun_chunk", "attribute_binding alpha=0.9", "noun_chunk_prefixed", "attribute_binding_prefixed alpha=0.9",
    ]  # fmt: skip
    assert labels("text_processor=paper", "text_processor.chunk_prefix=template") == [ablation[0], ablation[4]]
    assert labels("text_processor=noun_chunk") == ablation[1:2]
    assert labels("text_processor=uncond_average", "text_processor.uncond=eos") == [
        "uncond_average alpha=0.9 uncond=eos"
    ]
    with pytest.raises(
        UserError, match=r"'noun_chunk_prefixed' stands twice \(methods: 'noun_chunk', 'noun_chunk_prefix"
    ):
        labels("text_processor=ablation", "text_processor.chunk_prefix=template")
    cfg = composed("text_processor=paper")
    cfg.text_processor.methods[0].edits, cfg.text_processor.methods[1].name = (
        [{"_target_": AVERAGING, "alpha": 0.9}],
        "baseline",
    )
    with pytest.raises(UserError, match="two different methods are called 'baseline'"):
        config.variants(cfg)
    floor = composed("text_processor=paper")
    floor.text_processor.methods[1] = {"name": "text_blind", "edits": [{"_target_": "attrbind_exp.edits.NounChunk"}]}
    with pytest.raises(UserError, match="two different methods are called 'text_blind'"):
        config.variants(floor)  # rows of the floor would be taken for those of the method


@dataclass(frozen=True)
class Wrong(Edit):
    """An edit as people get it wrong."""

    how: str = ""

    def apply(self, E, encoded, prompt):
        if self.how == "in place":
            E[list(prompt.q)] *= 0.5
        return {"in place": E, "none": None, "rows": E[list(prompt.q)], "as it is": E}[self.how]


@pytest.mark.parametrize("where", ["both", "keys", "values", "read"])
def test_what_an_edit_of_ones_own_gives_is_looked_at(segmenter, where):
    """One that wrote into E changed the baseline with it, and nobody was told."""
    for how, said in (
        ("in place", "Wrong.apply changed E itself, .*; change E.clone()"),
        ("none", r"Wrong.apply gave a NoneType, not an embedding \(L, D\) = \(24, "),
        ("rows", r"Wrong.apply gave shape \(1, .*\), not an embedding"),
    ):
        with pytest.raises(UserError, match=said):
            edited(segmenter, "the white star", Wrong(how=how, where=where))
    edited(segmenter, "the white star", Wrong(how="as it is", where=where))
