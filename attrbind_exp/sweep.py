"""What a sweep leaves behind: once its runs are done, the table or figure that sweeps/*.yaml asks for."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from attrbind_exp.report import write_report
from attrbind_exp.types import UserError


class SweepReport(Callback):
    """Hydra calls it in the launching process when all runs of a multirun are done."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Write results.md, results.csv and results.png into the sweep's folder and print the table, where a table is
        asked for; report.html after every sweep."""
        folder = Path(config.hydra.sweep.dir)
        if config.get("report") is not None:
            spec: dict[str, Any] = OmegaConf.to_container(config.report, resolve=True)  # type: ignore[assignment]
            splits = str(config.dataset.splits).split(",")
            try:
                write_results(folder, spec, splits, list(config.hydra.overrides.task))
            except UserError as error:
                print(f"error: {error}", file=sys.stderr)
        write_report(folder)


def write_results(folder: Path, spec: Mapping[str, Any], splits: Sequence[str], typed: Sequence[str]) -> None:
    """Results of the runs below `folder` that the overrides `typed` made; of several splits the first chooses the
    thresholds of the others."""
    # Hydra makes the callback before every command; plots and tables load only when a sweep ends.
    from attrbind_exp.runs import figures
    from attrbind_exp.runs.results import paper_table, read_runs, readable
    from attrbind_exp.runs.store import write_text
    from attrbind_exp.runs.tables import markdown

    runs = read_runs(folder, splits, typed)
    table = paper_table(runs, spec, splits[0] if len(splits) > 1 else None)
    model = runs[0].summary["model_name"]
    shown = markdown(readable(table, spec, blank="SD 1.5" if model == "bundled" else None))
    failed = sum(r.summary["n_failed"] for r in runs)
    facts = f"Model {model}; data {', '.join(r.summary['dataset'] for r in runs)}; {failed} failed."
    notes = sorted({f"NOTE: {r.summary['note']}" for r in runs if r.summary["note"]})
    command = "python -m attrbind_exp.run " + shlex.join(o.replace("+sweeps=", "sweep=") for o in typed)
    page = [f"## {spec['title']}", f"    {command}", shown, "  \n".join([facts, *notes])]
    write_text(folder / "results.md", "\n\n".join(page) + "\n")
    write_text(folder / "results.csv", table.to_csv(index=False))
    figures.paper_figure(table, spec["title"], model, folder / "results.png")
    print(f"\n{shown}\n{folder}")
