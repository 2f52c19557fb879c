"""Which runs belong to a sweep: sweep.json in its folder, written by the sweep itself.

A folder may hold other runs beside a sweep's own: a rescored one, or what an earlier command left. So readers ask here
and do not search. The last launch into a folder says what the sweep consists of.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from attrbind_exp.runs.store import write_text
from attrbind_exp.types import UserError

NAME = "sweep.json"


@dataclass
class Launched:
    """One run of a sweep: what sets it apart, its folder, how to start it alone, its state (queued, running, done,
    failed, stopped) and, where it failed, why; `note`: what else befell it, such as a node that was lost."""

    name: str
    folder: str
    command: str
    state: str = "queued"
    error: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class Merged:
    """A run that was made of shards: its folder and theirs."""

    folder: str
    shards: Sequence[str]


@dataclass(frozen=True)
class Sweep:
    """What sweep.json holds: the runs of the last launch, the runs that were merged from them, the command as typed."""

    runs: Sequence[Launched] = ()
    merged: Sequence[Merged] = ()
    command: str = ""


def sweep_runs(folder: Path) -> list[Path] | None:
    """Folders of the runs that the sweep in `folder` consists of, finished or not, in the order of the launch; None
    where no sweep was launched.

    Shards that were merged are parts and no runs: the merged run stands where its first shard stood.
    """
    if not (folder / NAME).is_file():
        return None
    sweep = read_sweep(folder)
    whole = {shard: merged.folder for merged in sweep.merged for shard in merged.shards}
    return [Path(run) for run in dict.fromkeys(whole.get(run.folder, run.folder) for run in sweep.runs)]


def read_sweep(folder: Path) -> Sweep:
    """What sweep.json in `folder` says, folders as full paths; an empty Sweep where there is none.

    Raises UserError where the file is torn.
    """
    file = folder / NAME
    if not file.is_file():
        return Sweep()
    try:
        found = msgspec.json.decode(file.read_bytes(), type=Sweep)
    except (ValueError, RecursionError) as error:  # no sweep, no UTF-8, nested without end
        raise UserError(
            f"'{file}' is not what a sweep writes ({error}); remove it and start the sweep again"
        ) from error

    def full(path: str) -> str:
        return str(folder.absolute() / path)

    return Sweep(
        [replace(run, folder=full(run.folder)) for run in found.runs],
        [Merged(full(m.folder), [full(shard) for shard in m.shards]) for m in found.merged],
        found.command,
    )


def read_launched(folder: Path) -> Sequence[Launched]:
    """The runs of the last launch as they were last seen; none where nothing was launched in `folder`."""
    return read_sweep(folder).runs


def write_launched(folder: Path, runs: Sequence[Launched], command: str = "") -> None:
    """Write down the runs of a launch. What an earlier launch merged is no part of it until it is merged again."""
    _write(folder, Sweep(runs, command=command))


def write_merged(folder: Path, merged: Mapping[Path, Sequence[Path]]) -> None:
    """Write down which runs were merged in a sweep's folder: {merged run: its shards}.

    Nothing is written where no sweep was launched, as when shards were started one by one.
    """
    if (folder / NAME).is_file():
        runs = [Merged(str(run.absolute()), [str(s.absolute()) for s in shards]) for run, shards in merged.items()]
        _write(folder, replace(read_sweep(folder), merged=runs))


def _write(folder: Path, sweep: Sweep) -> None:
    """Paths below `folder` are written as seen from it, so that a sweep may be moved or copied to another machine."""

    def inside(path: str) -> str:
        return os.path.relpath(path, folder.absolute()) if Path(path).is_relative_to(folder.absolute()) else path

    shown = Sweep(
        [replace(run, folder=inside(run.folder)) for run in sweep.runs],
        [Merged(inside(m.folder), [inside(shard) for shard in m.shards]) for m in sweep.merged],
        sweep.command,
    )
    write_text(folder / NAME, msgspec.json.format(msgspec.json.encode(shown), indent=2).decode() + "\n")
