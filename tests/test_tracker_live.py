"""Curves while a run lasts: what a tracker is told and when, that nothing it does holds up the loop, and one W&B run
over several starts."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from attrbind_exp.config import PACKAGE
from attrbind_exp.data.dataset import by_image
from attrbind_exp.data.refer import load_refer
from attrbind_exp.edits import Variant
from attrbind_exp.evaluation.loop import score
from attrbind_exp.runs.store import RunStore
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.tracking import live
from attrbind_exp.tracking.live import Live, live_curves
from attrbind_exp.tracking.tracker import NoTracker
from attrbind_exp.tracking.wandb_tracker import WandbTracker
from tests.conftest import make_segmenter
from tests.test_resume import SETTINGS, interrupted
from tests.test_tracker import inspect, run_files, told

TWO = RunSettings([Variant("baseline"), Variant("ours")])


class Clock:
    """Seconds that a test sets."""

    now = 100.0

    def __call__(self):
        return self.now


class Logged:
    """A tracker that keeps its points; `gate`: it takes none until that is set."""

    def __init__(self, gate=None):
        self.points, self.gate, self.reached = [], gate, threading.Event()

    def log(self, values):
        self.reached.set()
        if self.gate is not None:
            assert self.gate.wait(20)
        self.points.append(values)


def task(n, *curves):
    """A task that has scored n expressions; a curve (101,) a variant."""
    return SimpleNamespace(scored="expressions", tally=lambda: SimpleNamespace(n_scored=n), curve=curves.__getitem__)


RISING, FALLING = np.arange(101.0), 100 - np.arange(101.0)


@pytest.mark.parametrize(("threshold", "mIoU"), [(None, 50.0), (0.7, 30.0)])
def test_a_point_is_of_the_variant_that_heads_the_run_and_of_this_start_alone(threshold, mIoU):
    tracker, clock = Logged(), Clock()
    watch = Live(tracker, RunSettings(TWO.variants, threshold=threshold), clock)
    watch(task(40, RISING, FALLING), 1)  # by an earlier start
    clock.now += live.EVERY / 2
    watch(task(50, RISING, FALLING), 1)  # too early for a point
    clock.now += live.EVERY / 2
    watch(task(60, RISING, FALLING), 2)
    watch.close()
    watched = {"live/n_scored": 60, "live/failures": 2, "live/mIoU": mIoU, "live/expressions_per_s": 20 / live.EVERY}
    assert tracker.points == [watched] and next(iter(tracker.points[0])) == "live/n_scored"


def test_the_end_is_a_point_too_and_nothing_scored_has_no_mIoU():
    tracker, clock = Logged(), Clock()
    watch = Live(tracker, TWO, clock)
    watch(task(0), 0)
    clock.now += 1
    watch(task(0), 3)
    watch.close()
    assert tracker.points == [{"live/n_scored": 0, "live/failures": 3, "live/expressions_per_s": 0}]


def test_a_tracker_that_hangs_stops_nothing_and_hears_the_newest_when_it_is_back(monkeypatch, capsys):
    gate = threading.Event()
    tracker, clock = Logged(gate), Clock()
    watch = Live(tracker, TWO, clock)
    for n in range(5):
        clock.now += live.EVERY
        watch(task(n, RISING, RISING), 0)
        assert n == 0 or tracker.reached.wait(20)
    monkeypatch.setattr(live, "LAST", 0.01)
    watch.close()
    assert "the tracker did not take the live curves within" in capsys.readouterr().err
    gate.set()
    watch._figures.put(None)
    watch._thread.join()
    assert [point["live/n_scored"] for point in tracker.points] == [1, 4]


def test_a_tracker_that_fails_is_heard_of_once(capsys):
    class Broken:
        def log(self, values):
            raise ConnectionError("the service is gone")

    clock = Clock()
    watch = Live(Broken(), TWO, clock)
    for n in range(3):
        clock.now += live.EVERY
        watch(task(n, RISING, RISING), 0)
    watch.close()
    assert capsys.readouterr().err.count("warning: the tracker failed: the service is gone") == 1


def test_without_a_tracker_there_is_no_thread():
    before = threading.active_count()
    for tracker in (None, NoTracker()):
        with live_curves(tracker, TWO) as watch:
            watch(task(5), 0)
            assert threading.active_count() == before


def test_the_loop_tells_what_it_took_from_an_earlier_start_then_every_image(tmp_path, model):
    dataset = load_refer(str(PACKAGE / "assets"), "shapes", "made", "val", limit=20)
    images = list(by_image(dataset).values())
    interrupted(dataset, model, tmp_path, 2)
    heard = []
    store = RunStore(tmp_path, "key")
    score(
        dataset, make_segmenter(model), SETTINGS, store, watch=lambda task, n: heard.append((task.tally().n_scored, n))
    )
    store.close()
    # The last image that was written might be torn, and is done again.
    assert heard == [(sum(map(len, images[:done])), 0) for done in range(1, len(images) + 1)] and len(images) > 2


def points(run_file):
    """The points of an offline run in order, and what is drawn over what, as W&B's log has them."""
    records = inspect(run_file)
    values = [r["history"]["item"] for r in records if r["type"] == "history"]
    return values, {r["metric"]["name"]: r["metric"].get("step_metric") for r in records if r["type"] == "metric"}


def test_one_wandb_run_over_two_starts_drawn_over_what_is_scored(tmp_path):
    for n in (3, 7):
        tracker = WandbTracker(tmp_path, {}, "p", mode="offline", name="a name")
        tracker.log({"live/n_scored": n, "live/mIoU": 40.0 + n})
        said = tracker.close()
    assert said == f"W&B run kept offline; upload it by: wandb sync {tmp_path}/wandb"
    first, second = run_files(tmp_path)
    assert told(inspect(first))["run_id"] == told(inspect(second))["run_id"]
    assert told(inspect(first))["display_name"] == "a name"
    (value,), over = points(second)
    (earlier,), _ = points(first)
    assert over == {"live/n_scored": None, "live/mIoU": "live/n_scored"}
    assert (value["live/n_scored"], value["live/mIoU"]) == (7, 47.0) and value["_step"] > earlier["_step"]
