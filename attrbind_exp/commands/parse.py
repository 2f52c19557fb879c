"""python -m attrbind_exp.parse: how a dataset's expressions are read, without loading a model."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from attrbind_exp import config
from attrbind_exp.commands import command_line
from attrbind_exp.edits import Edit, NounChunk, Variant
from attrbind_exp.runs.shown import clean
from attrbind_exp.runs.store import write_text
from attrbind_exp.types import Failure, Prompt, Sample, TextSettings, UserError
from attrbind_exp.work import Work, each

if TYPE_CHECKING:
    from attrbind_exp.language.window import TextWindow


@dataclass(frozen=True)
class AuditRow:
    """One line of parses.csv: how an expression was read. What only a tokenizer knows is None without one.

    `modifiers`: what the rest of the expression speaks of; `modified`: whether the target has a modifier; `bound`:
    whether edits apply; `target_tokens`, `chunk_tokens`: as the tokenizer writes them; `fallback`: rules that were
    used. Several of a kind stand in one text, with spaces between them.
    """

    sample_id: str
    image_id: str
    expression: str
    target: str
    chunk: str
    modifiers: str
    modified: bool
    bound: bool
    target_tokens: str | None = None
    chunk_tokens: str | None = None
    truncated: bool | None = None
    fallback: str | None = None


PART = 1024  # expressions parsed at once, a multiple of the parser's own batch
COLUMNS = [field.name for field in fields(AuditRow)]


@dataclass(frozen=True)
class AuditSummary:
    """summary.json: counts over the rows, and what could not be read.

    `gate`: whether targets without a modifier stay as the baseline has them; `n_changed`: for each method, the
    expressions whose embedding its edits can change; `unused_overrides`: those whose expression no row has.
    """

    n: int
    n_modified: int
    gate: bool
    n_bound: int
    n_changed: Mapping[str, int]
    n_fallback: Mapping[str, int]
    modifiers: Mapping[str, int]
    targets: Mapping[str, int]
    unused_overrides: Sequence[str]
    dataset: str
    n_failed: int
    failures: Mapping[str, int]
    note: str | None


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="parse")
@command_line.task
def main(cfg: DictConfig) -> None:
    """Write parses.csv, failures.jsonl and summary.json, print the summary; the last line is the folder."""
    config.check_choices(cfg)
    settings = config.text_settings(cfg)
    variants, _ = config.variants(cfg)
    dataset = config.load_dataset(cfg)
    # Heavy libraries load only once configuration and data are known to be good.
    from attrbind_exp.backbones.window import ClipWindow, load_tokenizer
    from attrbind_exp.runs.store import picture_folder

    folder = picture_folder(HydraConfig.get().runtime.output_dir)
    window, note = None, None
    try:
        window = ClipWindow(load_tokenizer(cfg.model.path))
    except UserError as error:
        note = f"columns of tokens are empty: {error}"
    prompts = read_in_parts(dataset.samples, settings, window)
    rows = audit(dataset.samples, prompts, window)
    changed = count_changed(prompts, variants)
    summary = summarize(rows, settings, dataset.name, changed, dataset.failures, note)
    if cfg.text_processor.overrides == cfg.dataset.get("parses"):  # the data's own: unused is no slip
        summary = replace(summary, unused_overrides=[])
    write(folder, rows, dataset.failures, summary)
    show(summary, folder)


def read_in_parts(samples: Sequence[Sample], settings: TextSettings, window: "TextWindow | None") -> list[Prompt]:
    """What read_prompts returns, part by part, while it is shown how far it is."""
    prompts: list[Prompt] = []
    with Work("parsing", len(samples), "expressions") as work:
        for start in range(0, len(samples), PART):
            prompts += read_prompts(part := samples[start : start + PART], settings, window)
            work.advance(len(part))
    return prompts


def read_prompts(samples: Sequence[Sample], settings: TextSettings, window: "TextWindow | None" = None) -> list[Prompt]:
    """The prompt of every sample, in order; without the model's `window` it has no positions."""
    from attrbind_exp.language.parse import parse_expressions
    from attrbind_exp.language.prompts import place_prompts

    texts, categories = [s.text for s in samples], [s.category for s in samples]
    if window is not None:
        return place_prompts(window, texts, categories, settings=settings)
    parses = parse_expressions(texts, categories, settings.chunk, overrides=settings.overrides)
    return [
        Prompt(
            settings.prefix + p.text,
            p,
            q=(),
            pos=(),
            read=(),
            bind=p.binding and (p.modified or not settings.gate),
            fallbacks=(p.fallback,) if p.fallback else (),
        )
        for p in parses
    ]


def audit(samples: Sequence[Sample], prompts: Sequence[Prompt], window: "TextWindow | None" = None) -> list[AuditRow]:
    """One row for every sample, in order. `window`: the model's, None where it is not at hand."""
    pairs = each(list(zip(samples, prompts, strict=True)), "writing", "expressions")
    return [_row(sample, prompt, window) for sample, prompt in pairs]


def _row(sample: Sample, prompt: Prompt, window: "TextWindow | None") -> AuditRow:
    parse = prompt.parse
    row = AuditRow(
        sample.sample_id,
        sample.image_id,
        parse.text,
        parse.target_text,
        parse.chunk_text,
        " ".join(parse.modifiers),
        parse.modified,
        prompt.bind,
        fallback=" ".join(prompt.fallbacks) or None,
    )
    if window is None:
        return row
    words = window.words(prompt.text)
    return replace(
        row,
        target_tokens=" ".join(words[i] for i in prompt.q),
        chunk_tokens=" ".join(words[i] for i in prompt.pos),
        truncated="prompt_truncated" in prompt.fallbacks,
    )


def count_changed(prompts: Sequence[Prompt], variants: Sequence[Variant]) -> dict[str, int]:
    """For each variant, by label, the number of prompts whose embedding its edits can change."""
    return {
        variant.label: sum(any(can_change(edit, p) for edit in variant.edits) for p in prompts) for variant in variants
    }


def can_change(edit: Edit, prompt: Prompt) -> bool:
    """Whether an edit can change the prompt's embedding. Where there is nothing to bind, only one without a gate can.

    NCR with the prefix kept cannot where the chunk starts the expression: CLIP is causal, so the chunk's rows depend on
    what stands before it, and there that is the prefix in both texts.
    """
    if edit.gated and not prompt.bind:
        return False
    before = prompt.parse.text[: prompt.parse.chunk[0]]
    if isinstance(edit, NounChunk) and edit.prefix == "template" and not before.strip():
        return False
    return edit.changes(prompt)


def summarize(
    rows: Sequence[AuditRow],
    settings: TextSettings,
    dataset: str,
    changed: Mapping[str, int],
    failures: Sequence[Failure] = (),
    note: str | None = None,
) -> AuditSummary:
    """Counts over the rows of an audit. `changed`: as `count_changed` has it; `note`: what a reader must know."""
    return AuditSummary(
        n=len(rows),
        n_modified=sum(r.modified for r in rows),
        gate=settings.gate,
        n_bound=sum(r.bound for r in rows),
        n_changed=changed,
        n_fallback=_count(rule for r in rows for rule in (r.fallback or "").split()),
        modifiers=_count(kind for r in rows for kind in r.modifiers.split() or ["none"]),
        targets=_count((r.target.lower() for r in rows), most=20),
        unused_overrides=sorted(set(settings.overrides) - {r.expression for r in rows}),
        dataset=dataset,
        n_failed=len(failures),
        failures=dict(Counter(f.reason for f in failures)),
        note=note,
    )


def _count(words: Iterable[str], most: int | None = None) -> dict[str, int]:
    return dict(Counter(words).most_common(most))


def write(folder: Path, rows: Sequence[AuditRow], failures: Sequence[Failure], summary: AuditSummary) -> None:
    """The three files of an audit."""
    with open(folder / "parses.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(map(vars, rows))
    lines = [json.dumps(vars(f), ensure_ascii=False) + "\n" for f in failures]
    write_text(folder / "failures.jsonl", "".join(lines))
    write_text(folder / "summary.json", json.dumps(asdict(summary), indent=2, ensure_ascii=False) + "\n")


def show(summary: AuditSummary, folder: Path) -> None:
    """Print the summary; the last line is the folder."""
    print(f"{summary.n} expressions of {summary.dataset}, {summary.n_failed} failed {summary.failures or ''}".rstrip())
    gate = f"on, {summary.n - summary.n_modified} stay as the baseline has them" if summary.gate else "off"
    print(f"modified    {summary.n_modified}; the gate is {gate}")
    print(f"bound       {summary.n_bound}")
    counts = {
        "can change": summary.n_changed,
        "modifiers": summary.modifiers,
        "fallbacks": summary.n_fallback,
        "targets": summary.targets,
    }
    for title, found in counts.items():
        print(f"{title:<11} {', '.join(f'{clean(name)} {count}' for name, count in found.items()) or 'none'}")
    if unused := summary.unused_overrides:
        print(f"NOTE: {len(unused)} overrides match no expression: {unused[:3]}")
    if summary.note:
        print(f"NOTE: {clean(summary.note, 1000)}")
    print(folder)


def start() -> None:
    """python -m attrbind_exp.parse"""
    command_line.run_main(main, "parse")
