"""Which runs belong to a sweep: written down by it, whatever else lies in its folder."""

import json
import shutil

import pytest

from attrbind_exp.runs.board import Board
from attrbind_exp.runs.index import NAME, Launched, read_launched, sweep_runs, write_launched, write_merged
from attrbind_exp.types import UserError
from tests.test_command import command

SWEEP = (
    "sweep=table2_refcoco", "dataset=shapes", "model=bundled", "tracker=none", "gallery=0", "changed=0", "keep_maps=true",
)  # fmt: skip


def test_a_rescored_run_changes_nothing_in_the_sweep_it_lies_in(tmp_path):
    given = (*SWEEP, "dataset.limit=12", f"hydra.sweep.dir={tmp_path}")
    assert command(*given)[0] == 0
    before = {name: (tmp_path / name).read_text() for name in ("results.md", "results.csv")}
    (val,) = tmp_path.glob("*split=val*")
    code, _, err = command(str(val), "attention_layers=eighth", module="rescore")
    assert code == 0, err
    (rescored,) = val.glob("rescored/*/summary.json")
    heads = [json.loads(f.read_text())["threshold"] for f in (val / "summary.json", rescored)]
    assert heads[0] != heads[1]  # it would choose another threshold for test
    assert command(*given)[0] == 0  # every run is finished: only the results are made anew
    assert {name: (tmp_path / name).read_text() for name in before} == before


def runs(folder, *names):
    return [Launched(name, str(folder / name), f"run {name}") for name in names]


def test_the_runs_of_the_last_launch_are_the_sweeps_in_their_order(tmp_path):
    assert sweep_runs(tmp_path) is None and read_launched(tmp_path) == ()
    with Board(tmp_path, runs(tmp_path, "b", "a")):
        assert sweep_runs(tmp_path) == [tmp_path / "b", tmp_path / "a"]
    with Board(tmp_path, runs(tmp_path, "c", "a")) as board:  # another value, one was taken away
        board.set(1, "done")
    assert sweep_runs(tmp_path) == [tmp_path / "c", tmp_path / "a"]
    assert [(r.name, r.state) for r in read_launched(tmp_path)] == [("c", "queued"), ("a", "done")]


def test_launches_of_one_sweep_that_come_in_turn_add_up(tmp_path):
    with Board(tmp_path, runs(tmp_path, "a")) as board:
        board.set(0, "failed", "why")
    with Board(tmp_path, runs(tmp_path, "b"), first=1) as board:
        board.set(0, "done")
    assert [(r.name, r.state, r.error) for r in read_launched(tmp_path)] == [
        ("a", "failed", "why"),
        ("b", "done", None),
    ]


def test_a_merged_run_stands_for_its_shards(tmp_path):
    write_merged(tmp_path, {tmp_path / "merged": [tmp_path / "0"]})
    assert not (tmp_path / NAME).exists()  # nothing was launched here
    write_launched(tmp_path, runs(tmp_path, "v0", "v1", "t0", "t1", "whole"))
    parts = {tmp_path / f"merged,{x}": [tmp_path / f"{x}{k}" for k in "01"] for x in "vt"}
    write_merged(tmp_path, parts)
    assert sweep_runs(tmp_path) == [*parts, tmp_path / "whole"]
    write_launched(tmp_path, runs(tmp_path, "v0", "v1"))  # until they are merged again
    assert sweep_runs(tmp_path) == [tmp_path / "v0", tmp_path / "v1"]


def test_a_sweep_may_be_moved(tmp_path):
    (tmp_path / "here").mkdir()
    write_launched(tmp_path / "here", [*runs(tmp_path / "here", "a"), *runs(tmp_path, "elsewhere")])
    write_merged(tmp_path / "here", {tmp_path / "here" / "merged": [tmp_path / "here" / "a"]})
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert sweep_runs(tmp_path / "there") == [tmp_path / "there" / "merged", tmp_path / "elsewhere"]


def test_a_torn_list_is_named(tmp_path):
    (tmp_path / NAME).write_text('{"runs": [')
    with pytest.raises(UserError, match=r"sweep\.json' is not what a sweep writes"):
        sweep_runs(tmp_path)
