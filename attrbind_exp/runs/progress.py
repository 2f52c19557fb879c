"""How far a run is: a bar in a terminal, a line a minute in run.log, progress.json for who launched it."""

import json
import os
import platform
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from attrbind_exp.edits import Variant
from attrbind_exp.runs.rows import ExpressionRow, Row
from attrbind_exp.runs.store import RunStore, write_text
from attrbind_exp.scoring import metrics

FILE = "progress.json"
WRITE_EVERY, LOG_EVERY = 1.0, 60.0  # seconds


class Progress:
    """Counts images and keeps the mIoU so far of one variant (percent, at its best threshold; None class-wise, where it
    takes all images to know).

    progress.json holds {"done", "total", "mIoU", "seconds_left"}; it is written at most once a second.
    """

    def __init__(self, store: RunStore, total: int, headline: Variant):
        self.store, self.total, self.headline = store, total, headline
        self.done = self.before = 0
        self._start = time.monotonic()
        self._sum, self._n = np.zeros(len(metrics.GRID)), 0
        self._bar = tqdm(total=total, desc="images", unit="img", disable=None)
        self._written, self._logged = float("-inf"), time.monotonic()
        self._log(f"started on {place()}: {total} images")

    def update(self, images: int, rows: Iterable[Row], fresh: bool = True) -> None:
        """So many more images and their rows. Not `fresh` are those of an earlier start: no part of the rate."""
        headline = (self.headline.name, self.headline.alpha)
        for row in rows:
            if isinstance(row, ExpressionRow) and row.iou_at and (row.text_processor, row.alpha) == headline:
                self._sum += list(row.iou_at.values())
                self._n += 1
        self.done += images
        if fresh:
            self._bar.update(images)
        else:
            self.before += images
            self._start = time.monotonic()
            self._bar.n = self._bar.initial = self.before
        if self.mIoU is not None:
            self._bar.set_postfix_str(f"mIoU {self.mIoU:.1f}", refresh=False)
        now = time.monotonic()
        if now - self._written >= WRITE_EVERY or self.done == self.total:
            self._written = now
            self._write()
        if now - self._logged >= LOG_EVERY:
            self._logged = now
            self._log(self.line())

    @property
    def mIoU(self) -> float | None:
        """Of the images so far."""
        return float(100 * self._sum.max() / self._n) if self._n else None

    def line(self) -> str:
        """ "640 of 1500 images, 12.3 images/s, 70 s left, mIoU 23.1 so far"."""
        rate = self._rate()
        parts = [f"{self.done} of {self.total} images"]
        if rate:
            parts += [f"{rate:.1f} images/s", f"{(self.total - self.done) / rate:.0f} s left"]
        return ", ".join(parts + ([] if self.mIoU is None else [f"mIoU {self.mIoU:.1f} so far"]))

    def close(self) -> None:
        """The last line, whether all images were done or not."""
        self._bar.close()
        self._write()
        self._log(f"ended: {self.line()}")

    def _rate(self) -> float | None:
        return (self.done - self.before) / (time.monotonic() - self._start) or None

    def _write(self) -> None:
        rate = self._rate()
        left = (self.total - self.done) / rate if rate else None
        values = {"done": self.done, "total": self.total, "mIoU": self.mIoU, "seconds_left": left}
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
