"""Captions on disk, by digest, shared by many processes."""

import os
import sqlite3
import sys
from collections.abc import Collection, Mapping
from contextlib import closing
from pathlib import Path

TIMEOUT = 120.0  # seconds that a process waits for another one's write
VARIABLES = 500  # of one SQL statement; SQLite's own limit is 999 in old versions


class CaptionCache:
    """Text by key in one SQLite file of `folder`. Every write is one transaction: it is there whole or not at all.

    A file that is no database any more is put aside with a warning, and captions are made again.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "captions.sqlite"
        self.checked = False

    def get(self, keys: Collection[str]) -> dict[str, str]:
        """Those of `keys` that are known."""
        wanted = sorted(keys)
        found: dict[str, str] = {}
        with closing(self._open()) as database:
            for start in range(0, len(wanted), VARIABLES):
                part = wanted[start : start + VARIABLES]
                marks = ",".join("?" * len(part))
                found |= database.execute(f"SELECT key, caption FROM captions WHERE key IN ({marks})", part).fetchall()
        return found

    def put(self, captions: Mapping[str, str]) -> None:
        """Keep captions; one that another process kept meanwhile stays as it is."""
        with closing(self._open()) as database, database:
            database.executemany("INSERT OR IGNORE INTO captions VALUES (?, ?)", list(captions.items()))

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # locked, read-only, disk full: not the file's fault
            aside = self.file.with_suffix(f".broken-{os.getpid()}")
            os.replace(self.file, aside)
            print(f"WARNING: '{self.file}' is damaged ({error}); kept as '{aside}', captions are made again",
                  file=sys.stderr)  # fmt: skip
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.file, timeout=TIMEOUT)
        try:
            if not self.checked and database.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("the check of its pages fails")
            self.checked = True
            database.execute("CREATE TABLE IF NOT EXISTS captions (key TEXT PRIMARY KEY, caption TEXT NOT NULL)")
        except sqlite3.DatabaseError:
            database.close()
            raise
        return database
