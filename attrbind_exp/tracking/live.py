"""What a tracker is told while a run lasts: curves over the number of expressions scored, off the loop's path."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from queue import Empty, Full, Queue
from threading import Thread

from attrbind_exp.log import log
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.tasks.task import Task
from attrbind_exp.tracking.tracker import NoTracker, Tracker, tell

STEP = "live/n_scored"  # what the curves are drawn over
EVERY = 5.0  # seconds from one call of the tracker to the next, at least
LAST = 10.0  # seconds that the end of the loop waits for what was not told yet, at most
THRESHOLD = 0.5  # of the running mIoU where the run has none of its own

Watch = Callable[[Task, int], None]  # is given the task so far, and how many failures there were


@contextmanager
def live_curves(tracker: Tracker | None, settings: RunSettings) -> Iterator[Watch]:
    """What the loop calls after every image: it tells the tracker how the run stands, and never waits for it."""
    if tracker is None or isinstance(tracker, NoTracker):
        yield lambda *_: None
        return
    live = Live(tracker, settings)
    try:
        yield live
    finally:
        live.close()


class Live:
    """Reads the figures so far every few seconds; a thread of its own tells them to the tracker.

    The thread holds one set of figures at most: those that it has not taken yet are replaced by newer ones. So a
    tracker that is slow or hangs costs points of the curves, and the loop no time.
    """

    def __init__(self, tracker: Tracker, settings: RunSettings, clock: Callable[[], float] = time.monotonic):
        self._tracker, self._clock = tracker, clock
        self._variant = settings.headline % len(settings.variants)
        self._threshold = THRESHOLD if settings.threshold is None else settings.threshold
        self._last: tuple[float, int, int] | None = None  # when figures were read last: time, scored, failed
        self._now: tuple[Task, int] | None = None
        self._figures: Queue[Mapping[str, float] | None] = Queue(maxsize=1)
        self._thread = Thread(target=self._tell_all, name="tracker", daemon=True)
        self._thread.start()

    def __call__(self, task: Task, n_failed: int) -> None:
        """Look at the clock; where it is time, read the figures and hand them over."""
        self._now = task, n_failed
        now = self._clock()
        if self._last is None:  # what an earlier start of the run scored is no part of the rate
            self._last = now, task.tally().n_scored, n_failed
        elif now - self._last[0] >= EVERY:
            self._hand_over(task, n_failed, now)

    def close(self) -> None:
        """Hand over the last figures. Waits LAST seconds at most."""
        if self._now is not None and self._last is not None:
            task, n_failed = self._now
            if (task.tally().n_scored, n_failed) != self._last[1:]:
                self._hand_over(task, n_failed, self._clock())
        end = time.monotonic() + LAST
        with suppress(Full):
            self._figures.put(None, timeout=LAST)
            self._thread.join(max(0.0, end - time.monotonic()))
        if self._thread.is_alive():
            log.warning(f"warning: the tracker did not take the live curves within {LAST:.0f} s")

    def _hand_over(self, task: Task, n_failed: int, now: float) -> None:
        assert self._last is not None
        then, n_before, _ = self._last
        n_scored = task.tally().n_scored
        self._last = now, n_scored, n_failed
        figures = {STEP: float(n_scored), "live/failures": float(n_failed)}
        if n_scored:
            figures["live/mIoU"] = float(task.curve(self._variant)[round(100 * self._threshold)])
        if now > then:
            figures[f"live/{task.scored}_per_s"] = (n_scored - n_before) / (now - then)
        with suppress(Empty):
            self._figures.get_nowait()
        self._figures.put_nowait(figures)  # nobody else puts

    def _tell_all(self) -> None:
        """What the thread does: tell what comes, until None does or the tracker fails."""
        going = True
        while (figures := self._figures.get()) is not None:
            if going:
                going, _ = tell(partial(self._tracker.log, {**figures, **gpu_memory()}))


def gpu_memory() -> dict[str, float]:
    """GiB of the GPU's memory that this process holds; nothing without a GPU in use."""
    torch = sys.modules.get("torch")  # a run has loaded it; what has not needs no GPU
    if torch is None or not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return {}
    return {"live/gpu_memory_GiB": torch.cuda.memory_reserved() / 2**30}
