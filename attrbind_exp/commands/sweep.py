"""What a sweep leaves behind: shards made one, the table or figure that sweeps/*.yaml asks for, and who failed."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from attrbind_exp.reporting.write import write_report
from attrbind_exp.types import UserError

if TYPE_CHECKING:
    from attrbind_exp.reporting.paper_tables import TableSpec


class SweepReport(Callback):
    """Hydra calls it in the launching process when all runs of a multirun are done or failed."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Merge shards; where a table is asked for, write and print it; make the page and the tracker's report of the
        sweep; then name the runs that failed and exit with code 1."""
        from attrbind_exp.reporting.paper_tables import read_spec
        from attrbind_exp.runs.index import read_launched

        folder, typed = Path(config.hydra.sweep.dir), list(config.hydra.overrides.task)
        try:
            if any(o.startswith("shard=") for o in typed):
                merge_shards(folder)
            if config.get("report") is not None:
                spec = read_spec(OmegaConf.to_container(config.report, resolve=True))
                write_results(folder, spec, str(config.dataset.splits).split(","), typed)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
        report_sweep(config, folder)
        print(folder)
        failed = [run for run in read_launched(folder) if run.state == "failed"]
        for run in failed:
            print(f"failed: {run.name}: {run.error}\n  again: {run.command}", file=sys.stderr)
        if failed:
            print("the same command again runs these alone; finished runs are kept", file=sys.stderr)
            sys.exit(1)


def report_sweep(config: DictConfig, folder: Path) -> None:
    """The sweep's page, and one run of the tracker that holds the same."""
    from attrbind_exp.commands.command_line import group_name

    group = group_name(str(folder))
    tags = [config.hydra.runtime.choices.dataset, config.model.name]
    facts = {"sweep": group, "overrides": list(config.hydra.overrides.task)}
    tracker = instantiate(config.tracker, _partial_=True)(
        folder=folder.absolute(), run_config=facts, job="report", group=group, tags=tags
    )
    try:
        page = write_report(folder, tracker)
    finally:
        upload = tracker.close()
    for line in filter(None, (upload, page)):
        print(line)


def write_results(folder: Path, spec: "TableSpec", splits: Sequence[str], typed: Sequence[str]) -> None:
    """Results of the sweep in `folder`, which the overrides `typed` started; of several splits the first chooses the
    thresholds of the others."""
    # Hydra makes the callback before every command; plots and tables load only when a sweep ends.
    from attrbind_exp.commands.command_line import command
    from attrbind_exp.reporting import figures
    from attrbind_exp.reporting.paper_tables import paper_table, read_runs, readable
    from attrbind_exp.reporting.tables import markdown
    from attrbind_exp.runs.store import write_text

    runs = read_runs(folder, splits)
    table = paper_table(runs, spec, splits[0] if len(splits) > 1 else None)
    model, title = runs[0].summary.model_name, spec.title or folder.name
    shown = markdown(readable(table, spec, blank="SD 1.5" if model == "bundled" else None))
    failed = sum(r.summary.n_failed for r in runs)
    facts = f"Model {model}; data {', '.join(r.summary.dataset for r in runs)}; {failed} failed."
    notes = sorted({f"NOTE: {r.summary.note}" for r in runs if r.summary.note})
    page = [f"## {title}", f"    {command(typed)}", shown, "  \n".join([facts, *notes])]
    write_text(folder / "results.md", "\n\n".join(page) + "\n")
    write_text(folder / "results.csv", table.to_csv(index=False))
    figures.paper_figure(table, title, model, folder / "results.png")
    print(f"\n{shown}")


def merge_shards(folder: Path) -> None:
    """One run of every set of shards in a sweep's folder, which stands for them in the sweep from then on."""
    from attrbind_exp.commands.merge import merge, shard_sets
    from attrbind_exp.runs.index import write_merged

    sets = {folder / name: shards for name, shards in shard_sets(folder).items()}
    for run, shards in sets.items():
        merge(shards, run)
        print(run)
    write_merged(folder, {run: list(shards.values()) for run, shards in sets.items()})
