"""How every run ends, be it fresh, resumed, merged or rescored: summary, tables, and what is printed."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from attrbind_exp import __version__
from attrbind_exp.config import Settings
from attrbind_exp.data.dataset import Dataset
from attrbind_exp.evaluation.finish import Origin, Scored, summarize
from attrbind_exp.log import log
from attrbind_exp.runs.levels import has_masks, masks_folder
from attrbind_exp.runs.provenance import Part, in_short, summed
from attrbind_exp.runs.shown import clean
from attrbind_exp.runs.store import RunStore
from attrbind_exp.runs.summary import Summary
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.types import MaskFormat

PATH = 5000  # characters of a line that holds a path: longer than any


def finish(scored: Scored, settings: RunSettings, dataset: Dataset, origin: Origin, store: RunStore) -> Summary:
    """Write all that follows from a run's rows alone, and return its summary.

    1. Figures -> summary. 2. The table in two forms. 3. Masks, where they are asked for. 4. summary.json: where that
    is, the run is finished. Pictures need a model, which not every run has; they come after it, then the page: it reads
    the folder, and the caller can let go of data and rows first.
    """
    from attrbind_exp.reporting.tables import ablation, ablation_page  # loads pandas, which --help does without

    summary = summarize(scored, settings.headline, origin)
    store.write_text("ablation.csv", ablation(summary).to_csv(index=False))
    store.write_text("ablation.md", ablation_page(summary) + "\n")
    if settings.save_masks:
        leave_masks(store.folder, dataset, settings, summary)
    store.write_summary(summary)
    return summary


def leave_masks(folder: Path, dataset: Dataset, settings: RunSettings, summary: Summary) -> None:
    """Write the masks of a run to be taken away; say where there are none, and why."""
    from attrbind_exp.reporting.saved_masks import save_masks

    if why_not := save_masks(folder, dataset, settings, summary.variants):
        log.warning(f"WARNING: {clean(why_not, PATH)}")


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
    for said in (*lines, *masks_lines(folder)):
        print(clean(said, PATH))
    print(clean(str(folder), PATH))
    sys.stdout.flush()


def masks_lines(folder: Path) -> list[str]:
    """Where a run's masks lie, a line a form."""
    return [f"masks: {masks_folder(folder, form)}" for form in get_args(MaskFormat) if has_masks(folder, form)]
