"""docs/extend.md: its files are written as they stand there, its commands are run, and do what the page says."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from attrbind_exp.config import CONF

PAGE = CONF.parent / "docs" / "extend.md"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A folder with the page's files, after all of its commands: what each printed, by the name of its output folder.
    Pictures are drawn where the tracker is told of them."""
    if not PAGE.is_file():
        pytest.skip("docs/ is not in an installed package")
    folder, printed = tmp_path_factory.mktemp("extend"), {}
    for kind, title, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if title:
            file = folder / title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        elif kind == "bash":
            for line in text.strip().splitlines():
                words = [sys.executable, *shlex.split(line)[1:]]
                without = [] if "tracker=lines" in words else ["gallery=0", "changed=0"]
                done = subprocess.run([*words, *without], cwd=folder, capture_output=True, text=True, timeout=300)
                assert done.returncode == 0, done.stderr
                printed[Path(words[-1].partition("=")[2]).name] = done.stdout
        elif kind == "python":
            with_mine = {**os.environ, "PYTHONPATH": str(folder / "mine")}
            words = [sys.executable, "-c", text]
            done = subprocess.run(words, cwd=folder, env=with_mine, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
    return folder, printed


def summary(folder, name):
    return json.loads((folder / "out" / name / "summary.json").read_text())


def rows(folder, name):
    lines = (folder / "out" / name / "expressions.jsonl").read_text().split("\n")
    return [json.loads(line) for line in lines if line]


def test_an_edit_from_outside_stands_in_the_table_and_changes_only_what_is_bound(extended):
    folder, printed = extended
    assert "forget" in printed["forget"]
    by_method = {}
    for row in rows(folder, "forget"):
        by_method.setdefault(row["text_processor"], {})[row["sample_id"]] = row
    baseline, forget = by_method["baseline"], by_method["forget"]
    changed = [k for k in baseline if baseline[k]["intersection"] != forget[k]["intersection"]]
    assert changed and all(baseline[k]["bound"] for k in changed)
    assert any(not row["bound"] for row in baseline.values())


def test_a_reading_from_outside_stands_beside_ours(extended):
    folder, printed = extended
    found = {v["label"]: v["mIoU"] for v in summary(folder, "max_heads")["variants"]}
    read = [
        f"{label} heatmap={name}" for label in ("baseline", "text_blind") for name in ("diffsegmenter", "max_heads")
    ]
    assert list(found) == read and len(set(found.values())) == 4
    assert {row["heatmap"] for row in rows(folder, "max_heads")} == {"diffsegmenter", "max_heads"}
    assert "difference to baseline heatmap=diffsegmenter" in printed["max_heads"]
    several = {v["label"]: v["mIoU"] for v in summary(folder, "uniform")["variants"]}
    assert several["baseline"] != found["baseline heatmap=max_heads"]  # four resolutions, where the model reads one
    assert (folder / "max_heads.png").is_file()


def test_readings_from_outside_have_self_attention_and_losses(extended):
    folder, _ = extended
    found = [v["label"] for v in summary(folder, "mixed")["variants"]]
    names = ["diffsegmenter", "mixed", "doubted"]
    assert found == [f"{label} heatmap={name}" for label in ("baseline", "text_blind") for name in names]
    at = {(row["sample_id"], row["heatmap"]): row["intersection"] for row in rows(folder, "mixed")}
    samples = {sample for sample, _ in at}
    for one, other in (names[:2], names[1:]):
        assert any(at[sample, one] != at[sample, other] for sample in samples), (one, other)


def test_steps_and_refinements_from_outside_stand_in_labels_and_change_figures(extended):
    folder, _ = extended
    plain = summary(folder, "mixed")["mIoU"]
    for name, label in (("brighter", "baseline + brighter x1 size=1"), ("centred", "baseline refine=centred")):
        found = summary(folder, name)
        assert found["variants"][0]["label"] == label and found["n_failed"] == 0
        assert found["variants"][0]["mIoU"] != plain


def test_a_dataset_from_outside_is_scored(extended):
    folder, _ = extended
    found = summary(folder, "boxes")
    assert (found["dataset"], found["n_scored"], found["n_failed"]) == ("boxes", 2, 0)
    first = rows(folder, "boxes")[0]
    assert first["union"][0] == 128 * 128 and first["intersection"][0] == 64 * 128  # at threshold 0 all is mask


def test_a_metric_from_outside_has_a_row_with_its_interval(extended):
    folder, printed = extended
    values = [
        row["metrics"]["heat on the object"] for row in rows(folder, "inside") if row["text_processor"] == "baseline"
    ]
    figure = summary(folder, "inside")["variants"][0]["metrics"]["heat on the object"]
    assert figure["mean"] == pytest.approx(sum(values) / len(values)) and figure["n"] == len(values)
    assert figure["low"] < figure["mean"] < figure["high"]
    assert re.search(rf"heat on the object.*{figure['mean']:.1f} \[", printed["inside"])


def test_a_tracker_from_outside_is_told_everything(extended):
    folder, printed = extended
    lines = [json.loads(line) for line in (folder / "out" / "lines" / "tracked.jsonl").read_text().splitlines()]
    assert {"summary", "curve", "table", "images"} <= {line["kind"] for line in lines}
    told = next(line["value"] for line in lines if line["kind"] == "summary")
    assert told["mIoU"] == summary(folder, "lines")["mIoU"]
    assert "tracked in tracked.jsonl" in printed["lines"]


def test_a_sweep_over_options_from_outside_has_all_of_them(extended):
    folder, _ = extended
    runs = json.loads((folder / "out" / "sweep" / "sweep.json").read_text())["runs"]
    assert [run["state"] for run in runs] == ["done", "done"]
    assert all("--config-dir" in run["command"] for run in runs)
