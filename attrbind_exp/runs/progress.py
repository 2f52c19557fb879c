"""How far a run is: on the terminal (work.py), a line a minute in run.log, progress.json for who launched it."""

import json
import os
import platform
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from attrbind_exp.edits import Variant
from attrbind_exp.runs.rows import ExpressionRow, Row
from attrbind_exp.runs.store import RunStore, write_text
from attrbind_exp.scoring import metrics
from attrbind_exp.work import Work

FILE = "progress.json"
WRITE_EVERY, LOG_EVERY = 1.0, 60.0  # seconds


class Progress:
    """Counts images and keeps the mIoU so far of one variant (percent, at its best threshold; None class-wise, where it
    takes all images to know).

    progress.json holds {"done", "total", "mIoU", "seconds_left"}; it is written at most once a second.
    """

    def __init__(self, store: RunStore, total: int, headline: Variant):
        self.store, self.total, self.headline = store, total, headline
        self.work = Work("scoring", total, "images")
        self._sum, self._n = np.zeros(len(metrics.GRID)), 0
        self._written, self._logged = float("-inf"), time.monotonic()
        self._log(f"started on {place()}: {total} images")

    def update(self, images: int, rows: Iterable[Row], failed: int = 0, fresh: bool = True) -> None:
        """So many more images, their rows, and how much of them `failed`. Not `fresh` are those of an earlier start: no
        part of the rate."""
        headline = (self.headline.name, self.headline.alpha)
        for row in rows:
            if isinstance(row, ExpressionRow) and row.iou_at and (row.text_processor, row.alpha) == headline:
                self._sum += list(row.iou_at.values())
                self._n += 1
        if self.mIoU is not None:
            self.work.extra = f"mIoU {self.mIoU:.1f} so far"
        self.work.advance(images, failed, fresh)
        now = time.monotonic()
        if now - self._written >= WRITE_EVERY or self.work.done == self.total:
            self._written = now
            self._write()
        if now - self._logged >= LOG_EVERY:
            self._logged = now
            self._log(self.work.line())

    @property
    def mIoU(self) -> float | None:
        """Of the images so far."""
        return float(100 * self._sum.max() / self._n) if self._n else None

    def close(self) -> None:
        """The last line, whether all images were done or not."""
        self.work.close()
        self._write()
        self._log(f"ended: {self.work.line()}")

    def _write(self) -> None:
        work = self.work
        values = {"done": work.done, "total": work.total, "mIoU": self.mIoU, "seconds_left": work.seconds_left}
        with suppress(OSError):
            write_text(self.store.folder / FILE, json.dumps(values) + "\n")

    def _log(self, text: str) -> None:
        with suppress(OSError):  # on a full disk it is for the rows to speak up
            self.store.log(text)


def place() -> str:
    """The machine, process and GPU of this run, as CUDA_VISIBLE_DEVICES names it."""
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
    return f"{platform.node()}, process {os.getpid()}, GPU {'any' if gpu is None else gpu or 'none'}"


def read_progress(folder: Path) -> dict[str, float | None] | None:
    """progress.json of a run, None where there is none yet."""
    try:
        return json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
