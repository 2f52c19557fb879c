"""python -m attrbind_exp.parse: how a dataset's expressions are read, without loading a model."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from attrbind_exp import config
from attrbind_exp.commands import command_line
from attrbind_exp.types import Parse, Prompt, Sample, TextSettings, UserError

COLUMNS = [
    "sample_id",
    "image_id",
    "expression",
    "target",
    "chunk",
    "modifiers",
    "modified",
    "bound",
    "target_tokens",
    "chunk_tokens",
    "truncated",
    "fallback",
]


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="parse")
@command_line.task
def main(cfg: DictConfig) -> None:
    """Write parses.csv, failures.jsonl and summary.json, print the summary; the last line is the folder."""
    config.check_choices(cfg)
    settings = config.text_settings(cfg)
    dataset = config.load_dataset(cfg)
    # Heavy libraries load only once configuration and data are known to be good.
    from attrbind_exp.language.tokens import load_tokenizer
    from attrbind_exp.runs.store import picture_folder

    folder = picture_folder(HydraConfig.get().runtime.output_dir)
    tokenizer, note = None, None
    try:
        tokenizer = load_tokenizer(cfg.model.path)
    except UserError as error:
        note = f"columns of tokens are empty: {error}"
    rows = audit(dataset.samples, settings, tokenizer)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame.to_csv(folder / "parses.csv", index=False)
    failures = [json.dumps(vars(f), ensure_ascii=False) + "\n" for f in dataset.failures]
    (folder / "failures.jsonl").write_text("".join(failures), encoding="utf-8")
    counts = summarize(frame, settings) | {
        "dataset": dataset.name,
        "n_failed": len(dataset.failures),
        "failures": dict(Counter(f.reason for f in dataset.failures)),
        "note": note,
    }
    if cfg.text_processor.overrides == cfg.dataset.get("parses"):  # the data's own: unused is no slip
        counts["unused_overrides"] = []
    (folder / "summary.json").write_text(json.dumps(counts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    show(counts, folder)


def audit(samples: Sequence[Sample], settings: TextSettings, tokenizer: Any = None) -> list[dict[str, Any]]:
    """One row of COLUMNS for every sample, in order; without a tokenizer those of tokens are None."""
    from attrbind_exp.language.parse import parse_expressions
    from attrbind_exp.language.processor import place_prompts

    texts, categories = [s.text for s in samples], [s.category for s in samples]
    if tokenizer is None:
        parses = parse_expressions(texts, categories, settings.chunk, overrides=settings.overrides)
        return [
            _row(s, p, p.binding and (p.modified or not settings.gate)) for s, p in zip(samples, parses, strict=True)
        ]
    prompts = place_prompts(tokenizer, texts, categories, settings=settings)
    ids = tokenizer([p.text for p in prompts], verbose=False).input_ids if prompts else []
    return [
        _row(s, p.parse, p.bind) | _token_columns(p, tokenizer.convert_ids_to_tokens(i))
        for s, p, i in zip(samples, prompts, ids, strict=True)
    ]


def _row(sample: Sample, parse: Parse, bound: bool) -> dict[str, Any]:
    return {
        "sample_id": sample.sample_id,
        "image_id": sample.image_id,
        "expression": parse.text,
        "target": parse.target_text,
        "chunk": parse.chunk_text,
        "modifiers": " ".join(parse.modifiers),
        "modified": parse.modified,
        "bound": bound,
        "fallback": parse.fallback,
    }


def _token_columns(prompt: Prompt, tokens: Sequence[str]) -> dict[str, Any]:
    return {
        "target_tokens": " ".join(tokens[i] for i in prompt.q),
        "chunk_tokens": " ".join(tokens[i] for i in prompt.pos),
        "truncated": "prompt_truncated" in prompt.fallbacks,
        "fallback": " ".join(prompt.fallbacks) or None,
    }


def summarize(frame: pd.DataFrame, settings: TextSettings) -> dict[str, Any]:
    """Counts over the rows of an audit, and the overrides whose expression no row has."""
    kinds = Counter(kind for row in frame["modifiers"] for kind in row.split() or ["none"])
    return {
        "n": len(frame),
        "n_modified": int(frame["modified"].sum()),
        "gate": settings.gate,
        "n_bound": int(frame["bound"].sum()),
        "n_fallback": dict(Counter(rule for row in frame["fallback"].dropna() for rule in row.split()).most_common()),
        "modifiers": dict(kinds.most_common()),
        "targets": dict(Counter(frame["target"].str.lower()).most_common(20)),
        "unused_overrides": sorted(set(settings.overrides) - set(frame["expression"])),
    }


def show(counts: dict[str, Any], folder: Path) -> None:
    """Print the summary; the last line is the folder."""
    n = counts["n"]
    print(f"{n} expressions of {counts['dataset']}, {counts['n_failed']} failed {counts['failures'] or ''}".rstrip())
    gate = f"on, {n - counts['n_modified']} stay as the baseline has them" if counts["gate"] else "off"
    print(f"modified    {counts['n_modified']}; the gate is {gate}")
    print(f"bound       {counts['n_bound']}")
    for title, key in (("modifiers", "modifiers"), ("fallbacks", "n_fallback"), ("targets", "targets")):
        print(f"{title:<11} {', '.join(f'{name} {count}' for name, count in counts[key].items()) or 'none'}")
    if counts["unused_overrides"]:
        print(
            f"NOTE: {len(counts['unused_overrides'])} overrides match no expression: {counts['unused_overrides'][:3]}"
        )
    if counts["note"]:
        print(f"NOTE: {counts['note']}")
    print(folder)


def start() -> None:
    """python -m attrbind_exp.parse"""
    command_line.run_main(main)
