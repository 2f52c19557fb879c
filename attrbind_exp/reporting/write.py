"""Making report.html, and telling the tracker what it says."""

import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from attrbind_exp.log import log
from attrbind_exp.runs.ending import PAGE
from attrbind_exp.runs.shown import clean, shell_command
from attrbind_exp.runs.store import write_text
from attrbind_exp.tracking.tracker import Tracker, tell
from attrbind_exp.types import UserError

if TYPE_CHECKING:
    from attrbind_exp.reporting.html.collect import Paper

NAME = PAGE


def write_report(folder: Path, tracker: Tracker | None = None) -> Path | None:
    """Write report.html into the folder of a run or a sweep and return its path; where a tracker is given, log the same
    figures there.

    No run fails for want of its report: where it cannot be written, this prints why and the command to make it again,
    and returns None. What is no mendable error but a bug is printed with its traceback.
    """
    try:
        return make_report(folder, tracker)
    except Exception as error:
        if not isinstance(error, (UserError, OSError)):
            traceback.print_exc()
        again = shell_command(["python", "-m", "attrbind_exp.report", str(folder)])
        log.warning(f"warning: no report was written: {clean(str(error), 1000)}; to make it: {again}")
        return None


def make_report(folder: Path, tracker: Tracker | None = None) -> Path:
    """Write report.html. Raises UserError where the folder holds no run, OSError where it cannot be written."""
    # Runs call this when they are done; templates and pictures load only then.
    from attrbind_exp.reporting.html.collect import collect
    from attrbind_exp.reporting.html.page import make_page
    from attrbind_exp.reporting.track import track_sweep

    measured = collect(Path(folder), published())
    path = write_text(Path(folder) / NAME, make_page(measured))
    if tracker is not None:
        tell(partial(track_sweep, measured, tracker))
    return path


def published() -> "Paper":
    """The paper's figures by what is scored, from the sweeps that make its tables."""
    import yaml

    from attrbind_exp.paths import SWEEPS
    from attrbind_exp.reporting.paper_tables import read_spec

    sweeps = {"expressions": ("table3_alpha", "table4_ablation"), "images": ("table1_coco",)}
    found = {}
    for scored, names in sweeps.items():
        files = [yaml.safe_load((SWEEPS / f"{name}.yaml").read_text(encoding="utf-8")) for name in names]
        specs = [read_spec(file["report"]) for file in files]
        found[scored] = {label: figures for spec in specs for label, figures in spec.paper.items()}
    return found
