"""How far long work is: a bar on a terminal, else a line every 30 s on stderr. Short work shows nothing of itself.

A bar is gone when its work is done, so what stays on the screen is what is printed. Rich draws it, and leaves colours
off where NO_COLOR asks for that.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from attrbind_exp.log import log, quiet

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

T = TypeVar("T")
DRAW_EVERY, SAY_EVERY = 0.1, 30.0  # seconds, on a terminal and without one
WAIT = 0.5  # seconds that work lasts before a bar is drawn


class Work:
    """Counts what is done of `total`, in `unit`s (floats too: GB). `what`: the work, in a word or two.

    total None: nobody knows how much there is; a terminal shows such work at once, since it may not count at all.
    `extra`: what the line says besides; may be changed at any time. Use it in a `with`, or close it.
    """

    def __init__(self, what: str, total: float | None = None, unit: str = "", extra: str = ""):
        self.what, self.total, self.unit, self.extra = what, total, unit, extra
        self.done: float = 0.0 if isinstance(total, float) else 0
        self.failed = 0
        self._before: float = 0
        self._start = time.monotonic()
        self._bar: tuple[Progress, TaskID] | None = None
        self._terminal = has_terminal()
        self._next = self._start + (WAIT if self._terminal else SAY_EVERY)
        if total is None and self._terminal:
            self._show(self._start)

    def __enter__(self) -> "Work":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def advance(self, n: float = 1, failed: int = 0, fresh: bool = True) -> None:
        """So much more is done, and so many of it failed. Not `fresh` is what an earlier start did: no part of the
        rate."""
        self.done += n
        self.failed += failed
        now = time.monotonic()
        if not fresh:
            self._before, self._start = self.done, now
        if now >= self._next:
            self._show(now)

    @property
    def rate(self) -> float | None:
        """Units a second, None where nothing was done yet."""
        return (self.done - self._before) / max(time.monotonic() - self._start, 1e-9) or None

    @property
    def seconds_left(self) -> float | None:
        """None where that cannot be told."""
        rate = self.rate
        return None if self.total is None or not rate else max(0.0, self.total - self.done) / rate

    def line(self) -> str:
        """ "640 of 1500 images, 12.3 images/s, 70 s left, 2 failed, mIoU 23.1 so far"."""
        rate, left = self.rate, self.seconds_left
        of = "" if self.total is None else f" of {_number(self.total)}"
        parts = [f"{_number(self.done)}{of} {self.unit}".rstrip()] if self.total is not None or self.done else []
        parts += [f"{f'{rate:.1f}' if rate >= 1 else f'{rate:.2g}'} {self.unit}/s"] if rate else []
        parts += [f"{duration(left)} left"] if left is not None else []
        parts += [f"{self.failed} failed"] if self.failed else []
        return ", ".join([*parts, self.extra] if self.extra else parts)

    def close(self) -> None:
        """Take the bar away."""
        self._next = float("inf")
        if self._bar is not None:
            bars, task = self._bar
            bars.remove_task(task)
            if not bars.tasks:
                bars.stop()
                _bars.cache_clear()  # the next ones ask anew what the terminal is like

    def _show(self, now: float) -> None:
        if quiet():
            self._next = float("inf")
        elif self._terminal:
            self._draw()
            self._next = now + DRAW_EVERY
        else:
            log.info(f"{self.what}: {self.line()}")
            self._next = now + SAY_EVERY

    def _draw(self) -> None:
        if self._bar is None:
            self._bar = _bars(), _bars().add_task(self.what, total=self.total, said="")
        bars, task = self._bar
        bars.update(task, completed=self.done, said=self.line())
        if not bars.live.is_started:
            bars.start()
            bars.console.show_cursor(True)  # which a killed process could not bring back
        bars.refresh()


def each(items: Iterable[T], what: str, unit: str, total: int | None = None) -> Iterator[T]:
    """The items, one by one, while it is shown how far they are. `total`: how many, where they have no length."""
    with Work(what, len(items) if isinstance(items, Sized) else total, unit) as work:
        for item in items:
            yield item
            work.advance()


def has_terminal() -> bool:
    """Whether stderr is a terminal on which a line can be drawn anew."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def duration(seconds: float) -> str:
    """ "70 s", "12 min", "3.2 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _number(value: float) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


@cache
def _bars() -> "Progress":
    """The bars of all work that goes on, one below the other."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    cut = Column(no_wrap=True, overflow="ellipsis")
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        TextColumn("{task.fields[said]}", markup=False, table_column=cut),
        console=Console(stderr=True),
        auto_refresh=False,  # drawn as work goes on, by no thread
        transient=True,
        redirect_stdout=False,  # results go where they always went
    )


def end() -> None:
    """Take all bars away: an error is about to be said."""
    if _bars.cache_info().currsize:
        _bars().stop()
