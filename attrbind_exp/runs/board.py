"""What the runs of a sweep are doing: sweep.json on disk (runs.index), a table in the terminal.

A run's own folder says how far it is (progress.json); what it cannot say itself, that it was killed, is written here.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from attrbind_exp.runs.index import Launched, read_launched, write_launched
from attrbind_exp.runs.progress import FILE as PROGRESS
from attrbind_exp.runs.progress import read_progress
from attrbind_exp.runs.shown import clean

COLOURS = {"queued": "dim", "running": "yellow", "done": "green", "failed": "red", "stopped": "red"}


class Board:
    """The runs of one launch. `live`: a table that is redrawn in a terminal, else a line for every change.

    Hydra may launch a long sweep in several parts; `first` is how many runs of it were launched before these.
    `command` is the sweep's.
    """

    def __init__(self, folder: Path, runs: Sequence[Launched], live: bool = True, first: int = 0, command: str = ""):
        self.folder, self.runs, self.command = folder, list(runs), command
        self._before = read_launched(folder)[:first]
        self.console = Console()
        self._live = Live(console=self.console, auto_refresh=False) if live and self.console.is_terminal else None
        for run in self.runs:  # an earlier start's progress says nothing of this one
            (folder / run.folder / PROGRESS).unlink(missing_ok=True)

    def __enter__(self) -> "Board":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._save()
        if self._live:
            self._live.start()
            self.refresh()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            for number, run in enumerate(self.runs):
                if run.state in ("queued", "running"):
                    self.set(number, "stopped")
        if self._live:
            self.refresh()
            self._live.stop()

    def set(self, number: int, state: str, error: str | None = None) -> None:
        """A run's new state."""
        run = self.runs[number]
        if (run.state, run.error) == (state, error):
            return
        run.state, run.error = state, error
        self._save()
        if self._live:
            self.refresh()
        else:
            self.console.print(self._line(number), markup=False, highlight=False, soft_wrap=True)

    def again(self, number: int, why: str) -> None:
        """A run waits to be started once more; `why` stays written down, whatever becomes of it."""
        run = self.runs[number]
        (self.folder / run.folder / PROGRESS).unlink(missing_ok=True)
        run.note = why
        self.set(number, "queued")

    def refresh(self) -> None:
        """Look at the folders of the runs; redraw the table."""
        for number, run in enumerate(self.runs):
            if run.state == "queued" and read_progress(self.folder / run.folder):
                self.set(number, "running")
        if self._live:
            self._live.update(self._table(), refresh=True)

    def _line(self, number: int) -> str:
        run = self.runs[number]
        shown = [f"run {number + 1} of {len(self.runs)}", clean(run.name), run.state]
        mIoU = self._mIoU(run) if run.state == "done" else ""
        said = [clean(text, 2000) for text in (run.error, run.note) if text]
        return "  ".join(shown + ([f"mIoU {mIoU}"] if mIoU else []) + said)

    def _mIoU(self, run: Launched) -> str:
        file = self.folder / run.folder / "summary.json"
        found = json.loads(file.read_text(encoding="utf-8")) if run.state == "done" and file.is_file() else None
        value = (found or read_progress(self.folder / run.folder) or {}).get("mIoU")
        return "" if value is None else f"{value:.1f}"

    def _table(self) -> Table:
        counts = {state: sum(r.state == state for r in self.runs) for state in COLOURS}
        title = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
        table = Table("run", "state", "images", "left", "mIoU", title=title, title_justify="left")
        for run in self.runs:
            far = read_progress(self.folder / run.folder) or {}
            left = far.get("seconds_left") if run.state == "running" else None
            table.add_row(
                Text(clean(run.name)),  # brackets in a name are no markup
                f"[{COLOURS[run.state]}]{run.state}[/]",
                f"{far['done']}/{far['total']}" if far else "",
                "" if left is None else f"{left:.0f} s",
                self._mIoU(run),
            )
        return table

    def _save(self) -> None:
        write_launched(self.folder, [*self._before, *self.runs], self.command)
