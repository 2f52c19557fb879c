"""How every run ends, be it fresh, resumed, merged or rescored: summary, tables, and what is printed."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from attrbind_exp import __version__
from attrbind_exp.config import Settings
from attrbind_exp.data.dataset import Dataset
from attrbind_exp.evaluation.finish import Origin, Scored, summarize
from attrbind_exp.runs.store import RunStore
from attrbind_exp.runs.summary import Summary


def finish(
    scored: Scored,
    headline: int,
    origin: Origin,
    store: RunStore,
    draw: Callable[[Summary], None] = lambda summary: None,
) -> Summary:
    """Write all that follows from a run's rows, and return its summary.

    1. Figures -> summary. 2. What `draw` makes of it: pictures need a model, which not every run has. 3. The table in
    two forms, then summary.json: where that is, the run is finished. The page comes after it, by `write_report`: it
    reads the folder, and the caller can let go of data and rows first.
    """
    from attrbind_exp.reporting.tables import ablation, markdown  # loads pandas, which --help does without

    summary = summarize(scored, headline, origin)
    draw(summary)
    table = ablation(summary)
    store.write_text("ablation.csv", table.to_csv(index=False))
    store.write_text("ablation.md", markdown(table) + "\n")
    store.write_summary(summary)
    return summary


def describe_origin(settings: Settings, dataset: Dataset, captioner: str, overrides: Sequence[str]) -> Origin:
    """What a summary says of how its run was made; `captioner`: its option, `overrides`: what was typed."""
    return Origin(
        dataset=dataset.name,
        split=settings.split,
        model=settings.segmenter.model.path,
        model_name=settings.segmenter.model.name,
        captioner=captioner,
        note="; ".join(filter(None, [dataset.note, settings.warning])) or None,
        overrides=list(overrides),
        config_hash=settings.key,
        version=__version__,
    )


def show(summary: Summary, folder: Path, line: str | None = None) -> None:
    """Print the table, the counts and a `line` where there is one; the last line is the run folder."""
    from attrbind_exp.reporting.tables import ablation, markdown

    print(markdown(ablation(summary)))
    rate = summary.n_scored * len(summary.variants) / max(summary.seconds, 1e-9)
    print(
        f"\n{summary.n_scored} {summary.scored} scored, {summary.n_failed} failed {dict(summary.failures) or ''}, "
        f"{summary.n_unscored} without ground truth, {summary.n_bound} prompts with a modifier to bind; fallbacks "
        f"{dict(summary.n_fallback) or 'none'}; {summary.seconds:.1f} s, {rate:.0f} {summary.scored[:-1]}-variants/s"
    )
    if summary.note:
        print(f"NOTE: {summary.note}")
    if line:
        print(line)
    print(folder)
    sys.stdout.flush()
