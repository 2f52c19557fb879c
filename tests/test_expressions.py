"""Expressions as people write them: the right noun, the gate, capitals, and the characters that a parse points at."""

import csv
import random
from itertools import pairwise
from pathlib import Path

import pytest

from attrbind_exp.config import PACKAGE
from attrbind_exp.data.refer import load_refer
from attrbind_exp.language.parse import parse_expressions
from attrbind_exp.language.parse_cache import parser_identity
from attrbind_exp.language.sentence import lower_case, opener_end, read_words
from attrbind_exp.types import Override
from tests.conftest import SHARED

OWN = Path(__file__).parent / "cases"
FILES = {
    "own": OWN / "expressions.tsv",
    "kept_apart": OWN / "expressions_kept_apart.tsv",
    "shared": SHARED.parent / "cases" / "expressions.tsv",
}
LEAST = {"own": 0.99, "kept_apart": 0.99, "shared": 1.0}  # of expressions read right


def cases(name):
    """The rows of a file of expressions, or a skip where it is not on this machine."""
    if not FILES[name].is_file():
        pytest.skip(f"{FILES[name]} is not on this machine")
    with open(FILES[name], newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def parse_rows(rows, change=str):
    return parse_expressions([change(r["expression"]) for r in rows], [r["category"] or None for r in rows])


def is_right(row, parse):
    names = [name.strip().lower() for name in row["target"].split(",")]
    names += [name.split()[-1] for name in names]
    return parse.target_text.lower() in names and parse.modified == (row["bind"] == "1")


@pytest.mark.parametrize("name", FILES)
def test_targets_and_gates_are_right(name):
    rows = cases(name)
    wrong = [(r["expression"], p.target_text, p.modified) for r, p in zip(rows, parse_rows(rows)) if not is_right(r, p)]
    assert len(wrong) <= (1 - LEAST[name]) * len(rows), wrong


@pytest.mark.parametrize("name", FILES)
def test_the_reading_does_not_depend_on_capitals(name):
    rows = cases(name)
    plain = [vars(p) | {"text": ""} for p in parse_rows(rows)]
    for change in (str.lower, str.upper, str.title, str.swapcase):
        assert [vars(p) | {"text": ""} for p in parse_rows(rows, change)] == plain


@pytest.mark.parametrize("name", FILES)
def test_target_and_chunk_are_whole_words_of_what_people_wrote(name):
    rows = cases(name)
    for row, parse in zip(rows, parse_rows(rows), strict=True):
        text, chunk, target = parse.text, parse.chunk, parse.target
        assert text == row["expression"]
        assert chunk[0] <= target[0] < target[1] <= chunk[1]
        for start, end in (chunk, target):
            assert text[start:end] == text[start:end].strip()
            assert not (text[max(start - 1, 0) : start] + text[start]).isalnum() or start == 0
            assert not text[end - 1 : end + 1].isalnum() or end == len(text)


@pytest.mark.parametrize(
    ("text", "target", "chunk"),
    [
        ("There is a brown kettle on the stove", "kettle", "a brown kettle"),
        ("this is a photo of a  RUSTY bicycle", "bicycle", "a  RUSTY bicycle"),
        ("in the photo, a black suitcase is open", "suitcase", "a black suitcase"),
        ('the "blue" car', "car", 'the "blue" car'),
        ("brown Teddy Bear with a bow", "Bear", "brown Teddy Bear"),
        ("stop sign behind the tree", "sign", "stop sign"),
        ("a man ' s hat", "hat", "a man ' s hat"),
        ("guy red shirt", "guy", "guy"),
        ("kid green jacket", "kid", "kid"),
        ("man glasses left", "man", "man"),
        ("zebra eating grass", "zebra", "zebra"),
        ("left giraffe head", "head", "left giraffe head"),
        ("next to the man, a small dog", "dog", "a small dog"),
        ("the man's blue-and-white hat", "hat", "the man's blue-and-white hat"),
        ("the Straße SIGN left of İ", "SIGN", "the Straße SIGN"),
    ],
)
def test_the_chunk_is_a_piece_of_the_expression(text, target, chunk):
    (parse,) = parse_expressions([text])
    assert (parse.target_text, parse.chunk_text) == (target, chunk)


def split(text):
    """Words at spaces, signs by themselves."""
    found, at = [], 0
    for word in text.replace("(", " ( ").replace(")", " ) ").split():
        at = text.index(word, at)
        found.append((word, at))
        at += len(word)
    return found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Guy w/ Beard", "the guy with beard"),
        ("woman & child", "the woman and child"),
        ("boy (left)", "the boy , left ,"),
        ("cat - the black one", "the cat , the black one"),
        ("a man ' s hat", "a man 's hat"),
        ("next to a FIRE hydrant", "next to a hydrant"),
        ("two hot dogs", "the two dogs"),
    ],
)
def test_plain_english(text, words):
    found = read_words(text, split)
    assert " ".join(w.text for w in found) == words
    kept = [w for w in found if w.start < w.end]
    assert all(a.end <= b.start for a, b in pairwise(kept))  # in order, and no character stands twice
    assert all(
        text[w.head : w.end].lower() == w.text for w in kept if w.text.isalpha() and w.text not in ("with", "and")
    )


def test_a_name_of_several_words_keeps_all_its_characters():
    (word,) = [w for w in read_words("a FIRE hydrant", split) if w.text == "hydrant"]
    assert (word.start, word.head, word.end) == (2, 7, 14)
    assert [w.text for w in read_words("the tennis ball machine", split, "tennis ball")] == ["the", "ball", "machine"]


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("There's a man in the back", "a man in the back"),
        ("this is a photo of a rusty bicycle", "a rusty bicycle"),
        ("in the picture, a woman holds an umbrella", "a woman holds an umbrella"),
        ("this one is the cup", "the cup"),
        ("I SEE a striped umbrella", "a striped umbrella"),
        ("there is", "there is"),  # nothing would be left
        ("this one", "this one"),
        ("its head is up", "its head is up"),
        ("it is behind the tree", "it is behind the tree"),
        ("point guard in white", "point guard in white"),
        ("the picture of the boat", "the picture of the boat"),
        ("in the picture of the boat", "in the picture of the boat"),
    ],
)
def test_openers_say_nothing_about_the_target(text, rest):
    assert text[opener_end(text) :] == rest


def test_lower_case_keeps_the_length():
    assert lower_case("İSTANBUL Straße ÉTOILE") == "İstanbul straße étoile"


@pytest.mark.parametrize(
    "text", ["", " ", "\t\n", "???", "%", "#", "'", "' s", "w /", "the", "there is", "🐕", "a" * 500, "- - -"]
)
def test_any_text_is_read_or_named(text):
    (parse,) = parse_expressions([text], ["dog"])
    assert parse.text == text and 0 <= parse.target[0] <= parse.target[1] <= len(text)
    assert parse.binding or parse.fallback == "no_target"


PIECES = [
    *"'\"()-%#&/;,. \t",
    "the",
    "dog",
    "Hot Dog",
    "w/",
    "'s",
    "’s",
    "this is",
    "there is",
    "a photo of",
    "of",
    "İ",
    "🐕",
]


@pytest.mark.parametrize("category", [None, "hot dog", "the"])
def test_pieces_in_any_order_give_a_piece_of_the_text(category):
    rng = random.Random(1)
    texts = ["".join(rng.choice(PIECES) + rng.choice(["", " "]) for _ in range(rng.randint(0, 9))) for _ in range(300)]
    for text, parse in zip(texts, parse_expressions(texts, [category] * len(texts)), strict=True):
        start, end = parse.target
        assert parse.text == text and 0 <= parse.chunk[0] <= start <= end <= parse.chunk[1] <= len(text)
        assert not parse.binding or text[start:end].strip() == text[start:end] != ""


def test_a_parse_by_hand_may_name_what_the_rules_leave_out():
    text = 'this is a photo of a "dog" 50%'
    for target, modifiers in ((text.index("photo"), True), (text.index("%"), True)):
        override = Override((target, target + 1))
        (parse,) = parse_expressions([text], overrides={text: override})
        assert parse.target == override.target and parse.modified == modifiers


@pytest.mark.parametrize("module", ["parse", "sentence", "target", "words"])
def test_other_rules_are_another_parser_to_the_cache(module, tmp_path, monkeypatch):
    before = parser_identity.__wrapped__()
    (tmp_path / "rules.py").write_text("another rule")
    monkeypatch.setattr(f"attrbind_exp.language.{module}.__file__", str(tmp_path / "rules.py"))
    assert parser_identity.__wrapped__() != before


def test_a_caption_may_go_on_from_an_opener():
    (parse,) = parse_expressions(["this is a photo of"], captions=["this is a photo of a dog"])
    assert parse.target_text == "photo"


@pytest.mark.parametrize(("part", "known"), [("val", True), ("val", False), ("test", False)])
def test_the_bundled_benchmark_is_read_right_without_its_parses(part, known):
    samples = load_refer(str(PACKAGE / "assets"), "shapes", "made", part).samples
    parses = parse_expressions([s.text for s in samples], [s.category if known else None for s in samples])
    wrong = []
    for sample, parse in zip(samples, parses, strict=True):
        find = sample.text.rindex if sample.slices["order"] == "target_second" else sample.text.index
        start = find(sample.category)
        wrong += [] if parse.target == (start, start + len(sample.category)) else [sample.text]
    assert len(wrong) <= 0.01 * len(samples), wrong
