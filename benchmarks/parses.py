"""Parses in a JSON file, for machines without spaCy.

A machine with spaCy writes the file (`dump_parses`). On the other one `use_parses` puts the file in spaCy's place. It
must be called before anything of attrbind_exp.language is imported.
"""

import importlib
import importlib.util
import json
import sys
import types
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

SPACY = {"spacy": (), "spacy.language": ("Language",), "spacy.tokens": ("Doc", "Span", "Token")}


def dump_parses(file: Path) -> int:
    """Write the parses of all expressions that the GPU benchmarks use. Returns how many these are."""
    from attrbind_exp.config import PACKAGE
    from attrbind_exp.data.refer import load_refer
    from attrbind_exp.language.parse import parse_expressions
    from benchmarks.models import EXPRESSIONS

    samples = load_refer(str(PACKAGE / "assets"), "shapes", "made", "val").samples
    # "dog" is what attrbind_exp.evaluation.batch_size measures memory with.
    pairs = [(s.text, s.category) for s in samples] + [(text, None) for text in (*EXPRESSIONS, "dog")]
    distinct = list(dict.fromkeys(pairs))
    parses = parse_expressions([text for text, _ in distinct], [category for _, category in distinct])
    rows = [{"category": pair[1], **asdict(parse)} for pair, parse in zip(distinct, parses, strict=True)]
    file.write_text(json.dumps(rows, indent=0) + "\n")
    return len(rows)


def use_parses(file: Path | None) -> None:
    """Read parses from `file` from here on. None: from spaCy, which must be there."""
    if file is None:
        if importlib.util.find_spec("spacy") is None:
            sys.exit("error: spaCy is not here; give --parses FILE, which --dump-parses FILE writes where spaCy is")
        return
    for name, classes in SPACY.items():
        module = types.ModuleType(name)
        for attribute in classes:
            setattr(module, attribute, type(attribute, (), {}))
        sys.modules[name] = module
    parse_cache = importlib.import_module("attrbind_exp.language.parse_cache")
    parse_type = importlib.import_module("attrbind_exp.types").Parse
    known = {}
    for row in json.loads(file.read_text()):
        category = row.pop("category")
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
        known[row["text"], category] = parse_type(**values)

    def parse_expressions(texts: Sequence[str], categories: Sequence[str | None] | None = None, *_: object) -> list:
        return [known[pair] for pair in zip(texts, categories or [None] * len(texts), strict=True)]

    parse_cache.parse_expressions = parse_expressions
