"""tracker=csv, tensorboard and mlflow: what they are told reads back by hand, or by the reader that they come with."""

import csv
import json
import sys

import numpy as np
import pytest
from PIL import Image

from attrbind_exp.tracking.csv_tracker import CsvTracker
from attrbind_exp.tracking.mlflow_tracker import MlflowTracker
from attrbind_exp.tracking.tensorboard_tracker import TensorboardTracker
from attrbind_exp.types import UserError
from tests.conftest import picture
from tests.test_command import command

CONFIG = {"model": {"_target_": "x.Model", "name": "bundled"}, "alpha": 0.9, "empty": {}}
ABOUT = {"job": "eval", "name": "a name", "group": "sweep/alphas", "tags": ["tiny"]}


def tell(tracker, *points):
    """All that a run tells a tracker; what it says at the end."""
    for n, mIoU in points:
        tracker.log({"live/n_scored": n, "live/mIoU": mIoU})
    tracker.summary({"mIoU": 41.5, "kind = colour": 30.0, "dataset": "tiny"})
    tracker.curve("threshold_curve", "threshold", "mIoU", [0.3, 0.5], {"baseline": [20.0, 10.0], "ours": [None, 15.0]})
    tracker.table("expressions", ["expression", "IoU ours"], [['a "red", star', 0.5], ["two | lines\nof text", None]])
    tracker.images("gallery", {"a caption": tracker.test_picture})
    return tracker.close()


@pytest.fixture
def make(tmp_path):
    """A tracker of the folder "it's a run", with a picture to show."""
    folder = tmp_path / "it's a run"
    folder.mkdir()
    picture(10, 20).save(tmp_path / "x.png")

    def make(kind, **more):
        tracker = kind(folder=folder, run_config=CONFIG, **ABOUT, **more)
        tracker.test_picture = tmp_path / "x.png"
        return tracker

    return make


def read(file):
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def test_csv_of_two_starts_reads_back(make, tmp_path):
    tell(make(CsvTracker), (3, 40.0))
    tracker = make(CsvTracker)
    tracker.log({"live/n_scored": 5.0, "live/gpu_memory_GiB": 2.5})
    said = tell(tracker, (7, 41.0))
    folder = tmp_path / "it's a run" / "csv"
    assert said == f"figures as CSV: {folder}"
    live = [
        ["live/n_scored", "live/mIoU", "live/gpu_memory_GiB"],
        ["3", "40.0", ""],
        ["5.0", "", "2.5"],
        ["7", "41.0", ""],
    ]
    assert read(folder / "live.csv") == live
    assert read(folder / "summary.csv") == [
        ["name", "value"],
        ["mIoU", "41.5"],
        ["kind = colour", "30.0"],
        ["dataset", "tiny"],
    ]
    curve = [["threshold", "mIoU baseline", "mIoU ours"], ["0.3", "20.0", ""], ["0.5", "10.0", "15.0"]]
    assert read(folder / "threshold_curve.csv") == curve
    assert read(folder / "expressions.csv")[1:] == [['a "red", star', "0.5"], ["two | lines\nof text", ""]]


def test_a_run_is_told_to_csv_while_it_lasts_and_when_it_is_over(tmp_path, refer_folder):
    given = (
        f"dataset.root={refer_folder.parent}",
        "dataset.name=tiny",
        "gallery=0",
        "changed=0",
        "text_processor=paper",
    )
    code, out, err = command("tracker=csv", f"hydra.run.dir={tmp_path}", *given)
    assert code == 0 and f"figures as CSV: {tmp_path}/csv" in out, err
    summary = json.loads((tmp_path / "summary.json").read_text())
    figures = dict(read(tmp_path / "csv" / "summary.csv"))
    assert float(figures["mIoU"]) == summary["mIoU"] and int(figures["n_scored"]) == 5
    header, *_, last = read(tmp_path / "csv" / "live.csv")
    point = dict(zip(header, last, strict=True))
    head = summary["variants"][summary["headline"]]
    assert float(point["live/n_scored"]) == 5 and float(point["live/mIoU"]) == pytest.approx(head["mIoU_at"]["0.50"])
    header, *rows = read(tmp_path / "csv" / "expressions.csv")
    table = [dict(zip(header, row, strict=True)) for row in rows]
    ours = "attribute_binding alpha=0.9"
    expected = [float(row[f"IoU {ours}"]) - float(row["IoU baseline"]) for row in table]
    assert [float(row[f"difference {ours}"]) for row in table] == pytest.approx(expected) and len(rows) == 5


def test_tensorboard_reads_back_what_it_is_told(make, tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra [tensorboard]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tell(make(TensorboardTracker), (3, 40.0))
    said = tell(make(TensorboardTracker), (7, 41.0))
    assert said == f"""look at it by: tensorboard --logdir '{tmp_path}/it'"'"'s a run'"""
    kept = EventAccumulator(str(tmp_path / "it's a run" / "tensorboard"))
    kept.Reload()
    assert [(e.step, e.value) for e in kept.Scalars("live/mIoU")] == [(3, 40.0), (7, 41.0)]
    assert kept.Scalars("mIoU")[-1].value == 41.5 and "live/n_scored" not in kept.Tags()["scalars"]
    assert "_hparams_/session_start_info" in kept.summary_metadata
    assert b"model/name" in kept.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    (table,) = kept.Tensors("expressions/text_summary")[-1].tensor_proto.string_val
    assert table.decode().splitlines()[2:] == ['| a "red", star | 0.5 |', "| two \\| lines of text |  |"]
    image = kept.Images("gallery/a caption")[-1]
    assert (image.width, image.height) == (20, 10) and {"gallery/a caption", "threshold_curve"} == set(
        kept.Tags()["images"]
    )


def test_mlflow_keeps_one_run_of_two_starts_in_a_local_store(make, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="needs the extra [mlflow]")
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    for point in ((3, 40.0), (7, 41.0)):
        said = tell(make(MlflowTracker, uri=uri, artifacts=str(tmp_path / "kept")), point)
    assert said == f"look at it by: mlflow ui --backend-store-uri {uri}"
    client = mlflow.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("attrbind_exp").experiment_id])
    assert (run.info.run_name, run.info.status, run.data.tags["group"]) == ("a name", "FINISHED", "sweep/alphas")
    assert run.data.params == {"model/name": "bundled", "alpha": "0.9"} and run.data.tags["dataset"] == "tiny"
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "live/mIoU")] == [
        (3, 40.0),
        (7, 41.0),
    ]
    assert (run.data.metrics["mIoU"], run.data.metrics["kind _ colour"]) == (41.5, 30.0)
    table = json.loads(next((tmp_path / "kept").rglob("expressions.json")).read_text())
    assert table == {
        "columns": ["expression", "IoU ours"],
        "data": [['a "red", star', 0.5], ["two | lines\nof text", None]],
    }
    (shown,) = (tmp_path / "kept").rglob("gallery/*.png")
    assert np.asarray(Image.open(shown)).shape == (10, 20, 3)


@pytest.mark.parametrize(
    ("kind", "more", "module", "words"),
    [
        (TensorboardTracker, {}, "torch.utils.tensorboard", "tracker=tensorboard needs .* 'pip install tensorboard'"),
        (
            MlflowTracker,
            {"uri": "sqlite:///x.db"},
            "mlflow",
            "tracker=mlflow needs .* 'pip install .*importlib-metadata<10",
        ),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_gets_it(make, monkeypatch, kind, more, module, words):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=words):
        make(kind, **more)
