"""A run's folder: the only place that writes into it."""

import json
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from attrbind_exp.runs import rows, summary
from attrbind_exp.runs.rows import Row
from attrbind_exp.runs.shown import clean
from attrbind_exp.runs.summary import Summary
from attrbind_exp.types import Failure, UserError

FAILURES = "failures.jsonl"


def picture_folder(folder: str | os.PathLike) -> Path:
    """A folder for pictures, made where it is missing. Raises UserError where it cannot be."""
    path = Path(folder).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to the folder '{path}': {error.strerror}") from error
    return path


def write_text(path: Path, text: str) -> Path:
    """Write a small file whole or not at all. Half a surrogate pair, which UTF-8 cannot hold, becomes its escape."""
    scratch = path.with_name(path.name + ".partial")
    scratch.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(scratch, path)
    return path


def finished(folder: str | os.PathLike, key: str) -> Summary | None:
    """The summary of a run that was finished in this folder under the same key, else None."""
    if not (Path(folder) / summary.NAME).is_file():
        return None
    found = summary.read_summary(Path(folder))
    return found if found.config_hash == key else None


def read_failures(folder: Path) -> list[Failure]:
    """The failures that a run's folder names. Raises UserError where they cannot be read."""
    try:
        with open(folder / FAILURES, "rb") as stream:  # bytes are cut at "\n" alone
            return _decode_failures(stream)
    except OSError as error:
        raise UserError(f"cannot read the failures of the run at '{folder}': {error.strerror}") from error


def _decode_failures(lines: Iterable[bytes]) -> list[Failure]:
    return [Failure(**json.loads(line)) for line in lines if line.endswith(b"\n")]


class RunStore:
    """Files of one run: config_hash, config.yaml, expressions.jsonl, failures.jsonl, summary.json, run.log, gallery/.

    Rows reach the disk as they come; the summary appears whole or not at all. A folder in which a run of the same `key`
    (the hash of all that can change a figure) was cut short is resumed: `read_rows` gives what is there, `keep` says
    how much of it holds. Raises UserError where the folder cannot be written, holds a run of another key, or is in
    use by another process.
    """

    def __init__(self, folder: str | os.PathLike, key: str):
        self.folder = Path(folder).absolute()
        try:
            (self.folder / "gallery").mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / ".lock")
            self._lock.acquire(timeout=0)
            self._claim(key)
            self._rows = open(self.folder / rows.NAME, "a+b")  # noqa: SIM115
            self._failures = open(self.folder / FAILURES, "a+b")  # noqa: SIM115
        except Timeout as error:
            raise UserError(
                f"the run folder '{self.folder}' is in use by another process; wait for it, or give another "
                "hydra.run.dir"
            ) from error
        except OSError as error:
            raise UserError(f"cannot write to the run folder '{self.folder}': {error.strerror}") from error

    def _claim(self, key: str) -> None:
        file = self.folder / "config_hash"
        if file.is_file() and file.read_text(encoding="utf-8").strip() != key:
            raise UserError(
                f"the run folder '{self.folder}' holds a run of another configuration (its config.yaml has hash "
                f"{file.read_text(encoding='utf-8').strip()}, this one {key}); give another hydra.run.dir, or remove it"
            )
        write_text(file, key + "\n")

    def read_rows(self) -> Iterator[tuple[Row, int]]:
        """Rows of an earlier start of this run, each with where it ends in the file. A torn last line is left out."""
        self._rows.seek(0)
        return rows.read_rows(self._rows, self.folder / rows.NAME)

    def read_failures(self) -> list[Failure]:
        """Failures of an earlier start of this run."""
        self._failures.seek(0)
        return _decode_failures(self._failures)

    def keep(self, end: int) -> None:
        """Keep the first `end` bytes of the rows and none of the failures; what follows is written anew, the summary
        too."""
        (self.folder / summary.NAME).unlink(missing_ok=True)
        self._rows.truncate(end)
        self._failures.truncate(0)

    def add_rows(self, found: Iterable[Row]) -> None:
        """Rows of one image, flushed together."""
        self._write(self._rows, rows.encode_rows(found))

    def add_failures(self, failures: Iterable[Failure]) -> None:
        """Samples that could not be scored."""
        lines = (json.dumps(vars(failure), ensure_ascii=False) for failure in failures)
        # Half a surrogate pair becomes its JSON escape, so it is read back as it was.
        self._write(self._failures, b"".join(line.encode("utf-8", "backslashreplace") + b"\n" for line in lines))

    def _write(self, file: BinaryIO, lines: bytes) -> None:
        try:
            file.write(lines)
            file.flush()
        except OSError as error:
            raise UserError(
                f"cannot write to the run folder '{self.folder}': {error.strerror}; what was scored so far is kept, "
                "mend that and start the same command again"
            ) from error

    def write_text(self, name: str, text: str) -> Path:
        """A small file, written whole or not at all."""
        return write_text(self.folder / name, text)

    def log(self, text: str) -> None:
        """A line with its time in run.log."""
        with open(self.folder / "run.log", "a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {clean(text, 1000)}\n")

    def write_summary(self, found: Summary) -> Path:
        """summary.json."""
        return self.write_text(summary.NAME, summary.encode_summary(found))

    def gallery_path(self, name: str, number: int) -> Path:
        """Where picture `number` of a gallery goes."""
        return self.folder / "gallery" / f"{name}_{number:03d}.png"

    def __enter__(self) -> "RunStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files and leave the folder to others."""
        self._rows.close()
        self._failures.close()
        self._lock.release()
