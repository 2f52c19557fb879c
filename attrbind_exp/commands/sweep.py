"""What a sweep leaves behind: shards made one, the table or figure that sweeps/*.yaml asks for, and who failed."""

import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from attrbind_exp.commands.disk import disk_errors
from attrbind_exp.log import log
from attrbind_exp.reporting.write import write_report
from attrbind_exp.runs.shown import clean
from attrbind_exp.tracking.tracker import tell
from attrbind_exp.types import UserError

if TYPE_CHECKING:
    from attrbind_exp.reporting.paper_tables import TableSpec


class SweepReport(Callback):
    """Hydra calls it in the launching process when all runs of a multirun are done or failed."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Merge shards; where a table is asked for, write and print it; make the page and the tracker's report of the
        sweep; then name the runs that failed. Exit with code 1 where one failed or any of this went wrong: Hydra would
        print a warning and call it success."""
        folder, typed = Path(config.hydra.sweep.dir), list(config.hydra.overrides.task)
        steps = (
            lambda: write_tables(config, folder, typed),
            lambda: report_sweep(config, folder),
            lambda: print_figures(config, folder),
            lambda: name_failed(folder),
        )
        done = [attempt(step) for step in steps]
        print(clean(str(folder), 5000), flush=True)
        if not all(done):
            sys.exit(1)


def attempt(step: Callable[[], None]) -> bool:
    """Whether a step went well. What a user can mend is printed in one line, a bug with its traceback."""
    try:
        with disk_errors():
            step()
        return True
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        log.error(f"error: {clean(str(error) or type(error).__name__, 2000)}")
        return False


def write_tables(config: DictConfig, folder: Path, typed: Sequence[str]) -> None:
    """Merge shards; write and print the table where one is asked for."""
    from attrbind_exp.reporting.paper_tables import read_spec

    if any(o.startswith("shard=") for o in typed):
        merge_shards(folder, OmegaConf.to_container(config, resolve=False))
    if config.get("report") is not None:
        spec = read_spec(OmegaConf.to_container(config.report, resolve=True))
        write_results(folder, spec, str(config.dataset.splits).split(","), typed)


def print_figures(config: DictConfig, folder: Path) -> None:
    """The sweep's figures for a paper, where they are asked for."""
    width = OmegaConf.select(config, "figure.width")
    if width not in (None, "none"):
        from attrbind_exp.reporting.paper_figures import write_asked
        from attrbind_exp.runs.index import read_sweep

        merged = [Path(run.folder) for run in read_sweep(folder).merged]
        for whole in (folder, *merged):  # a merged run has its own, too
            print(clean(write_asked(whole, width), 5000))


def name_failed(folder: Path) -> None:
    """Print every run that failed and how to start it alone. Raises UserError where there is one."""
    from attrbind_exp.runs.index import read_launched

    runs = read_launched(folder)
    failed = [run for run in runs if run.state == "failed"]
    for run in failed:
        said = f"failed: {clean(run.name)}: {clean(run.error or '', 2000)}"
        log.error(f"{said}\n  again: {clean(run.command, 10_000)}")
    if failed:
        many = f"{len(failed)} of {len(runs)} runs failed"
        raise UserError(f"{many}; the same command again runs these alone; finished runs are kept")


def report_sweep(config: DictConfig, folder: Path) -> None:
    """The sweep's page, and one run of the tracker that holds the same."""
    from attrbind_exp.commands.command_line import group_name

    group = group_name(str(folder))
    tags = [config.hydra.runtime.choices.dataset, config.model.name]
    facts = {"sweep": group, "overrides": list(config.hydra.overrides.task)}
    about = {"job": "report", "name": f"report of {group}", "group": group, "tags": tags}
    make = instantiate(config.tracker, _partial_=True)
    _, tracker = tell(partial(make, folder=folder.absolute(), run_config=facts, **about))
    page = write_report(folder, tracker)
    _, upload = (False, None) if tracker is None else tell(tracker.close)
    for line in filter(None, (upload, page)):
        print(clean(str(line), 5000))


def write_results(folder: Path, spec: "TableSpec", splits: Sequence[str], typed: Sequence[str]) -> None:
    """Results of the sweep in `folder`, which the overrides `typed` started; of several splits the first chooses the
    thresholds of the others."""
    # Hydra makes the callback before every command; plots and tables load only when a sweep ends.
    from attrbind_exp.commands.command_line import command
    from attrbind_exp.reporting import plots
    from attrbind_exp.reporting.made_with import difference_line, fact_line
    from attrbind_exp.reporting.paper_tables import PAPER_LINE, beside_paper, paper_table, read_runs, tell_apart
    from attrbind_exp.reporting.readable_tables import table_page
    from attrbind_exp.reporting.references import with_references, without_floors
    from attrbind_exp.reporting.refined import PLAIN, by_refinement
    from attrbind_exp.reporting.sentences import sentences
    from attrbind_exp.runs.store import write_text

    runs = read_runs(folder, splits)
    selection = splits[0] if len(splits) > 1 else None
    table = with_references(tell_apart(paper_table(runs, spec, selection), runs), runs, selection)
    model, title = runs[0].summary.model_name, spec.title or folder.name
    beside = beside_paper(runs, spec)
    parts = by_refinement(table)
    tables = {kind: table_page(part, beside) for kind, part in parts.items()}
    shown = "\n\n".join(
        tables.values() if len(tables) == 1 else (f"**{k or PLAIN}**\n\n{t}" for k, t in tables.items())
    )
    facts = fact_line([r.summary for r in runs])
    notes = sorted({f"NOTE: {r.summary.note}" for r in runs if r.summary.note})
    notes += [] if beside.paper else [PAPER_LINE]
    differ = difference_line([r.summary for r in runs])
    said = "  \n".join(filter(None, [facts, differ, *notes]))
    heard = " ".join(sentence for part in parts.values() for sentence in sentences(part))
    page = [f"## {title}", f"    {command(typed)}", shown, heard, said]
    write_text(folder / "results.md", "\n\n".join(filter(None, page)) + "\n")
    write_text(folder / "results.csv", table.to_csv(index=False))
    data = ", ".join(dict.fromkeys(r.summary.dataset for r in runs))
    draw = plots.differences if spec.figure == "differences" else plots.paper_figure
    draw(without_floors(table), title, data, model, folder / "results.png")
    print(f"\n{shown}" + (f"\n\n{differ}" if differ else ""))


def merge_shards(folder: Path, composed: object = None) -> None:
    """One run of every set of shards in a sweep's folder, which stands for them in the sweep from then on. What the
    sweep's own configuration names may be called."""
    from attrbind_exp.commands.merge import merge, shard_sets
    from attrbind_exp.config import targets_in
    from attrbind_exp.runs.index import write_merged

    trusted = targets_in(composed)
    sets = {folder / name: shards for name, shards in shard_sets(folder, trusted).items()}
    for run, shards in sets.items():
        merge(shards, run, trusted)
        print(run)
    write_merged(folder, {run: list(shards.values()) for run, shards in sets.items()})
