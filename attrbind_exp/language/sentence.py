"""An expression in plain English: words for the parser, each of which knows its characters in what people wrote.

spaCy has learnt from news and conversations. It reads "the monitor on the left" well, but "monitor on the left" as a
call to monitor something. What people write in a hurry is therefore put into plain English first:

1. Capitals go.
2. Openers go ("there is", "this is a photo of", "find"), since they say nothing about what is meant.
3. Signs become words or commas, or go: "w/" is "with", "&" is "and", "(left)" is ", left ,", quotes go.
4. Names of several words become their last word ("stop sign", which spaCy takes for two verbs).
5. "the" is put in front where an expression starts with a bare word.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

from attrbind_exp.language.words import DETERMINERS, IMPERATIVES, NAMES, OPENING_WORDS, PICTURES, SIGNS

DETERMINED = rf"(?=(?:{'|'.join(sorted(DETERMINERS))})\b)"
IS = r"(?:is|are|['’]?s)"
OPENERS = re.compile(
    "|".join(
        (
            r"\W+",
            r"(?:please|ok|okay|um|maybe)\b",
            rf"(?:{IMPERATIVES}) {DETERMINED}",
            rf"(?:there|here) ?{IS}\b(?: also\b)?",
            r"(?:i|we|you) (?:can |could )?(?:see|want|need|mean|like|spot)\b",
            rf"(?:this|that|these|those|the|my|it) ?(?:ones?|thing|object|target)? ?(?:i \w+ )?{IS} {DETERMINED}",
            rf"(?:in|on) (?:this|the) (?:{PICTURES})\b(?! of)",
            rf"(?:(?:an?|this) )?(?:{PICTURES}) of\b",
            rf"(?:(?:an?|this|the|it) )?(?:{PICTURES})? ?shows {DETERMINED}",
        )
    )
)
APOSTROPHES = ("'", "’", "`")

Split = Callable[[str], Iterable[tuple[str, int]]]  # a text -> its words and where they start


class Word(NamedTuple):
    """A word for the parser and the characters [start, end) that it stands for: none for a word that was put in.
    `head` is where the last word of a name of several starts."""

    text: str
    start: int
    end: int
    head: int


def read_words(text: str, split: Split, category: str | None = None, start: int | None = 0) -> list[Word]:
    """The words of an expression in plain English, from the character `start` on (`opener_end`).

    `category`: its name is one word, as those of NAMES are. `start` None: no word and no sign may go.
    """
    lower = lower_case(text)
    words = [Word(word, at, at + len(word), at) for word, at in split(lower) if at >= (start or 0) and word.strip()]
    if start is not None:
        words = list(_without_signs(words, lower))
    words = _join_names(words, lower, [*NAMES, category.lower()] if category and " " in category else NAMES)
    if words and words[0].text not in OPENING_WORDS and words[0].text.isalnum():
        at = words[0].start
        words.insert(0, Word("the", at, at, at))
    return words


def lower_case(text: str) -> str:
    """The text in lower case, as long as it was: a letter that would become two stays."""
    return "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)


def opener_end(text: str) -> int:
    """Where the openers of a text end; 0 for a text that would have no word left."""
    lower, end = lower_case(text), 0
    while (found := OPENERS.match(lower, end)) and re.search(r"\w", lower[found.end() :]):
        end = found.end()
    return end


def _without_signs(words: Sequence[Word], lower: str) -> Iterator[Word]:
    """The words, signs read as words or commas. "w / hat" is "with hat", "man ' s" is "man's", and a dash with spaces
    around it is a comma."""
    second = False  # of two that are one
    for word, after in zip_longest(words, words[1:]):
        pair = word.text, after.text if after else ""
        end = after.end if after else word.end
        if second:
            second = False
        elif pair == ("w", "/"):
            second = True
            yield Word("with", word.start, end, word.start)
        elif pair[0] in APOSTROPHES and pair[1] == "s":
            second = True
            yield Word("'s", word.start, end, word.start)
        elif re.fullmatch("[-–—]+", word.text) and lower[: word.start].endswith(" "):
            yield word._replace(text=",")
        elif text := SIGNS.get(word.text, word.text):
            yield word._replace(text=text)


def _join_names(words: Sequence[Word], lower: str, names: Sequence[str]) -> list[Word]:
    """The words, every name of several as its last word."""
    joined = list(words)
    longest_first = sorted(names, key=len, reverse=True)
    for found in re.finditer(rf"\b(?:{'|'.join(map(re.escape, longest_first))})(?:e?s)?\b", lower):
        inside = [w for w in joined if found.start() <= w.start and w.end <= found.end()]
        if len(inside) > 1:
            at, last = joined.index(inside[0]), inside[-1]
            joined[at : at + len(inside)] = [Word(last.text, inside[0].start, last.end, last.start)]
    return joined
