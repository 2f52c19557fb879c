"""Parsing, token positions, and the identities of protocol section 2."""

import pytest
import torch
from transformers import CLIPTokenizer

from attrbind_exp.text.binding import (
    average_with_unconditioned,
    pooling_weights,
    replace_noun_chunk,
    unconditioned_rows,
)
from attrbind_exp.text.parse import parse_expressions
from attrbind_exp.text.processor import TextProcessor
from attrbind_exp.types import TextSettings, Variant
from tests.conftest import shared

BASELINE, NCR = Variant("baseline"), Variant("noun_chunk", replace=True)


def parse(text, category=None, chunk="noun_chunk"):
    return parse_expressions([text], [category], chunk)[0]


@pytest.mark.parametrize(
    ("text", "target", "chunk", "modified"),
    [
        ("white dog playing with two black dogs", "dog", "white dog", True),
        ("a black and white horse", "horse", "a black and white horse", True),
        ("guy in red far left", "guy", "guy", False),
        ("children in red", "children", "children", True),
        ("the star", "star", "the star", False),
        ("the white star on the left", "star", "the white star", True),
        ("a red circle next to a blue square", "circle", "a red circle", True),
    ],
)
def test_main_noun_chunk(text, target, chunk, modified):
    p = parse(text)
    assert (p.target_text, p.chunk_text, p.modified, p.fallback) == (target, chunk, modified, None)


def test_subtree_takes_the_modifiers_along():
    assert parse("children in red", chunk="subtree").chunk_text == "children in red"


@pytest.mark.parametrize(
    ("text", "category", "target", "fallback"),
    [
        ("furthest away", None, "away", "last_content_word"),
        ("???", None, "???", "no_target"),
        ("left", None, "left", "last_content_word"),
    ],
)
def test_fallbacks_are_named(text, category, target, fallback):
    p = parse(text, category)
    assert (p.target_text, p.fallback) == (target, fallback)
    assert p.binding == (fallback != "no_target")


@pytest.fixture
def processor(model):
    return TextProcessor(model.tokenizer, model.encode_text)


def settings(model, **kwargs):
    return TextProcessor(model.tokenizer, model.encode_text, TextSettings(**kwargs))


def bind(processor, text, *variants):
    return [b.embedding for b in processor.bind(processor.prepare([text]), variants)[0]]


def pieces(processor, text, positions):
    ids = processor.tokenizer(text).input_ids
    return processor.tokenizer.decode([ids[i] for i in positions]).strip()


def test_positions_point_at_the_words(processor):
    prompt = processor.prepare(["the skateboarder near a white  star"])[0]
    assert pieces(processor, prompt.text, prompt.q).replace(" ", "") == prompt.parse.target_text
    assert set(prompt.q) <= set(prompt.pos)


def test_only_the_rows_of_the_chunk_change(processor):
    prompt = processor.prepare(["a red circle next to a blue square"])[0]
    E, bound = bind(processor, prompt.parse.text, BASELINE, NCR)
    changed = (bound != E).any(-1).nonzero().flatten().tolist()
    assert changed == list(prompt.pos)


def test_chunk_rows_are_the_chunk_encoded_alone(processor, model):
    prompt = processor.prepare(["the white star on the left"])[0]
    R = model.encode_text(["the white star"])[0]
    bound = bind(processor, prompt.parse.text, NCR)[0]
    torch.testing.assert_close(bound[list(prompt.pos)], R[1 : 1 + len(prompt.pos)], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("text", ["the white star on the left", "tiny green skateboarder next to a dog"])
def test_identities(processor, model, text):
    q = list(processor.prepare([text])[0].q)
    E, ncr, both1, uea1, both0, uea0 = bind(
        processor, text, BASELINE, NCR, Variant("b", True, 1.0), Variant("u", False, 1.0), Variant("b", True, 0.0),
        Variant("u", False, 0.0),
    )  # fmt: skip
    U = model.encode_text([""])[0]
    assert torch.equal(both1, ncr)
    assert torch.equal(uea1, E)
    for alpha0 in (both0, uea0):
        torch.testing.assert_close(alpha0[q], U[q], rtol=1e-5, atol=1e-6)
    rest = [i for i in range(len(E)) if i not in q]
    assert torch.equal(uea0[rest], E[rest])


def test_a_chunk_that_is_the_whole_expression_is_only_encoded_without_the_prefix(processor, model):
    prompt = processor.prepare(["white star"])[0]
    bound = bind(processor, "white star", NCR)[0]
    E = model.encode_text([prompt.text])[0]
    R = model.encode_text(["white star"])[0]
    E[list(prompt.pos)] = R[1 : 1 + len(prompt.pos)]
    torch.testing.assert_close(bound, E, rtol=1e-5, atol=1e-6)


def test_template_before_the_chunk_changes_nothing_for_the_first_noun(model):
    E, ncr = bind(settings(model, chunk_prefix="template"), "the white star on the left", BASELINE, NCR)
    torch.testing.assert_close(E, ncr, rtol=1e-4, atol=1e-5)


def test_template_isolates_a_chunk_that_is_not_first(processor, model):
    kept = settings(model, chunk_prefix="template")
    prompt = kept.prepare(["next to a blue square the red circle"])[0]
    if prompt.pos[0] == 4:
        pytest.fail("the target of this sentence should not be its first noun")
    E, ncr = bind(kept, prompt.parse.text, BASELINE, NCR)
    R = model.encode_text(["a photograph of " + prompt.parse.chunk_text])[0]
    torch.testing.assert_close(ncr[list(prompt.pos)], R[4 : 4 + len(prompt.pos)], rtol=1e-5, atol=1e-6)
    assert (E[list(prompt.pos)] - ncr[list(prompt.pos)]).abs().max() > 1e-3


def test_the_gate_leaves_plain_targets_alone(processor, model):
    E, ncr = bind(processor, "the star", BASELINE, NCR)
    assert torch.equal(E, ncr)
    E, ncr = bind(settings(model, gate=False), "the star", BASELINE, NCR)
    assert not torch.equal(E, ncr)


def test_words_beyond_the_window_are_named(processor):
    late = processor.prepare([" ".join(["very"] * 200) + " white star"])[0]
    assert "prompt_truncated" in late.fallbacks and "target_truncated" in late.fallbacks
    assert late.q and max(late.q) < processor.tokenizer.model_max_length and not late.bind
    early = processor.prepare(["the white star " + "next to a red circle " * 40])[0]
    assert "prompt_truncated" in early.fallbacks


@pytest.mark.parametrize(
    "text", ["белая звезда", "白い星", "une étoile blanche", "🐕 star", "the man's hat", "a\tstar"]
)
def test_other_letters_find_tokens(processor, text):
    prompt = processor.prepare([text])[0]
    assert prompt.q and set(prompt.q) <= set(prompt.pos)
    assert len(bind(processor, text, NCR)[0]) == processor.tokenizer.model_max_length


def test_binding_by_hand():
    E = torch.arange(12.0).reshape(4, 3)
    R = torch.tensor([[100.0, 101, 102]])
    assert replace_noun_chunk(E, R, [2])[2].tolist() == [100, 101, 102]
    U = torch.ones(4, 3) * 10
    assert average_with_unconditioned(E, U, [1], 0.5)[1].tolist() == [6.5, 7.0, 7.5]
    assert E[2].tolist() == [6, 7, 8]  # inputs stay
    with pytest.raises(ValueError, match="1 rows for 2"):
        replace_noun_chunk(E, R, [1, 2])


def test_diffsegmenter_weighting_is_alpha_above_one():
    E, U = torch.randn(4, 3), torch.randn(4, 3)
    torch.testing.assert_close(average_with_unconditioned(E, U, [2], 1.21)[2], (U + 1.21 * (E - U))[2])


def test_unconditioned_rows_and_pooling():
    U = torch.arange(6.0).reshape(3, 2)
    assert unconditioned_rows(U, "same") is U
    assert unconditioned_rows(U, "eos").tolist() == [[2, 3]] * 3
    assert unconditioned_rows(U, "mean").tolist() == [[3, 4]] * 3
    assert pooling_weights([1, 2], 4, "mean").tolist() == [0, 0.5, 0.5, 0]
    assert pooling_weights([1, 2], 4, "last").tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize(
    "text",
    ["white dog playing with two black dogs", "Tiny GREEN skateboarder!", "the man's blue-and-white hat", "étoile"],
)
def test_positions_with_the_tokenizer_of_stable_diffusion(text):
    processor = TextProcessor(CLIPTokenizer.from_pretrained(shared("sd15_config") / "tokenizer"), encode=None)
    prompt = processor.prepare([text])[0]
    ids = processor.tokenizer(prompt.text).input_ids
    for positions, words in ((prompt.q, prompt.parse.target_text), (prompt.pos, prompt.parse.chunk_text)):
        decoded = processor.tokenizer.decode([ids[i] for i in positions])
        assert decoded.replace(" ", "") == words.lower().replace(" ", "")
    assert not set(prompt.fallbacks) & {"chunk_mismatch", "target_truncated"}


def test_a_variant_may_keep_the_prefix_on_its_own(processor, model):
    text = "next to a blue square the red circle"
    own = bind(processor, text, Variant("prefixed", True, chunk_prefix="template"), NCR)
    assert torch.equal(own[0], bind(settings(model, chunk_prefix="template"), text, NCR)[0])
    assert not torch.equal(own[0], own[1])
