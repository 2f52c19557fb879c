"""What a run says of itself while it runs."""

import json
import re

import msgspec
import pytest

from attrbind_exp.config import PACKAGE
from attrbind_exp.data.refer import load_refer
from attrbind_exp.edits import Variant
from attrbind_exp.evaluation.loop import score
from attrbind_exp.runs import progress
from attrbind_exp.runs.progress import Progress, read_progress
from attrbind_exp.runs.rows import ImageRow
from attrbind_exp.runs.store import RunStore
from attrbind_exp.tasks.settings import RunSettings
from tests.conftest import make_segmenter, make_variant
from tests.made_runs import expression_row

BASELINE = Variant("baseline")


def row(iou, variant=BASELINE):
    return expression_row((variant.name, variant.alpha), "7", iou)


def image_row():
    words = {"looked_for": {}, "classes": [0], "truth": [4], "predicted": [[4] * 101], "hit": [[4] * 101]}
    return ImageRow(image_id="7", text_processor="baseline", alpha=None, seed=0, **words)


def test_progress_counts_and_keeps_the_mIoU_of_the_headline(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "WRITE_EVERY", 0)
    monkeypatch.setattr(progress, "LOG_EVERY", 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    with RunStore(tmp_path, "key") as store:
        far = Progress(store, 8, BASELINE)
        assert far.mIoU is None
        far.update(2, [row(0.5)], fresh=False)
        assert read_progress(tmp_path) == {"done": 2, "total": 8, "mIoU": 50.0, "seconds_left": None}
        far.update(1, [row(0.25), row(0.9, Variant("other"))])
        assert read_progress(tmp_path)["done"] == 3 and read_progress(tmp_path)["mIoU"] == pytest.approx(37.5)
        assert read_progress(tmp_path)["seconds_left"] > 0
        unscored = msgspec.structs.replace(row(0.0), iou_at=None, intersection=None, union=None)
        far.update(1, [unscored, image_row()])  # without ground truth, or class-wise
        far.close()
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ started on \S+, process \d+, GPU 5: 8 images", lines[0])
    assert "3 of 8 images" in lines[2] and "s left, mIoU 37.5 so far" in lines[2]
    assert "ended: 4 of 8 images" in lines[-1]


def test_a_full_disk_is_not_for_progress_to_report(tmp_path, monkeypatch):
    with RunStore(tmp_path, "key") as store:
        far = Progress(store, 1, BASELINE)
        monkeypatch.setattr(store, "folder", tmp_path / "gone")
        far.update(1, [row(1.0)])
        far.close()


def test_no_file_and_a_torn_file_are_no_progress(tmp_path):
    assert read_progress(tmp_path) is None
    (tmp_path / "progress.json").write_text('{"done": 3, "to')
    assert read_progress(tmp_path) is None


def test_the_last_progress_of_a_run_is_its_summary(tmp_path, model):
    dataset = load_refer(str(PACKAGE / "assets"), "shapes", "made", "val", limit=9)
    settings = RunSettings([BASELINE, make_variant("ours", replace=True, alpha=0.9)], seeds=(0, 1), batch_size=4)
    with RunStore(tmp_path, "key") as store:
        scored = score(dataset, make_segmenter(model), settings, store)
    found = json.loads((tmp_path / "progress.json").read_text())
    assert found["mIoU"] == pytest.approx(scored.task.figures()[settings.headline].mIoU, abs=1e-4)
    assert found["done"] == found["total"] == len({s.image_id for s in dataset.samples}) and found["seconds_left"] == 0
