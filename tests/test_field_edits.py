"""Edits of other people: each against a few lines of arithmetic in float64, and the identities that it must hold."""

import math

import pytest
import torch

from attrbind_exp import config
from attrbind_exp.cache import Cache
from attrbind_exp.edits import (
    AllChunks,
    Averaging,
    CompelDown,
    Contextless,
    EncoderLayer,
    EndToken,
    Magnet,
    Merge,
    NounChunk,
    Padding,
    Scale,
    Variant,
    Weight,
)
from attrbind_exp.language.parse_cache import parse_cached
from attrbind_exp.language.window import TextRequest
from attrbind_exp.types import TextSettings, UserError
from tests.conftest import make_segmenter, states_of
from tests.test_command import composed

TEXT = "the white star next to a blue square"
# a photograph of the white star next to a blue square <end>
THE, WHITE, STAR, NEXT, TO, A, BLUE, SQUARE, END = range(4, 13)
PROMPT = f"a photograph of {TEXT}"
NEIGHBOURS = ("circle", "heart", "moon", "cross", "ring", "triangle")
ALL = [
    Scale(1.6), CompelDown(0.5), CompelDown(0.8, ["blue", "white"]), AllChunks(), AllChunks("template"),
    AllChunks(average=True), Contextless(), Merge(), Magnet(NEIGHBOURS), Padding(), Padding("chunk"), EndToken(),
    EndToken("chunk"), EncoderLayer(-2),
]  # fmt: skip


def embedding(model, edits, text=TEXT, **settings):
    """The prompt of a text and its embedding under a chain of edits."""
    segmenter = make_segmenter(model, text=TextSettings(**settings))
    edited = segmenter.edit(segmenter.prepare([text]), [Variant("mine", tuple(edits))])[0]
    return edited.prompt, edited.embedding(0)


def keys(model, *edits, text=TEXT):
    return embedding(model, edits, text)[1].keys


@pytest.fixture(scope="module")
def encode(exact_model):
    """Texts -> their rows (L, D) in float64."""
    return lambda *texts: states_of(exact_model, texts)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def with_rows(E, rows):
    expected = E.clone()
    for at, values in rows.items():
        expected[at] = values
    return expected


def test_scale_multiplies_the_targets_row(exact_model, encode):
    (E,) = encode(PROMPT)
    close(keys(exact_model, Scale(1.6)), with_rows(E, {STAR: 1.6 * E[STAR]}))


def test_compel_blends_in_the_prompt_without_the_word(exact_model, encode):
    E, U = encode(PROMPT, "")
    (without,) = encode(TextRequest(PROMPT, hidden=((PROMPT.index("star"), PROMPT.index("star") + 4),)))

    def weighted(X, w):
        return with_rows(X, {STAR: U[STAR] + w * (X[STAR] - U[STAR])})

    close(keys(exact_model, CompelDown(0.5)), (weighted(E, 0.5) + weighted(without, 0.5)) / 2)
    t = math.tan(0.2 * math.pi / 2)
    close(keys(exact_model, CompelDown(0.8)), (weighted(E, 0.8) + t * weighted(without, 0.8)) / (1 + t))
    torch.testing.assert_close(keys(exact_model, CompelDown(0.0)), weighted(without, 0.0), rtol=0, atol=1e-3)
    E, two = encode(PROMPT)[0], (CompelDown(0.5, ["white", "blue"]), CompelDown(0.5, ["white"]))
    assert not torch.equal(keys(exact_model, two[0]), keys(exact_model, two[1]))
    close(keys(exact_model, two[0])[:WHITE], E[:WHITE])  # what stands before has not seen the words


def test_a_hidden_word_leaves_nothing_of_itself(encode):
    """Its rows apart, the embedding is the same whatever word is hidden; what stands before is the prompt's own."""
    words = ("white", "black")
    rows = [encode(TextRequest(f"a {w} star", hidden=((2, 7),)))[0] for w in words]
    plain = [encode(f"a {w} star")[0] for w in words]
    seen = [i for i in range(len(rows[0])) if i != 2]
    close(rows[0][seen], rows[1][seen])
    assert (plain[0][seen] - plain[1][seen]).abs().max() > 0.01
    close(rows[0][:2], plain[0][:2])


def test_every_chunk_is_laid_back(exact_model, encode):
    E, star, square = encode(PROMPT, "the white star", "a blue square")
    laid = {THE: star[1], WHITE: star[2], STAR: star[3], A: square[1], BLUE: square[2], SQUARE: square[3]}
    close(keys(exact_model, AllChunks()), with_rows(E, laid))
    third = {at: E[at] * 2 / 3 + row / 3 for at, row in laid.items()}  # two chunks
    close(keys(exact_model, AllChunks(average=True)), with_rows(E, third))
    (behind,) = encode("a photograph of a blue square")
    close(keys(exact_model, AllChunks("template")), with_rows(E, {A: behind[4], BLUE: behind[5], SQUARE: behind[6]}))


def test_the_average_is_what_the_mean_over_several_values_gives(exact_model, encode):
    """Structured Diffusion Guidance: one value a chunk and the prompt's own, meaned behind attention."""
    E, star, square = encode(PROMPT, "the white star", "a blue square")
    one = with_rows(E, {THE: star[1], WHITE: star[2], STAR: star[3]})
    two = with_rows(E, {A: square[1], BLUE: square[2], SQUARE: square[3]})
    attention = torch.rand(5, len(E), dtype=E.dtype)
    _, found = embedding(exact_model, [AllChunks(average=True, where="values")])
    close(attention @ found.values, (attention @ E + attention @ one + attention @ two) / 3)
    assert torch.equal(found.keys, E)


def test_a_word_without_context_does_not_know_the_others(exact_model, encode):
    (E,) = encode(PROMPT)
    found = keys(exact_model, Contextless())
    other = keys(exact_model, Contextless(), text="the black star below to a blue heart")
    same = [0, 1, 2, 3, THE, STAR, TO, A, BLUE]
    close(found[same], other[same])
    assert (found[[WHITE, NEXT, SQUARE]] - other[[WHITE, NEXT, SQUARE]]).abs().amax(-1).min() > 0.01
    assert (E[STAR] - found[STAR]).abs().max() > 0.01
    assert torch.equal(found[:2], E[:2]) and torch.equal(found[END:], E[END:])  # the first word has no context


def test_attributes_are_merged_into_their_nouns(exact_model, encode):
    E, merged = encode(PROMPT, "a photograph of the star next to a square")
    expected = with_rows(E, {
        STAR: 1.1 * E[STAR] + 1.2 * E[WHITE], SQUARE: 1.1 * E[SQUARE] + 1.2 * E[BLUE], WHITE: 0, BLUE: 0, END: merged[END - 2],
    })  # fmt: skip
    expected[END + 1 :] = merged[END + 1 :]
    close(keys(exact_model, Merge()), expected)


def test_nouns_are_pulled_to_their_attributes_and_pushed_from_others(exact_model, encode):
    def last(*texts):
        return torch.stack([encode(t)[0][1 + len(t.split()) - 1] for t in texts])

    (E,) = encode(PROMPT)
    rows = {}
    for at, noun, own, other in ((STAR, "star", "white", "blue"), (SQUARE, "square", "blue", "white")):
        candidates = [noun, *NEIGHBOURS]
        angle = torch.cosine_similarity(last(*candidates), last(noun))
        near = [candidates[i] for i in angle.argsort(descending=True)[:5]]
        assert near[0] == noun
        pull, push = ((last(*(f"{word} {k}" for k in near)) - last(*near)).mean(0) for word in (own, other))
        (concept,) = encode(f"{own} {noun}")
        w = torch.cosine_similarity(concept[3], concept[-1], dim=0)
        rows[at] = E[at] + torch.exp(0.6 - w) * pull - (1 - w**2) * push
    close(keys(exact_model, Magnet(NEIGHBOURS)), with_rows(E, rows))


def test_padding_and_end_token_come_from_another_text(exact_model, encode):
    E, U, chunk = encode(PROMPT, "", "the white star")
    for source, text, end in (("empty", U, 1), ("chunk", chunk, 4)):
        padded = keys(exact_model, Padding(source))
        assert torch.equal(padded[: END + 1], E[: END + 1]) and torch.equal(padded[END + 1 :], text[END + 1 :])
        close(keys(exact_model, EndToken(source)), with_rows(E, {END: text[end]}))


def test_a_layer_is_the_final_norm_of_its_hidden_state(exact_model, encode):
    encoder = exact_model.text_encoder
    ids = torch.tensor([exact_model.window([PROMPT])[0].ids])
    (norm,) = (m for name, m in encoder.named_modules() if name.endswith("final_layer_norm"))
    close(keys(exact_model, EncoderLayer(0)), norm(encoder.get_submodule("embeddings")(ids))[0])
    (E,) = encode(PROMPT)
    close(keys(exact_model, EncoderLayer(3)), E)  # it has three layers
    assert not torch.equal(keys(exact_model, EncoderLayer(-2)), E)
    with pytest.raises(UserError, match="layer=4 of the text encoder; this one has 0 to 3, or -4 to -1"):
        keys(exact_model, EncoderLayer(4))


@pytest.mark.parametrize(
    ("edit", "text", "template"),
    [
        (Scale(1.0), TEXT, "a photograph of"),
        (Weight(1.0), TEXT, "a photograph of"),
        (CompelDown(1.0), TEXT, "a photograph of"),
        (AllChunks(), "the white star", ""),
        (AllChunks("template"), "the white star", "a photograph of"),
        (Contextless(), "star", ""),
        (Merge(), "the star next to a square", "a photograph of"),
        (Magnet(), "the star next to a square", "a photograph of"),
        (Padding("chunk"), "the white star", ""),
        (EndToken("chunk"), "the white star", ""),
        (EncoderLayer(-1), TEXT, "a photograph of"),
    ],
)
def test_what_changes_nothing_is_the_baseline_and_shares_its_pass(model, edit, text, template):
    segmenter = make_segmenter(model, text=TextSettings(template=template, gate=False))
    edited = segmenter.edit(segmenter.prepare([text]), [Variant("baseline"), Variant("mine", (edit,))])[0]
    assert list(edited.index) == [0, 0] and edited.embedding(0).values is None
    assert torch.equal(edited.embedding(1).keys, states_of(model, [edited.prompt.text])[0])


def test_with_one_thing_all_chunks_are_the_targets(model):
    text = "the white star on the left"
    for prefix in ("none", "template"):
        assert torch.equal(keys(model, AllChunks(prefix), text=text), keys(model, NounChunk(prefix), text=text))


@pytest.mark.parametrize("edit", ALL, ids=repr)
def test_every_edit_goes_into_one_side_or_into_what_is_read(model, edit):
    def sided(where):
        return embedding(model, [type(edit)(**{**vars(edit), "where": where})])[1]

    (E,), both = states_of(model, [PROMPT]), embedding(model, [edit])[1].keys
    assert not torch.equal(both, E)
    assert torch.equal(sided("keys").keys, both) and torch.equal(sided("keys").values, E)
    assert torch.equal(sided("values").keys, E) and torch.equal(sided("values").values, both)
    read = sided("read")
    assert torch.equal(read.keys, E) and read.values is None and torch.equal(read.read, both)


def test_edits_of_other_people_chain(exact_model, encode):
    E, U = encode(PROMPT, "")
    both = keys(exact_model, Scale(1.6), Weight(0.5))
    close(both, with_rows(E, {STAR: 0.5 * 1.6 * E[STAR] + 0.5 * U[STAR]}))
    bare = keys(exact_model, Contextless(), EndToken(), Padding())
    assert torch.equal(bare[END], U[1]) and torch.equal(bare[END + 1 :], U[END + 1 :])


def test_every_piece_of_a_noun_carries_the_sum(exact_model, encode):
    text = "a red skateboarder"
    (E,), found = encode(f"a photograph of {text}"), keys(exact_model, Merge(), text=text)
    pieces = exact_model.window([f"a photograph of {text}"])[0].at(22, 34)
    assert len(pieces) > 2
    expected = 1.1 * E[list(pieces)].sum(0) + 1.2 * E[5]
    close(found[list(pieces)], expected.expand(len(pieces), -1))


@pytest.mark.parametrize(
    "text", ["tiny purple skateboarder beside a big red dog", " ".join(["the red star"] * 12), "?", ""]
)
def test_no_words_break_an_edit(model, text):
    """Words of many pieces, more words than the window holds, signs, nothing at all."""
    for edit in ALL:
        assert embedding(model, [edit], text, gate=False)[1].keys.isfinite().all(), edit


def test_what_an_edit_does_not_know_is_said():
    with pytest.raises(UserError, match=r"weight=1\.2 of CompelDown; give one from 0 to 1"):
        CompelDown(1.2)
    for make, said in (
        (lambda: Padding("mean"), "source='mean' of the edit Padding; choose from empty, chunk"),
        (lambda: Padding(where="all"), "where='all' of the edit Padding; choose from both, keys, values, read"),
        (lambda: NounChunk("templet"), "prefix='templet' of the edit NounChunk; choose from none, template"),
        (lambda: Averaging(0.9, "end"), "uncond='end' of the edit Averaging; choose from same, eos, mean"),
        (lambda: Weight(2, "targets"), "words='targets' of the edit Weight; choose from target, chunk, modifiers, or"),
        (lambda: CompelDown(0.5, "star"), "words='star' of the edit CompelDown"),
    ):
        with pytest.raises(UserError) as error:
            make()
        assert str(error.value).startswith(said)


def test_the_things_of_an_expression_come_back_from_the_cache(tmp_path):
    texts = ["the big brown dog and a man in red shirt", "zebra walking", "red stop sign on the left", ""]
    given = (Cache(tmp_path), texts, None, "noun_chunk", None, {})
    first, kept = parse_cached(*given), parse_cached(*given)
    assert kept == first
    told = [
        [
            (p.text[slice(*f.chunk)], p.text[slice(*f.noun)], [p.text[slice(*a)] for a in f.attributes])
            for f in p.phrases
        ]
        for p in kept
    ]
    assert told == [
        [("the big brown dog", "dog", ["big", "brown"]), ("a man", "man", []), ("red shirt", "shirt", ["red"])],
        [("zebra", "zebra", [])],
        [("red stop sign", "sign", ["red"])],
        [],
    ]


def test_the_option_of_the_field_has_them_all_under_readable_labels():
    found = config.variants(composed("text_processor=edits_of_the_field", "text_blind=false"))[0]
    assert [v.label for v in found] == [
        "baseline", "attribute_binding alpha=0.9", "scale factor=1.6", "weight weight=1.21 words=modifiers",
        "compel_down weight=0.5", "all_chunks", "all_chunks average=True where=values", "contextless",
        "contextless + end_token + padding", "merge", "magnet", "padding", "padding source=chunk", "end_token",
        "end_token source=chunk", "encoder_layer layer=-2",
    ]  # fmt: skip
    names = ("scale", "weight", "compel_down", "structured_diffusion", "contextless", "tome", "magnet", "pad", "eot")
    for name in names:  # what an option compares alone is what the common one compares
        alone = config.variants(composed(f"text_processor={name}", "text_blind=false"))[0]
        assert alone[0].label == "baseline" and {v.label for v in alone} <= {v.label for v in found}, name


@pytest.mark.parametrize("neighbours", [0, -1, 2.5])
def test_magnet_without_neighbours_is_refused(neighbours):
    with pytest.raises(UserError, match=rf"neighbours={neighbours} of the edit Magnet; give a whole number >= 1"):
        Magnet(neighbours=neighbours)
