"""What a search of constants leaves: its trials as a table, the best constants as an option of the group heatmap, and
both the authors' and the best beside each other."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from attrbind_exp.reporting.paper_tables import Run, read_runs
from attrbind_exp.reporting.tables import figure, markdown
from attrbind_exp.runs.store import write_text

TRIALS, OPTION, TABLE = "trials.csv", "tuned.yaml", "tuned.md"
HEAD = "# Constants of readings as a search found them, for nothing but this ({}).\n"
Method = Mapping[str, Any]  # a heat-map method of a configuration: _target_ and its fields
Trial = tuple[Mapping[str, Any], float | None]  # constants, mIoU


def write_trials(folder: Path, trials: Mapping[str, Sequence[Trial]]) -> None:
    """trials.csv: a line a trial, in the order in which each reading's were made; the first has the authors' constants,
    a failed one has no mIoU."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["heatmap", "trial", "mIoU", "constants"])
    for name, made in trials.items():
        for number, (constants, mIoU) in enumerate(made):
            lines.writerow([name, number, "" if mIoU is None else f"{mIoU:.4f}", json.dumps(constants)])
    write_text(folder / TRIALS, text.getvalue())


def write_tuned(
    folder: Path, own: Mapping[str, Method], tuned: Mapping[str, Method], splits: Sequence[str], about: str
) -> None:
    """tuned.yaml, an option of the group heatmap, and tuned.md, which is printed. `own`: the authors' methods by name;
    `tuned`: those of them for which something better was found, by a name that begins with theirs; `about`: what they
    were found on. The runs of the sweep in `folder` are read, one of each split: the first chooses thresholds."""
    write_text(folder / OPTION, HEAD.format(about) + yaml.safe_dump(dict(tuned), sort_keys=False))
    selection, *judging = read_runs(folder, splits)
    rows = []
    for name, method in own.items():
        better = next((other for other in tuned if other.startswith(f"{name}_tuned_on_")), None)
        changed = [key for key in (tuned[better] if better else {}) if method.get(key) != tuned[better or ""][key]]
        row = {"heatmap": name, "authors' constants": "", "tuned": "nothing better was found"}
        if better:
            row["authors' constants"] = _shown({key: method.get(key) for key in changed})
            row["tuned"] = _shown({key: tuned[better][key] for key in changed})
        for run in judging:
            before, after = (held_out(selection, run, heatmap, next(iter(own))) for heatmap in (name, better or name))
            row[f"mIoU, {run.split}"] = f"{figure(before)} -> {figure(after)}"
        rows.append(row)
    said = f"{about}. mIoU in percent, at thresholds chosen on {selection.split}."
    text = f"{markdown(pd.DataFrame(rows))}\n\n{said}\n"
    write_text(folder / TABLE, text)
    print(f"\n{text}")


def held_out(selection: Run, run: Run, heatmap: str, first: str) -> float | None:
    """A reading's mIoU in percent at the threshold that is best for it on another run. `first`: the runs' first
    reading, which heads them."""
    label = run.summary.head.label.replace(f"heatmap={first}", f"heatmap={heatmap}")
    chosen, judged = selection.summary.variant(label), run.summary.variant(label)
    if chosen is None or chosen.threshold is None or judged is None:
        return None
    return judged.mIoU_at.get(f"{chosen.threshold:.2f}")


def _shown(constants: Mapping[str, Any]) -> str:
    """Constants as they are typed; of those that are left to the model or the method "its own"."""
    return ", ".join(f"{key} {'its own' if value is None else value}" for key, value in constants.items())
