"""A run that is cut short goes on, loses nothing, repeats nothing, and ends as if nothing had happened."""

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from attrbind_exp.config import PACKAGE
from attrbind_exp.data.coco import load_coco
from attrbind_exp.data.refer import load_refer
from attrbind_exp.edits import Variant
from attrbind_exp.evaluation.loop import score
from attrbind_exp.runs.store import RunStore
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.types import UserError
from tests.conftest import make_segmenter, make_variant
from tests.made_runs import expression_row
from tests.test_command import command, composed

VARIANTS = [Variant("baseline"), make_variant("ours", replace=True, alpha=0.9)]


def given(folder, *more, fraction=0.2):
    return [
        "tracker=none",
        "gallery=0",
        "changed=0",
        f"dataset.fraction={fraction}",
        "batch_size=4",
        f"hydra.run.dir={folder}",
        *more,
    ]


def content(folder):
    """All that a run leaves, timings and the place aside."""
    summary = json.loads((folder / "summary.json").read_text())
    summary.pop("seconds"), summary.pop("overrides")
    files = ("expressions.jsonl", "failures.jsonl", "ablation.md", "config_hash")
    return summary, {name: (folder / name).read_text() for name in files}


def load(root, name="tiny"):
    return load_refer(str(root.parent), name, "made", "test")


def told(scored):
    """All that a summary is made of."""
    return scored.task.figures(), scored.task.tally(), sorted(map(str, scored.failures))


def interrupted(dataset, model, folder, after):
    """Score until `after` images are written, then stop as a kill would."""
    store = RunStore(folder, "key")
    written = []

    def add_rows(rows):
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(RunStore.add_rows(store, rows))

    store.add_rows = add_rows
    with pytest.raises(KeyboardInterrupt):
        score(dataset, make_segmenter(model), SETTINGS, store)
    store.close()


SETTINGS = RunSettings(VARIANTS, batch_size=3, seeds=(0, 1))


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """The expressions of six images scored without interruption: (dataset, summary, rows)."""
    dataset = load_refer(str(PACKAGE / "assets"), "shapes", "made", "val", limit=35)
    assert len({s.image_id for s in dataset.samples}) == 6
    store = RunStore(tmp_path_factory.mktemp("whole"), "key")
    summary = told(score(dataset, make_segmenter(model), SETTINGS, store))
    store.close()
    return dataset, summary, (store.folder / "expressions.jsonl").read_bytes()


@pytest.mark.parametrize(("after", "torn"), [(0, b""), (1, b'{"image_id": "8", "samp'), (3, b"\xff\xfe"), (5, b"")])
def test_an_interrupted_evaluation_ends_as_an_uninterrupted_one(tmp_path, model, whole, after, torn):
    dataset, summary, rows = whole
    interrupted(dataset, model, tmp_path / "cut", after)
    with open(tmp_path / "cut" / "expressions.jsonl", "ab") as file:
        file.write(torn)
    store = RunStore(tmp_path / "cut", "key")
    segmenter = make_segmenter(model)
    passes = []
    complete = segmenter.complete
    segmenter.complete = lambda *a: passes.extend(a[1]) or complete(*a)
    assert told(score(dataset, segmenter, SETTINGS, store)) == summary
    store.close()
    assert (tmp_path / "cut/expressions.jsonl").read_bytes() == rows
    # Made again: what is missing, and the last image written, which might have been torn.
    assert len(set(passes)) == 6 - max(0, after - 1)


def test_an_interrupted_run_goes_on_with_another_batch_size(tmp_path, model, whole):
    dataset, summary, rows = whole
    interrupted(dataset, model, tmp_path / "cut", 3)
    store = RunStore(tmp_path / "cut", "key")
    found = score(dataset, make_segmenter(model), replace(SETTINGS, batch_size=7), store).task.figures()
    store.close()
    assert [v.n for v in found] == [v.n for v in summary[0]]
    assert found[-1].mIoU == pytest.approx(
        summary[0][-1].mIoU, abs=0.01
    )  # sums of another batch: a pixel at a threshold
    kept = (tmp_path / "cut/expressions.jsonl").read_bytes().splitlines()
    names = [
        [(r["sample_id"], r["text_processor"], r["seed"]) for r in map(json.loads, x)]
        for x in (kept, rows.splitlines())
    ]
    assert names[0] == names[1]
    first = {s.image_id for s in dataset.samples[:1]} | {dataset.samples[8].image_id}
    done = 4 * sum(s.image_id in first for s in dataset.samples)  # of two images under two variants and two seeds
    assert done == 44 and kept[:done] == rows.splitlines()[:done]  # not made again


def test_failures_are_neither_lost_nor_doubled(tmp_path, model, refer_folder):
    (refer_folder / "images" / "1.png").unlink()
    refs = json.loads((refer_folder / "refs(made).json").read_text())
    refs.append(refs[2])  # ids that stand twice
    (refer_folder / "refs(made).json").write_text(json.dumps(refs))
    settings = RunSettings(VARIANTS, batch_size=1)
    for _ in range(3):
        store = RunStore(tmp_path / "run", "key")
        scored = score(load(refer_folder), make_segmenter(model), settings, store)
        store.close()
        lines = (tmp_path / "run" / "failures.jsonl").read_text().splitlines()
        assert sorted(json.loads(line)["reason"] for line in lines) == ["duplicate_id"] * 2 + ["image_missing"] * 3
        assert len(scored.failures) == 5 and scored.task.tally().n_scored == 2


def test_class_wise_runs_go_on_too(tmp_path, model):
    cfg = composed("dataset=shapes_classes").dataset
    dataset = load_coco(cfg.root, cfg.split, annotations=cfg.annotations, images=cfg.images, limit=6)
    store = RunStore(tmp_path / "whole", "key")
    expected = told(score(dataset, make_segmenter(model), SETTINGS, store))
    store.close()
    interrupted(dataset, model, tmp_path / "cut", 4)
    store = RunStore(tmp_path / "cut", "key")
    assert told(score(dataset, make_segmenter(model), SETTINGS, store)) == expected
    store.close()
    assert (tmp_path / "cut/expressions.jsonl").read_bytes() == (tmp_path / "whole/expressions.jsonl").read_bytes()


def test_a_folder_of_another_configuration_is_refused_and_a_finished_one_is_left(tmp_path):
    arguments = given(tmp_path / "run", "dataset.limit=6")
    assert command(*arguments)[0] == 0
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "run").iterdir() if f.name != ".lock"}
    code, out, _ = command(*arguments)
    assert code == 0 and "finished before" in out and out.strip().splitlines()[-1] == str(tmp_path / "run")
    assert {f: f.stat().st_mtime_ns for f in before} == before
    code, _, err = command(*arguments, "alpha=0.5")
    assert code == 2 and "holds a run of another configuration" in err and "hydra.run.dir" in err


def test_two_processes_do_not_share_a_folder(tmp_path):
    store = RunStore(tmp_path / "run", "key")
    with pytest.raises(UserError, match="in use by another process"):
        RunStore(tmp_path / "run", "key")
    store.close()
    RunStore(tmp_path / "run", "key").close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full stands for a full disk, which is a Linux device")
def test_a_full_disk_is_named_and_rows_are_kept(tmp_path, monkeypatch):
    store = RunStore(tmp_path / "run", "key")
    store.add_rows([expression_row(("baseline", None), "1", 0.5)])
    with open("/dev/full", "wb", buffering=0) as full, monkeypatch.context() as patch:
        patch.setattr(store, "_rows", full)
        with pytest.raises(UserError, match="No space left on device; what was scored so far is kept"):
            store.add_rows([expression_row(("baseline", None), "2", 0.5)])
    store.close()
    (line,) = (tmp_path / "run" / "expressions.jsonl").read_text().splitlines()
    assert json.loads(line)["sample_id"] == "1"


def kill_and_restart(folder, kills, total, fraction=0.2):
    """Start the run, kill it at a random moment of its evaluation, `kills` times; then let it end. `total`: bytes of all
    rows, so that the kills are spread over the run. Returns how many found it alive."""
    hits = 0
    rng = random.Random(0)
    start = [sys.executable, "-m", "attrbind_exp.run", *given(folder, fraction=fraction)]
    for _ in range(kills):
        rows = folder / "expressions.jsonl"
        size = rows.stat().st_size if rows.is_file() else 0
        process = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        more = rng.randint(1, max(1, total // (2 * kills)))
        while process.poll() is None and time.monotonic() < deadline:
            if rows.is_file() and rows.stat().st_size >= size + more:
                break
            time.sleep(0.01)
        hits += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(start, capture_output=True).returncode == 0
    return hits


def test_kills_at_random_moments_change_nothing(tmp_path):
    assert command(*given(tmp_path / "whole"))[0] == 0
    total = (tmp_path / "whole" / "expressions.jsonl").stat().st_size
    assert kill_and_restart(tmp_path / "killed", 3, total) == 3
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path):
    # Every start makes a batch at least: there must be many more of them than kills.
    assert command(*given(tmp_path / "whole", fraction=0.8))[0] == 0
    total = (tmp_path / "whole" / "expressions.jsonl").stat().st_size
    assert kill_and_restart(tmp_path / "killed", 20, total, fraction=0.8) == 20
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
