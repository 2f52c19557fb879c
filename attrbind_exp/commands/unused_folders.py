"""Folders that a command made and in which nothing came to be: they are removed when it ends."""

from contextlib import suppress
from pathlib import Path

from filelock import Timeout

from attrbind_exp.runs.store import lock_folder

# What a run or a sweep that has scored nothing leaves behind: these files, and those of the second row while empty.
BEGUN = ("config_hash", "begun.txt", "provenance.jsonl", ".lock", "multirun.yaml")
UNFILLED = ("expressions.jsonl", "failures.jsonl", "seconds.txt", "command.log")

_missing: list[Path] = []  # folders that were not there when this command began, the innermost first


def note_missing(folder: Path) -> None:
    """Remember which of `folder` and those above it are not there yet."""
    path = folder.absolute()
    _missing.extend(p for p in (path, *path.parents) if not p.exists())


def note_made(folder: Path) -> None:
    """Remember a folder that is new."""
    _missing.insert(0, folder.absolute())


def remove_unused() -> None:
    """Remove the folders that this command made and in which nothing came to be."""
    while _missing:
        remove_if_unused(_missing.pop(0))


def remove_if_unused(folder: Path) -> None:
    """Remove a folder in which nothing came to be: it is empty, or holds what every run starts with. One in which
    another process is at work stays."""
    with suppress(OSError, Timeout):
        lock = lock_folder(folder) if (folder / ".lock").is_file() else None
        try:
            found = list(folder.iterdir())
            if not folder.is_symlink() and all(map(is_nothing, found)):
                for path in found:
                    path.rmdir() if path.is_dir() else path.unlink()
                folder.rmdir()
        finally:
            if lock is not None:
                lock.release()


def is_nothing(path: Path) -> bool:
    """Whether something in a run's folder says nothing of a result."""
    if path.is_dir():
        return path.name in ("gallery", ".submitit") and not any(path.iterdir())
    return path.name in BEGUN or (path.name in UNFILLED and not path.stat().st_size)
