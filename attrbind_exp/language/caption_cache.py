"""Captions on disk, in one SQLite file that many processes share."""

import hashlib
import os
import sqlite3
from collections.abc import Callable, Collection, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

from attrbind_exp.log import log

TIMEOUT = 120.0  # seconds that a process waits for another one's write
VARIABLES = 500  # in one SQL statement; old versions of SQLite allow 999
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
T = TypeVar("T")


class CaptionCache:
    """Captions by key, in `folder`/captions.sqlite.

    Every write is one transaction, so it is there whole or not at all. Each row holds a digest of itself. A row that
    does not fit its digest is not returned. A file that is no longer a database is renamed, with a warning, and a new
    one is begun. Where the file cannot be read or written (rights, a full disk), a warning says so, and the run goes on
    without.
    """

    def __init__(self, folder: Path):
        self.file = folder / "captions.sqlite"
        self._readable = self._writable = True

    def get(self, keys: Collection[str]) -> dict[str, str]:
        """The captions of those `keys` that the file has."""
        if not self._readable:
            return {}
        wanted = sorted(keys)

        def read(database: sqlite3.Connection) -> dict[str, str]:
            found: dict[str, str] = {}
            for start in range(0, len(wanted), VARIABLES):
                part = wanted[start : start + VARIABLES]
                marks = ",".join("?" * len(part))
                rows = database.execute(f"SELECT key, caption, digest FROM captions WHERE key IN ({marks})", part)
                found |= {key: caption for key, caption, digest in rows if digest == _digest(key, caption)}
            return found

        try:
            return self._with_database(read)
        except (sqlite3.Error, OSError) as error:
            self._readable = self._writable = False
            self._warn("read", error)
            return {}

    def put(self, captions: Mapping[str, str]) -> None:
        """Write captions by key; those of the same key are replaced."""
        if not self._writable:
            return
        rows = [(key, caption, _digest(key, caption)) for key, caption in captions.items()]
        try:
            self._with_database(lambda d: d.executemany("INSERT OR REPLACE INTO captions VALUES (?, ?, ?)", rows))
        except (sqlite3.Error, OSError) as error:
            self._writable = False
            self._warn("written", error)

    def _warn(self, done: str, error: sqlite3.Error | OSError) -> None:
        log.warning(f"WARNING: no captions are {done} in '{self.file}' ({error}); the run goes on without")

    def _with_database(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns. Where the file turns out to be damaged, it is renamed and `work` is done on a new
        one."""
        try:
            return self._attempt(work)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in DAMAGED:
                raise  # locked, read-only, disk full: not the file's fault
            aside = self.file.with_suffix(f".broken-{os.getpid()}")
            with suppress(FileNotFoundError):  # another process was first
                self.file.rename(aside)
            log.warning(f"WARNING: '{self.file}' is damaged ({error}); kept as '{aside}', captions are made again")
            return self._attempt(work)

    def _attempt(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns, done in one transaction."""
        if not self.file.exists():  # SQLite itself would let no colleague write, whatever the umask says
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.touch()
        with closing(sqlite3.connect(self.file, timeout=TIMEOUT)) as database, database:
            # Damaged bytes that are not text must fail their digest, not the whole query.
            database.text_factory = lambda raw: raw.decode(errors="replace")
            table = "captions (key TEXT PRIMARY KEY, caption TEXT NOT NULL, digest TEXT NOT NULL)"
            database.execute(f"CREATE TABLE IF NOT EXISTS {table}")
            return work(database)


def _digest(key: str, caption: str) -> str:
    return hashlib.sha256(f"{key}\0{caption}".encode()).hexdigest()
