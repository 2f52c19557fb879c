"""How every run ends, be it fresh, resumed, merged or rescored: summary, tables, and what is printed."""

import sys
from collections.abc import Sequence
from pathlib import Path

from attrbind_exp import __version__
from attrbind_exp.config import Settings
from attrbind_exp.data.dataset import Dataset
from attrbind_exp.evaluation.finish import Origin, Scored, summarize
from attrbind_exp.runs.provenance import Part, in_short, summed
from attrbind_exp.runs.shown import clean
from attrbind_exp.runs.store import RunStore
from attrbind_exp.runs.summary import Summary

PATH = 5000  # characters of a line that holds a path: longer than any


def finish(scored: Scored, headline: int, origin: Origin, store: RunStore) -> Summary:
    """Write all that follows from a run's rows alone, and return its summary.

    1. Figures -> summary. 2. The table in two forms. 3. summary.json: where that is, the run is finished. Pictures need
    a model, which not every run has; they come after it, then the page: it reads the folder, and the caller can let go
    of data and rows first.
    """
    from attrbind_exp.reporting.tables import ablation, ablation_page  # loads pandas, which --help does without

    summary = summarize(scored, headline, origin)
    store.write_text("ablation.csv", ablation(summary).to_csv(index=False))
    store.write_text("ablation.md", ablation_page(summary) + "\n")
    store.write_summary(summary)
    return summary


def describe_origin(
    settings: Settings, dataset: Dataset, captioner: str, overrides: Sequence[str], parts: Sequence[Part] = ()
) -> Origin:
    """What a summary says of how its run was made; `captioner`: its option, `overrides`: what was typed, `parts`: all
    parts of the run."""
    identity, provenance = summed(parts)
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
        identity=identity,
        provenance=provenance,
    )


def show(summary: Summary, folder: Path, lines: Sequence[str] = ()) -> None:
    """Print the table, the counts and further `lines`; the last line is the run folder."""
    from attrbind_exp.reporting.tables import ablation_page

    print(ablation_page(summary))
    rate = summary.n_scored * len(summary.variants) / max(summary.seconds, 1e-9)
    print(
        f"\n{summary.n_scored} {summary.scored} scored, {summary.n_failed} failed {dict(summary.failures) or ''}, "
        f"{summary.n_unscored} without ground truth, {summary.n_bound} prompts with a modifier to bind; fallbacks "
        f"{dict(summary.n_fallback) or 'none'}; {summary.seconds:.1f} s, {rate:.0f} {summary.scored[:-1]}-variants/s"
    )
    if made := in_short(summary.identity, summary.provenance):
        print(clean(made, 1000))
    if summary.note:
        print(f"NOTE: {clean(summary.note, 1000)}")
    for said in lines:
        print(clean(said, PATH))
    print(clean(str(folder), PATH))
    sys.stdout.flush()
