"""Which noun of an expression is meant.

An expression is cut into runs. A run is a noun and the words that lead up to it: "the big brown dog" and "a red ball"
in "the big brown dog with a red ball". The target is the noun of the first run that no preposition leads to. spaCy says
what kind of word each word is. Its tree is not asked, which is often wrong where people leave words out ("guy red
shirt").
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from attrbind_exp.language.words import COLOURS, LOCATIONS, NO_STAND_INS, PEOPLE, THINGS_IN_ING

if TYPE_CHECKING:
    from spacy.tokens import Doc, Span, Token

NOUNS = ("NOUN", "PROPN")
STAND_INS = ("PRON", "NUM")  # words in the place of a noun: "the one in red", "he"
ORDINALS = r"first|second|third|fourth|fifth|sixth|last|\d+(?:st|nd|rd|th)"


@dataclass
class Run:
    """A noun and the words that lead up to it, all in `words`; its nouns, several in "coffee table", in `nouns`.

    `led`: whether a preposition, a verb or an "and" stands before the run.
    """

    led: bool = False
    words: list["Token"] = field(default_factory=list)
    nouns: list["Token"] = field(default_factory=list)


def find_target(doc: "Doc", category: str | None = None) -> tuple[str | None, "Token | None"]:
    """The rule that found the target, None for the ordinary one, and the target, None where no rule did.

    The ordinary rule takes a run that nothing leads to, one that holds the category's word before others. Without such
    a run it takes a place ("top of the car", "third from the left"), unless the category's word stands somewhere else.
    """
    runs = list(runs_of(doc, category))
    free = [run for run in runs if not run.led]
    named = [t for t in doc if is_category(t, category)]
    of_category = [run for run in free if any(t in named for t in run.nouns)]
    found: list[tuple[str | None, Iterable[Token | None]]] = [
        (None, (_head(run, category) for run in (*of_category, *free))),
        ("category", named),
        (None, _places(runs)),
        ("first_noun", (_head(run, category) for run in runs)),
        ("last_content_word", _last_content_words(doc)),
    ]
    return next(((rule, t) for rule, tokens in found for t in tokens if t is not None), ("no_target", None))


def things_of(doc: "Doc", category: str | None) -> list["Span"]:
    """Every thing that an expression names, in order: a run up to its noun. Words of place ("the left") name none,
    nor does what spaCy takes for a noun but is a participle ("zebra walking")."""
    found = [(run.words, _head(run, category)) for run in runs_of(doc, category) if run.nouns]
    return [doc[words[0].i : noun.i + 1] for words, noun in found if noun is not None and not is_participle(noun)]


def runs_of(doc: "Doc", category: str | None) -> Iterator[Run]:
    """The runs of an expression, in order. What stands between two of them is in neither."""
    run = Run()
    for token in doc:
        if run.nouns and token.tag_ == "POS":
            run.nouns = []  # "the man's hat": the man is one of the words that lead up to the hat
        elif _separates(token, run):
            yield run
            run = Run(led=token.pos_ != "PUNCT")
            continue
        elif _begins(token, run, category):
            yield run
            run = Run(led=token.i > 0 and token.nbor(-1).pos_ == "VERB")  # "riding | a horse"
        if _is_noun(token, run, category):
            run.nouns.append(token)
        run.words.append(token)
    yield run


def _separates(token: "Token", run: Run) -> bool:
    """Whether the word stands between runs: a preposition or a word that starts a clause, or what follows a noun
    without being one: "and", a verb, a comma. A comma separates after a preposition, too ("on the left, a dog")."""
    if token.lower_ in LOCATIONS - {"near"}:
        return False
    if token.pos_ in ("ADP", "SCONJ", "AUX") or token.tag_ in ("TO", "WP", "WDT"):
        return True
    if token.pos_ == "PUNCT":
        return token.lower_ == "," and bool(run.nouns or run.led)
    return bool(run.nouns) and token.pos_ in ("CCONJ", "VERB")


def _begins(token: "Token", run: Run, category: str | None) -> bool:
    """Whether a new run begins with the word: with a determiner, with anything but a noun after a noun ("guy | red
    shirt"), with any word after a person ("man | glasses")."""
    if not run.nouns or token.pos_ == "PUNCT":  # a hyphen joins
        return bool(run.words) and token.pos_ == "DET"
    person = run.nouns[-1].lower_ in PEOPLE and category in (None, "", "person")
    return person or not _is_noun(token, run, category)


def _is_noun(token: "Token", run: Run, category: str | None) -> bool:
    """Whether the word names a thing, as the next word of a run. Colours, places and numbers do not."""
    word, first = token.lower_, not run.nouns
    if is_category(token, category) or word in PEOPLE:
        return True
    if word in COLOURS | LOCATIONS | NO_STAND_INS or word[0].isdigit():
        return False
    if first and token.tag_ in ("VB", "VBP") and token.i and token.nbor(-1).lower_ in COLOURS:
        return True  # "the purple cross", where spaCy sees the purple ones cross something
    if token.pos_ not in NOUNS or first:
        return token.pos_ in NOUNS
    verb = is_participle(token) or (token.tag_ == "NNS" and run.words[0].lower_ in ("a", "an"))  # "a duck swims"
    return not verb and word != "number"  # "rider number 12"


def is_participle(token: "Token") -> bool:
    """Whether the word ends in "-ing" and is not the name of a thing."""
    return token.lower_.endswith("ing") and token.lower_ not in THINGS_IN_ING


def is_category(token: "Token", category: str | None) -> bool:
    """Whether the word is the last word of the category's name, in singular or plural. Where people are the category,
    it is any word for them."""
    if not category or not category.strip() or token.lower_ in NO_STAND_INS:
        return False
    name = category.lower().split()[-1]
    return name in (token.lower_, token.lemma_.lower()) or (name == "person" and token.lower_ in PEOPLE)


def _head(run: Run, category: str | None) -> "Token | None":
    """The word of a run that is meant: the category's, the last noun, else the last word that stands for a noun."""
    if run.nouns:
        return next((t for t in reversed(run.nouns) if is_category(t, category)), run.nouns[-1])
    return next((t for t in reversed(run.words) if _stands_in(t)), None)


def _stands_in(token: "Token") -> bool:
    """Whether the word stands for a noun: "one", "he", "the white" in the flag. Any word after a determiner does, since
    spaCy may not know a rare noun ("the parrot")."""
    word = token.lower_
    if word in ("one", "ones", "other", "others") or (token.pos_ in STAND_INS and word not in NO_STAND_INS):
        return True
    if word in LOCATIONS or re.fullmatch(ORDINALS, word):
        return False
    determined = token.i > 0 and token.nbor(-1).pos_ == "DET"
    return word in COLOURS or (determined and token.pos_ in ("ADJ", "ADV") and not token.is_stop)


def _places(runs: Sequence[Run]) -> Iterator["Token"]:
    """Words of place and order that can be meant: "third" from the left, "top" of the car; without any noun, the last
    one ("bottom left corner")."""
    free = [t for run in runs if not run.led for t in run.words]
    places = [t for t in free if t.lower_ in LOCATIONS]
    yield from (t for t in free if re.fullmatch(ORDINALS, t.lower_) and _before(t, "from"))
    yield from (t for t in places if _before(t, "of"))
    if not any(run.nouns for run in runs):
        yield from (t for t in reversed(places) if t.pos_ in NOUNS)


def _before(token: "Token", word: str) -> bool:
    """Whether the word stands directly before `word`."""
    return token.i + 1 < len(token.doc) and token.nbor().lower_ == word


def _last_content_words(doc: "Doc") -> list["Token"]:
    """The words that say something, the last one first. Words of place come last."""
    words = [t for t in reversed(doc) if t.is_alpha and not t.is_stop]
    return sorted(words, key=lambda t: t.lower_ in LOCATIONS)
