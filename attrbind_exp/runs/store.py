"""A run's folder: the only place that writes into it."""

import errno
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec
from filelock import FileLock, Timeout

from attrbind_exp import __version__
from attrbind_exp.log import log
from attrbind_exp.runs import configuration, provenance, rows, summary
from attrbind_exp.runs.provenance import Part
from attrbind_exp.runs.rows import Row
from attrbind_exp.runs.shown import clean
from attrbind_exp.runs.summary import Summary
from attrbind_exp.types import Failure, UserError

FAILURES = "failures.jsonl"
SECONDS = "seconds.txt"
BEGUN = "begun.txt"
MOST_KEYS = 5  # named of those in which two configurations differ
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # what file systems without locks answer


def picture_folder(folder: str | os.PathLike) -> Path:
    """A folder for pictures, made where it is missing. Raises UserError where it cannot be."""
    path = Path(folder).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to the folder '{path}': {error.strerror}") from error
    return path


def write_whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Make a file that is there whole or not at all, and return its path: `write` is told a scratch name beside it,
    which then becomes `path`. Where the disk refuses that, nothing is left under the scratch name."""
    scratch = path.with_name(path.name + ".partial")
    try:
        write(scratch)
        os.replace(scratch, path)
    except OSError:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise
    return path


def write_text(path: Path, text: str) -> Path:
    """Write a small file whole or not at all. Half a surrogate pair, which UTF-8 cannot hold, becomes its escape."""
    return write_whole(path, lambda to: to.write_text(text, encoding="utf-8", errors="backslashreplace"))


def lock_folder(folder: Path) -> FileLock:
    """The lock of a run's folder, held. On a file system without locks nobody holds it, and a warning says so. Raises
    Timeout where another process holds it."""
    lock = FileLock(folder / ".lock", fallback_to_soft=False)  # a file that stands for a lock would outlive a kill
    try:
        lock.acquire(timeout=0)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.warning(
            f"WARNING: no locks on the file system of '{clean(str(folder), 5000)}' ({error.strerror}): nothing keeps "
            "a second process out of this run's folder; start none there"
        )
    return lock


def finished(folder: str | os.PathLike, key: str) -> Summary | None:
    """The summary of a run that was finished in this folder under the same key, else None."""
    if not (Path(folder) / summary.NAME).is_file():
        return None
    found = summary.read_summary(Path(folder))
    return found if found.config_hash == key else None


def read_failures(folder: Path) -> list[Failure]:
    """The failures that a run's folder names. Raises UserError where they cannot be read."""
    file = folder / FAILURES
    try:
        with open(file, "rb") as stream:
            return _decode_failures(stream, file)
    except OSError as error:
        raise UserError(f"cannot read the failures of the run at '{folder}': {error.strerror}") from error


def encode_failure(failure: Failure) -> bytes:
    """The line of a failure. Half a surrogate pair, which a damaged id may hold, becomes its JSON escape, so that it is
    read back as it was."""
    return json.dumps(vars(failure), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _decode_failures(lines: Iterable[bytes], file: Path) -> list[Failure]:
    """The failures of some lines; a torn last one is left out. Raises UserError naming `file` and the line."""
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            break
        try:
            # json reads half a surrogate pair; msgspec checks the fields.
            found.append(msgspec.convert(json.loads(line), Failure))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise UserError(
                f"'{file}' line {number} is no failure that this version writes ({error}); remove the folder and run "
                "again"
            ) from error
    return found


class RunStore:
    """Files of one run: config_hash, config.yaml, begun.txt, provenance.jsonl, expressions.jsonl, failures.jsonl,
    seconds.txt, summary.json, run.log, gallery/.

    Rows reach the disk as they come; the summary appears whole or not at all. A folder in which a run of the same `key`
    (the hash of all that can change a figure) was cut short is resumed: `read_rows` gives what is there, `keep` says
    how much of it holds; `begun` is when the run was started first, in seconds since 1970. `yaml`: the configuration
    under that key. Raises UserError where the folder cannot be written, holds a run of another key (then it says in
    what the configurations differ), or is in use by another process.
    """

    def __init__(self, folder: str | os.PathLike, key: str, yaml: str = ""):
        self.folder = Path(folder).absolute()
        try:
            (self.folder / "gallery").mkdir(parents=True, exist_ok=True)
            self._lock = lock_folder(self.folder)
            self._claim(key, yaml)
            self.begun = self._read_begun()
            self._rows = open(self.folder / rows.NAME, "a+b")  # noqa: SIM115
            self._failures = open(self.folder / FAILURES, "a+b")  # noqa: SIM115
            (self.folder / SECONDS).touch()
            self._seconds = open(self.folder / SECONDS, "r+b", buffering=0)  # noqa: SIM115
        except Timeout as error:
            raise UserError(
                f"the run folder '{self.folder}' is in use by another process; wait for it, or give another "
                "hydra.run.dir"
            ) from error
        except OSError as error:
            raise UserError(f"cannot write to the run folder '{self.folder}': {error.strerror}") from error

    def _claim(self, key: str, yaml: str) -> None:
        file = self.folder / "config_hash"
        if file.is_file() and file.read_text(encoding="utf-8").strip() != key:
            raise UserError(
                f"the run folder '{self.folder}' holds a run of another configuration: {self._differing(yaml)}; put "
                "that back, give another hydra.run.dir, or remove the folder"
            )
        write_text(file, key + "\n")

    def _differing(self, yaml: str) -> str:
        """In what the configuration in the folder differs from `yaml`, or what else its key counts."""
        try:
            found = configuration.differing(configuration.read_configuration(self.folder), yaml)
            parts = provenance.read_parts(self.folder)
        except UserError:
            found, parts = [], []
        if parts and parts[-1].identity.version != __version__:
            found.insert(0, f"version {parts[-1].identity.version} / {__version__}")
        if not found:
            return "files that it names (overrides, captions, labels, a table) or this package were changed"
        more = f" and {len(found) - MOST_KEYS} more" if len(found) > MOST_KEYS else ""
        return clean(", ".join(found[:MOST_KEYS]) + more, 1000) + " (there / here)"

    def has_rows(self) -> bool:
        """Whether an earlier start of this run has left rows."""
        return (self.folder / rows.NAME).stat().st_size > 0

    def write_parts(self, parts: Iterable[Part]) -> None:
        """Write down what all parts of the run were made with."""
        with self._saying_what_to_mend():
            self.write_text(provenance.NAME, provenance.encode_parts(parts))

    def _read_begun(self) -> float:
        """When the run was started first, in seconds since 1970; 0 where that cannot be known any more."""
        file = self.folder / BEGUN
        if not file.is_file() and not (self.folder / rows.NAME).exists():
            write_text(file, f"{time.time():.0f}\n")
        try:
            return float(file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return 0.0

    def read_rows(self) -> Iterator[tuple[Row, int]]:
        """Rows of an earlier start of this run, each with where it ends in the file. A torn last line is left out."""
        self._rows.seek(0)
        return rows.read_rows(self._rows, self.folder / rows.NAME)

    def read_failures(self) -> list[Failure]:
        """Failures of an earlier start of this run."""
        self._failures.seek(0)
        return _decode_failures(self._failures, self.folder / FAILURES)

    def read_seconds(self) -> float:
        """What `write_seconds` wrote in an earlier start of this run, else 0."""
        self._seconds.seek(0)
        text = self._seconds.read(100).strip()
        try:
            seconds = float(text or 0)
            if not 0 <= seconds < float("inf"):
                raise ValueError(seconds)
            return seconds
        except ValueError as error:
            raise UserError(
                f"'{self.folder / SECONDS}' holds no number; remove that file and start the same command again"
            ) from error

    def write_seconds(self, seconds: float) -> None:
        """How long scoring has taken so far, over all starts of this run."""
        with self._saying_what_to_mend():
            self._seconds.seek(0)
            self._seconds.write(f"{seconds:020.3f}\n".encode())  # always of one length, so that nothing is cut

    def keep(self, end: int, failures: Iterable[Failure] = ()) -> None:
        """Keep the first `end` bytes of the rows, and these failures alone; what follows is written anew.

        The failures are replaced in one step and before the rows are cut: at no moment are fewer on the disk. The
        summary goes first, it is written anew too.
        """
        with self._saying_what_to_mend():
            (self.folder / summary.NAME).unlink(missing_ok=True)
            file = self.folder / FAILURES
            lines = b"".join(map(encode_failure, failures))
            write_whole(file, lambda to: to.write_bytes(lines))
            self._failures.close()
            self._failures = open(file, "a+b")  # noqa: SIM115
            self._rows.truncate(end)

    def add_rows(self, found: Iterable[Row]) -> None:
        """Rows of one image, flushed together."""
        self._write(self._rows, rows.encode_rows(found))

    def add_failures(self, failures: Iterable[Failure]) -> None:
        """Samples that could not be scored."""
        self._write(self._failures, b"".join(map(encode_failure, failures)))

    def _write(self, file: BinaryIO, lines: bytes) -> None:
        with self._saying_what_to_mend():
            file.write(lines)
            file.flush()

    @contextmanager
    def _saying_what_to_mend(self) -> Iterator[None]:
        try:
            yield
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
        self._seconds.close()
        self._lock.release()
