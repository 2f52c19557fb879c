"""--config-dir: options and Python files that lie outside the package."""

import json
import os
import shlex
import subprocess
import sys

import pytest

from attrbind_exp import config
from attrbind_exp.commands import command_line
from attrbind_exp.commands.own_folder import take_config_dir, use_config_dir
from attrbind_exp.paths import OWN_FOLDER, options
from attrbind_exp.runs.index import read_sweep, sweep_runs
from attrbind_exp.types import UserError
from tests.test_command import command, composed

EDIT = """\
defaults: [_common, _self_]
methods:
  - {name: mine, replace: true, average: true, alpha: 0.7}
"""
DATA = """\
_target_: my_data.load_backwards
root: ${asset:}
name: shapes
split_by: made
split: test
splits: test
limit: null
fraction: null
note: null
"""
LOADER = """\
from dataclasses import replace

from attrbind_exp.data.refer import load_refer


def load_backwards(**given):
    data = load_refer(**given)
    return replace(data, samples=data.samples[::-1])
"""
SMALL = ("tracker=none", "gallery=0", "changed=0", "dataset.limit=4")


@pytest.fixture
def own(tmp_path):
    """A user's folder, with a comma and "=" in its name, which paths may hold."""
    folder = tmp_path / "mine, v=2"
    for name, text in {"text_processor/mine.yaml": EDIT, "dataset/mine.yaml": DATA, "my_data.py": LOADER,
                       "attention_layers/mine.yaml": "ratios: [2]\nblocks: null\nweights: null\n",
                       "sweeps/mine.yaml": "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2'}}}\n"}.items():  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def ids(folder):
    return [json.loads(line)["sample_id"] for line in (folder / "expressions.jsonl").read_text().splitlines()]


def test_options_and_code_of_an_own_folder_run(tmp_path, own):
    given = ("--config-dir", str(own), "dataset=mine", "text_processor=mine", *SMALL)
    code, _, err = command(*given, f"hydra.run.dir={tmp_path / 'a'}")
    assert code == 0, err
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert (summary["text_processor"], summary["alpha"]) == ("mine", 0.7)
    assert summary["overrides"][:2] == [f"--config-dir={own}", "dataset=mine"]
    code, _, err = command("text_processor=mine", *SMALL, f"hydra.run.dir={tmp_path / 'b'}")
    assert code == 2 and "unknown text_processor 'mine'" in err  # nothing of it is left in this process
    assert str(own) not in sys.path and OWN_FOLDER not in os.environ


def test_a_sweep_over_own_options_names_the_folder_when_it_is_started_again(tmp_path, own):
    given = (
        f"--config-dir={own}",
        "-m",
        "text_processor=mine,baseline",
        "dataset=mine",
        f"hydra.sweep.dir={tmp_path / 's'}",
    )
    code, _, err = command(*given, *SMALL)
    assert code == 0, err
    assert [f.is_dir() for f in sweep_runs(tmp_path / "s")] == [True, True]
    sweep = read_sweep(tmp_path / "s")
    named = f"--config-dir={own}"
    for line in (sweep.command, *(run.command for run in sweep.runs)):
        words = shlex.split(line)
        assert words[:4] == ["python", "-m", "attrbind_exp.run", named]
    assert {"-m", "text_processor=mine,baseline"} <= set(shlex.split(sweep.command))


def test_an_own_folder_reaches_processes_that_are_started(tmp_path, own):
    look = "import my_data; from attrbind_exp.paths import options; print(options('dataset'))"
    with use_config_dir(own):
        done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True)
    assert "'mine'" in done.stdout, done.stderr


def test_runs_on_ray_and_slurm_find_the_own_folder(tmp_path, own):
    for launcher in ("launcher=gpus", "launcher=slurm"):
        here = ("launcher.cluster=local", "launcher.gpus_per_node=null") if launcher.endswith("slurm") else ()
        folder = tmp_path / launcher
        given = (
            launcher,
            *here,
            "--config-dir",
            str(own),
            "dataset=mine",
            "text_processor=mine",
            *SMALL,
            "-m",
            "seed=1",
        )
        done = subprocess.run(
            [sys.executable, "-m", "attrbind_exp.run", *given, f"hydra.sweep.dir={folder}"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert len(list(folder.glob("*/summary.json"))) == 1


def test_look_ups_of_options_see_the_own_folder(own):
    with use_config_dir(own):
        assert {"mine", "shapes"} <= set(options("dataset"))
        assert config.load_layers("mine").ratios == [2]
        assert command_line.rewrite_arguments(["sweep=mine"])[1:] == ["+sweeps=mine"]
        assert "mine" in config.grid_of(composed("attention_layers.grid=[all,mine]", "attention_layers=grid"))
    with pytest.raises(UserError, match="unknown sweep 'mine'"):
        command_line.rewrite_arguments(["sweep=mine"])


@pytest.mark.parametrize("module", ["segment", "parse", "doctor"])
def test_the_other_commands_take_it_too(tmp_path, own, module):
    extra = {"segment": [], "parse": ["dataset=mine", f"hydra.run.dir={tmp_path / 'out'}"],
             "doctor": ["dataset=mine", "sample=2", "tracker=none"]}[module]  # fmt: skip
    code, out, err = command("text_processor=mine", *extra, "--config-dir", str(own), module=module)
    if module == "segment":
        assert code == 2 and "no image given" in err  # it was composed
    else:
        assert code == 0, out + err


@pytest.mark.parametrize(
    ("typed", "words"),
    [(["--config-dir"], "names no folder"), (["--config-dir="], "names no folder"), (["--config-dir", "/nowhere"], "no folder at --config-dir='/nowhere'")],
)  # fmt: skip
def test_a_folder_that_is_not_there_ends_in_one_line(typed, words):
    code, out, err = command(*typed)
    assert (code, out) == (2, "") and words in err and len(err.splitlines()) == 1


def test_the_folder_is_taken_from_among_the_arguments(tmp_path):
    for typed in (["a=1", "--config-dir", "x=y", "b"], ["--config-dir=x=y", "a=1", "b"], ["a=1", "b", "-cd", "x=y"]):
        folder, rest = take_config_dir(typed)
        assert (str(folder), rest) == ("x=y", ["a=1", "b"])
    assert take_config_dir(["a=1"]) == (None, ["a=1"])
