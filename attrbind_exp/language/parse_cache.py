"""Parses of a group of expressions, kept by content."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from attrbind_exp.cache import Cache, digest
from attrbind_exp.language import SPACY_MODELS, parse, sentence, target, words
from attrbind_exp.language.parse import parse_expressions
from attrbind_exp.types import ChunkRule, Override, Parse, Phrase


def parse_cached(
    cache: Cache | None,
    texts: Sequence[str],
    categories: Sequence[str | None] | None,
    chunk: ChunkRule,
    captions: Sequence[str | None] | None,
    overrides: Mapping[str, Override],
) -> list[Parse]:
    """`parse_expressions`, of which the whole group is one entry: a parse alone is smaller than a block of a disk."""
    if cache is None:
        return parse_expressions(texts, categories, chunk, captions, overrides)
    used = [overrides.get(text) for text in texts]
    key = digest(
        parser_identity(), list(texts), categories and list(categories), chunk, captions and list(captions), used
    )
    kept = cache.get("parses", key)
    if kept is None:
        parses = parse_expressions(texts, categories, chunk, captions, overrides)
        cache.put("parses", key, json.dumps([asdict(p) for p in parses]).encode())
        return parses
    return [_from_json(row) for row in json.loads(kept)]


def _from_json(row: dict[str, Any]) -> Parse:
    values: dict[str, Any] = {k: _tuples(v) for k, v in row.items()}
    return Parse(**values | {"phrases": tuple(Phrase(*parts) for parts in values["phrases"])})


def _tuples(value: Any) -> Any:
    """JSON's lists, however deep, as the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@lru_cache(maxsize=1)
def parser_identity() -> str:
    """Tells one parser from another: spaCy, its model, our own rules, and what a parse consists of."""
    versions = []
    for package in ("spacy", *SPACY_MODELS):
        try:
            versions.append((package, version(package.replace("_", "-"))))
        except PackageNotFoundError:
            continue
    rules = [Path(module.__file__ or "").read_bytes() for module in (parse, sentence, target, words)]
    return digest(versions, [field.name for field in fields(Parse)], *rules)
