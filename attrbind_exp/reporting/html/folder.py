"""What stands below a folder: runs that are finished, runs that are not, runs that belong to something else."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from attrbind_exp.reporting.paper_tables import Run, in_order
from attrbind_exp.runs import rows as run_rows
from attrbind_exp.runs import summary as run_summary
from attrbind_exp.runs.configuration import LOADER, NAME, read_configuration
from attrbind_exp.runs.index import Launched, read_launched, sweep_runs
from attrbind_exp.runs.summary import read_summary
from attrbind_exp.types import UserError
from attrbind_exp.work import each

PARSES = "parses.csv"  # beside the summary.json of attrbind_exp.parse, which is no run's
STARTED = ("config_hash", run_rows.NAME)  # files of which a run leaves one as soon as it has begun

Config = Mapping[str, object]  # config.yaml of a run: what the command that made it was told


@dataclass(frozen=True)
class Unfinished:
    """A run without a summary: its `rows` and `failed` samples so far, and what its launcher says of it: `state`,
    `error` where it failed, `command` to start it alone."""

    folder: Path
    rows: int
    failed: int
    state: str = "not finished"
    error: str | None = None
    command: str | None = None


@dataclass(frozen=True)
class FolderRuns:
    """The runs of a folder: finished and unfinished ones, and the folders of `others`, which stand below a sweep but
    were not made by it (a run rescored there, say)."""

    finished: Sequence[Run]
    unfinished: Sequence[Unfinished]
    others: Sequence[Path] = ()


def read_folder(folder: Path) -> FolderRuns:
    """The runs of a run's or a sweep's folder. Raises UserError where there is none."""
    if not folder.is_dir():
        raise UserError(f"no folder '{folder}'; give the folder of a run or of a sweep")
    if _is_finished(folder):
        return FolderRuns([Run(folder, read_summary(folder))], _unfinished(_started(folder), {}))
    launched = {Path(run.folder).resolve(): run for run in read_launched(folder)}
    started, done = _started(folder), {f.parent for f in folder.glob(f"**/{run_summary.NAME}")}
    done -= {f for f in done if (f / PARSES).is_file()}
    made, others = sweep_runs(folder), set[Path]()
    if made is not None:
        belonging = {f.resolve() for f in made} | set(launched)  # the latter with the shards that were merged
        others = {f for f in started | done if f.resolve() not in belonging}
    unfinished = _unfinished((started - others) | set(launched), launched)
    files = sorted(f / run_summary.NAME for f in done - others)
    finished = [Run(f.parent, read_summary(f.parent)) for f in each(files, "reading summaries", "runs")]
    if not finished and not unfinished:
        raise UserError(f"no finished run below '{folder}': no {run_summary.NAME}; run the sweep first")
    splits = named_splits(finished[0]) if finished else []
    return FolderRuns(in_order(finished, splits), unfinished, sorted(others))


def _is_finished(folder: Path) -> bool:
    return (folder / run_summary.NAME).is_file()


def _started(folder: Path) -> set[Path]:
    """Folders that a run has begun to fill."""
    return {f.parent for name in STARTED for f in folder.glob(f"**/{name}")}


def _unfinished(folders: Iterable[Path], launched: Mapping[Path, Launched]) -> list[Unfinished]:
    """Those without a summary, some of which may have left nothing at all."""
    found = []
    for path in sorted(folders):
        if _is_finished(path):
            continue
        rows, failed = (_lines(path / name) for name in (run_rows.NAME, "failures.jsonl"))
        run = launched.get(path)
        # Of a launcher that was killed itself, "running" is its last word.
        state = run.state if run and run.state in ("failed", "stopped", "queued") else "not finished"
        error, command = (run.error, run.command) if run else (None, None)
        found.append(Unfinished(path, rows, failed, state, error, command))
    return found


def _lines(file: Path) -> int:
    if not file.is_file():
        return 0
    with open(file, "rb") as stream:
        return sum(line.endswith(b"\n") for line in stream)


def read_config(folder: Path) -> Config:
    """config.yaml of a run; empty where there is none."""
    if not (folder / NAME).is_file():
        return {}
    text = read_configuration(folder)
    try:
        found = yaml.load(text, LOADER)
    except (yaml.YAMLError, ValueError) as error:  # a date that is none
        raise UserError(
            f"cannot read '{folder / NAME}' ({' '.join(str(error).split())}); mend it or remove it"
        ) from error
    return found if isinstance(found, dict) else {}


def dataset_config(config: Config) -> Config:
    """The part of a run's configuration that says what data it was; empty where it says nothing."""
    found = config.get("dataset")
    return found if isinstance(found, dict) else {}


def named_splits(run: Run) -> list[str]:
    """The splits that a run's dataset has, the one that chooses thresholds for the others first."""
    return str(dataset_config(read_config(run.folder)).get("splits") or "").split(",")


def without_merged_shards(runs: Sequence[Run]) -> list[Run]:
    """The runs less the shards that were made one again: what they measured stands in the merged run."""
    configs = [read_config(run.folder) for run in each(runs, "reading settings", "runs")]
    whole = [{k: v for k, v in c.items() if k != "shard"} for c in configs]
    merged = [w for w, c in zip(whole, configs, strict=True) if c and c.get("shard") is None]
    return [run for run, w, c in zip(runs, whole, configs, strict=True) if c.get("shard") is None or w not in merged]
