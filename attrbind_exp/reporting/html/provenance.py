"""Where the figures of a report come from: runs and their state, commands that make them again, settings, failures."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from attrbind_exp.reporting.html.folder import FolderRuns, Unfinished, read_config, without_merged_shards
from attrbind_exp.reporting.made_with import made_with
from attrbind_exp.runs.configuration import config_diff, flatten
from attrbind_exp.runs.ending import read_not_drawn
from attrbind_exp.runs.index import read_sweep
from attrbind_exp.runs.progress import read_progress
from attrbind_exp.runs.shown import shell_command
from attrbind_exp.types import Failure

FAILURES = 20  # listed of each run
NAMED = 5  # runs in a note


@dataclass(frozen=True)
class Link:
    """A run's folder: its name, and where it is, as seen from the page."""

    name: str
    href: str


@dataclass(frozen=True)
class RunRow:
    """A run in the table of runs; what an unfinished one does not know yet is None."""

    link: Link
    state: str
    done: str
    failed: int
    finished: bool = False
    mIoU: float | None = None
    unscored: int | None = None
    bound: int | None = None
    fallbacks: str = ""
    seconds: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Commands:
    """What to type to do it again: the sweep's command, None where there is none, and (name, command) of each run."""

    sweep: str | None
    runs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Settings:
    """Names of the runs, (key, value in each run) where they differ, and (name, text) of every run's config.yaml."""

    names: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    files: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class MadeWith:
    """Names of the runs, and (name, value in each run) of what they were made of and with; one value where all runs
    have the same."""

    names: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class Failed:
    """The failed samples of one run: how many, how many by reason, and the first of them."""

    name: str
    count: int
    reasons: Mapping[str, int]
    first: Sequence[Failure]


@dataclass(frozen=True)
class LeftOut:
    """Pictures that could not be drawn: how many, and a line on each of the first."""

    count: int
    first: Sequence[str]


def name(folder: Path, root: Path) -> str:
    """A run's folder as seen from the report's."""
    return str(folder.relative_to(root)) if folder != root else folder.name


def link(folder: Path, root: Path) -> Link:
    """A run's folder with its address."""
    href = "./" + quote("".join(f"{part}/" for part in folder.relative_to(root).parts))
    return Link(name(folder, root), href)


def file_address(file: Path, root: Path) -> str:
    """The address of a file as seen from the page."""
    return "./" + quote(file.relative_to(root).as_posix())


def runs(of: FolderRuns, root: Path) -> list[RunRow]:
    """One row a run: its state, counts, time, and where its files are."""
    standing = [run.folder for run in without_merged_shards(of.finished)]
    rows = [
        RunRow(
            link=link(run.folder, root),
            state="finished" if run.folder in standing else "a shard, merged",
            done=f"{run.summary.n_scored} {run.summary.scored}",
            failed=run.summary.n_failed,
            finished=True,
            mIoU=run.summary.mIoU,
            unscored=run.summary.n_unscored,
            bound=run.summary.n_bound,
            fallbacks=", ".join(f"{rule} {count}" for rule, count in run.summary.n_fallback.items()),
            seconds=run.summary.seconds,
        )
        for run in of.finished
    ]
    return rows + [_unfinished(run, root) for run in of.unfinished]


def _unfinished(run: Unfinished, root: Path) -> RunRow:
    far = read_progress(run.folder)
    done = f"{far['done']} of {far['total']} images" if far else f"{run.rows} rows"
    return RunRow(link=link(run.folder, root), state=run.state, done=done, failed=run.failed, error=run.error)


def commands(of: FolderRuns, root: Path) -> Commands:
    """How to make all of it again."""
    made = [(name(r.folder, root), r.summary) for r in of.finished]
    lines = [(n, shell_command(["python", "-m", f"attrbind_exp.{s.command}", *s.overrides])) for n, s in made]
    lines += [(name(r.folder, root), r.command) for r in of.unfinished if r.command]
    return Commands(read_sweep(root).command or None, lines)


def settings(of: FolderRuns, root: Path) -> Settings:
    """What the runs were told, and in what that differs."""
    every = [*(r.folder for r in of.finished), *(r.folder for r in of.unfinished)]
    folders = [f for f in every if (f / "config.yaml").is_file()]
    configs = {name(f, root): flatten(read_config(f)) for f in folders}
    rows = [(key, [_value(v) for v in values.values()]) for key, values in config_diff(configs).items()]
    files = [(name(f, root), (f / "config.yaml").read_text(encoding="utf-8")) for f in folders]
    return Settings(list(configs), rows, files)


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def made_with_table(of: FolderRuns, root: Path) -> MadeWith:
    """What the finished runs were made of and with, as far as they say."""
    told = {name(run.folder, root): made_with(run.summary) for run in of.finished}
    keys = dict.fromkeys(key for run in told.values() for key in run)
    rows = [(key, [run.get(key, "-") for run in told.values()]) for key in keys]
    return MadeWith(list(told), [(key, values[:1] if len(set(values)) == 1 else values) for key, values in rows])


def failures(of: FolderRuns, root: Path) -> list[Failed]:
    """The runs in which samples failed."""
    return [
        Failed(
            name(run.folder, root),
            run.summary.n_failed,
            run.summary.failures,
            list(islice(_failures(run.folder / "failures.jsonl"), FAILURES)),
        )
        for run in of.finished
        if run.summary.n_failed
    ]


def _failures(file: Path) -> Iterable[Failure]:
    if not file.is_file():
        return
    with open(file, "rb") as stream:  # bytes are cut at "\n" alone
        for line in stream:
            try:
                yield Failure(**json.loads(line))
            except (ValueError, TypeError, RecursionError):
                return  # torn


def left_out(of: FolderRuns, root: Path) -> LeftOut:
    """Pictures that finished runs could not draw."""
    found = [(name(run.folder, root), one) for run in of.finished for one in read_not_drawn(run.folder)]
    shown = [f"{picture.sample_id} of {picture.gallery} in {where}: {picture.message}" for where, picture in found]
    return LeftOut(len(found), shown[:FAILURES])


def notes(of: FolderRuns, root: Path) -> list[str]:
    """What a reader must know before believing the figures."""
    said = [r.summary.note for r in of.finished if r.summary.note]
    if any(r.summary.model_name == "bundled" for r in of.finished):
        said.append(
            "The bundled model is a tiny one that knows only drawn shapes: on photographs its figures mean nothing, "
            "and the height of its figures is not Stable Diffusion's."
        )
    changed = [name(r.folder, root) for r in of.finished if any(part.changed for part in r.summary.provenance)]
    if changed:
        more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        said.append(
            f"Made on a changed working tree, so that its commit alone does not make it again: "
            f"{', '.join(changed[:NAMED])}{more}."
        )
    if any(read_config(r.folder).get("shard") is not None for r in without_merged_shards(of.finished)):
        command = shell_command(["python", "-m", "attrbind_exp.merge", str(root)])
        said.append(f"Shards stand here one by one; to make one run of them: {command}")
    if of.unfinished:
        said.append(
            f"{len(of.unfinished)} of {len(of.unfinished) + len(of.finished)} runs are not finished (running, cut "
            "short or failed); the same command started again goes on with them."
        )
    return list(dict.fromkeys(said))
