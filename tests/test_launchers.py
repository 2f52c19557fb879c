"""Sweeps: every run gets a GPU of its own, a lost run is named and the others finish, the same command goes on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from attrbind_exp import config
from attrbind_exp.commands import command_line
from attrbind_exp.runs.board import Board
from attrbind_exp.runs.index import Launched, read_launched
from attrbind_exp.types import UserError
from hydra_plugins.attrbind_exp_launchers.sweeper import missing_baselines
from tests.test_command import command

SMALL = ("tracker=none", "gallery=0", "changed=0", "dataset.limit=40", "batch_size=2")
ENDLESS = (*SMALL[:3], "batch_size=1")  # minutes


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        ("launcher=gpus", "hydra/launcher=gpus"),
        ("launcher.gpus=7", "hydra.launcher.gpus=7"),
        ("launcher=slurm", "hydra/launcher=slurm"),
        ("launcher.partition=long,short", "hydra.launcher.partition='long,short'"),
    ],
)
def test_launchers_are_options_like_any_other(typed, given):
    assert command_line.rewrite_arguments(["-m", typed, "hydra.sweep.dir=x"])[1] == given


def test_a_launcher_without_a_sweep_is_refused():
    with pytest.raises(UserError, match="launcher= is for sweeps; add -m"):
        command_line.rewrite_arguments(["launcher=gpus", "alpha=0.9"])
    assert command_line.rewrite_arguments(["launcher=gpus", "sweep=table3_alpha"])


def test_a_sweep_over_edits_lacks_a_baseline_for_each_setting_that_it_depends_on():
    def measured(job):
        return any(o in ("text_processor=paper", "text_processor=baseline") for o in job)

    def lacking(*jobs):
        return [" ".join(job) for job in missing_baselines([job.split() for job in jobs], measured)]

    assert lacking("alpha.value=0.1 seed=0", "alpha.value=0.9 seed=0") == ["seed=0 text_processor=baseline"]
    by_seed = [f"alpha.value={a} seed={s}" for a in (0.1, 0.9) for s in (0, 1)]
    assert lacking(*by_seed) == ["seed=0 text_processor=baseline", "seed=1 text_processor=baseline"]
    assert lacking("text_processor=noun_chunk", "text_processor=baseline") == []  # it is there
    assert lacking("text_processor=paper alpha.value=0.1", "text_processor=paper alpha.value=0.9") == []
    assert lacking("seed=0", "seed=1") == [] == lacking("alpha.value=0.9")  # no edits are compared
    # What the chunk is, does not matter to the baseline; which piece of the noun is read, does.
    same, read = "text_processor.chunk={}", "text_processor.token_pooling={}"
    assert lacking(same.format("noun_chunk"), same.format("subtree")) == ["text_processor=baseline"]
    assert lacking(read.format("mean"), read.format("last")) == []


def test_an_unknown_launcher_is_refused():
    with pytest.raises(
        UserError, match=r"unknown launcher 'gpu'; did you mean gpus\? choose from gpus, local, ray_cluster, slurm"
    ):
        command_line.rewrite_arguments(["launcher=gpu"])


def test_a_multirun_has_the_same_folder_every_time():
    first, *_ = (a for a in command_line.rewrite_arguments(["-m", "alpha=0.1,0.9", "tracker=none"]) if "sweep.dir" in a)
    assert first == "hydra.sweep.dir='outputs/sweep/alpha=0.1,0.9'"
    assert first in command_line.rewrite_arguments(["alpha=0.1,0.9", "launcher=gpus", "gallery=3", "--multirun"])
    given = command_line.rewrite_arguments(["-m", "alpha=0.1", "hydra.sweep.dir=elsewhere"])
    assert [a for a in given if "sweep.dir" in a] == ["hydra.sweep.dir='elsewhere'"]
    long = command_line.sweep_name(["dataset.fraction=" + ",".join(f"0.{i}" for i in range(100))])
    assert len(long) < 120 and long != command_line.sweep_name(
        ["dataset.fraction=" + ",".join(f"0.{i}" for i in range(99))]
    )
    assert "/" not in command_line.sweep_name(["dataset.root='/a b/c'"])


def launched(folder, alphas, *more):
    """The command of a sweep."""
    return ["-m", f"alpha={','.join(map(str, alphas))}", f"hydra.sweep.dir={folder}", *more]


@pytest.fixture
def start():
    """Start a run; whatever is left of it when the test ends, is ended."""
    started = []

    def begin(arguments, **how):
        started.append(subprocess.Popen([sys.executable, "-m", "attrbind_exp.run", *arguments], text=True, **how))
        return started[-1]

    yield begin
    for process in started:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


def wait_for(condition, process, seconds=600):
    """Poll until `condition()` is true and return what it returned; the process must be alive."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None and time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def log(folder):
    file = folder / "run.log"
    return file.read_text() if file.is_file() else ""


def spans(runs):
    """(GPU, begin, end) of every start that ended, from the runs' logs; times in seconds."""
    found = []
    for run in runs:
        for begin, gpu, end in re.findall(
            r"(\S+) started on .*?GPU (\S+):.*\n(?:.*so far\n)*?(\S+) ended", log(Path(run.folder))
        ):
            found.append((gpu, *(datetime.fromisoformat(t).timestamp() for t in (begin, end))))
    return found


@pytest.mark.parametrize(("gpus", "count"), [(2, 4), pytest.param(7, 10, marks=pytest.mark.slow)])
def test_a_killed_and_a_failed_run_do_not_end_a_sweep(tmp_path, start, gpus, count):
    alphas = [round(0.1 * (i + 1), 1) for i in range(count)]
    given = launched(tmp_path, alphas, "launcher=gpus", f"launcher.gpus={gpus}", *SMALL)
    folders = [tmp_path / f"alpha.value={a},batch_size=2,dataset.limit=40" for a in alphas]
    folders[1].mkdir(parents=True)
    with FileLock(folders[1] / ".lock"):  # as another process that works there: this run fails
        process = start(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        victim = wait_for(lambda: re.search(r"process (\d+)", log(folders[0])), process)
        os.kill(int(victim[1]), signal.SIGKILL)
        out, err = process.communicate(timeout=1200)
    assert process.returncode == 1, err
    baseline, *runs = read_launched(tmp_path)
    assert (baseline.name, baseline.state) == ("text_processor=baseline", "done")
    assert [r.state for r in runs] == ["failed", "failed", *["done"] * (count - 2)]
    assert "WorkerCrashed" in runs[0].error and "in use by another process" in runs[1].error
    for run in runs[:2]:
        assert f"failed: {run.name}: {run.error}\n  again: {run.command}" in err
    assert f"{runs[2].name}  done  mIoU" in out
    # One GPU a run, no GPU twice at a time. Times are whole seconds: an end may share its second with the next begin.
    found = spans(runs)
    assert len(found) == count - 2 and {gpu for gpu, *_ in found} <= set(map(str, range(gpus)))
    for i, (gpu, begin, end) in enumerate(found):
        assert not any(other == gpu and b < end and begin < e for other, b, e in found[i + 1 :])
    assert not any((folder / "summary.json").is_file() for folder in folders[:2])
    before = {f: (f / "summary.json").stat().st_mtime_ns for f in folders[2:]}
    assert start(given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).wait(timeout=1200) == 0
    assert [r.state for r in read_launched(tmp_path)] == ["done"] * (1 + count)
    assert {f: (f / "summary.json").stat().st_mtime_ns for f in before} == before
    assert all((folder / "summary.json").is_file() for folder in folders)


def test_ctrl_c_ends_a_sweep_and_leaves_no_process(tmp_path, start, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")  # nobody listens; this machine's GPUs need no Ray of others
    given = launched(tmp_path, [0.5, 0.9, 1], "launcher=gpus", "launcher.gpus=2", *ENDLESS)
    process = start(given, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for(lambda: len(list(tmp_path.glob("*/run.log"))) == 2, process)
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.wait(timeout=60) == 130
    assert "goes on from here" in process.stderr.read()
    assert psutil.wait_procs(family, timeout=15)[1] == []
    assert {r.state for r in read_launched(tmp_path)} == {"stopped"}
    assert (tmp_path / "alpha.value=0.5,batch_size=1").is_dir()


def test_a_local_sweep_goes_on_after_a_failed_run_and_repeats_no_finished_one(tmp_path):
    given = [*launched(tmp_path, [0.5, -1, 0.9], *SMALL[:3]), "dataset.limit=6"]
    for _ in range(2):
        code, out, err = command(*given)
        assert code == 1 and "failed: alpha=-1: alpha=-1; give a finite number >= 0" in err
        runs = read_launched(tmp_path)
        assert [r.name for r in runs] == ["text_processor=baseline", "alpha=0.5", "alpha=-1", "alpha=0.9"]
        assert [r.state for r in runs] == ["done", "done", "failed", "done"]
    assert out.count("finished before") == 3
    assert "Traceback" not in err


def test_slurm_jobs_by_submitit(tmp_path, start):
    """Processes of this machine stand for Slurm's; what they are asked for is checked apart."""
    here = ("launcher=slurm", "launcher.cluster=local", "launcher.gpus_per_node=null")
    process = start([*launched(tmp_path, [0.5, -1], *SMALL[:3]), "dataset.limit=6", *here], stderr=subprocess.PIPE)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 1 and "failed: alpha=-1: alpha=-1; give" in err
    assert [r.state for r in read_launched(tmp_path)] == ["done", "done", "failed"]
    assert len(list(tmp_path.glob("*/summary.json"))) == 2


def test_what_slurm_is_asked_for(tmp_path, monkeypatch):
    import submitit
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from hydra_plugins.attrbind_exp_launchers import _slurm

    monkeypatch.setattr(submitit.SlurmExecutor, "affinity", classmethod(lambda _: 1))  # as if there were sbatch
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        given = ["-m", "launcher=slurm", "launcher.partition=long", f"hydra.sweep.dir={tmp_path}"]
        _, *overrides = command_line.rewrite_arguments(given)
        cfg = compose("run", overrides=overrides, return_hydra_config=True)
    made = _slurm.executor(instantiate(cfg.hydra.launcher))._executor
    assert made.parameters["partition"] == "long" and made.parameters["gpus_per_node"] == 1
    assert made.parameters["time"] == 1440 and made.parameters["array_parallelism"] == 256


def test_the_board_tells_runs_by_what_is_swept_and_reads_how_far_they_are(tmp_path, capsys):
    runs = [Launched(f"alpha=0.{i}", str(tmp_path / str(i)), "again") for i in range(3)]
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "progress.json").write_text('{"done": 9, "total": 9, "mIoU": 50.0, "seconds_left": 0}')
    with pytest.raises(KeyboardInterrupt), Board(tmp_path, runs) as board:
        board.refresh()
        assert board.runs[0].state == "queued"  # that progress was an earlier start's
        (tmp_path / "1").mkdir()
        (tmp_path / "1" / "progress.json").write_text('{"done": 3, "total": 9, "mIoU": 25.0, "seconds_left": 6.2}')
        board.refresh()
        shown = {c.header: list(c.cells) for c in board._table().columns}
        assert (
            shown["images"] == ["", "3/9", ""]
            and shown["left"] == ["", "6 s", ""]
            and shown["mIoU"] == ["", "25.0", ""]
        )
        (tmp_path / "1" / "summary.json").write_text(json.dumps({"mIoU": 26.0}))
        board.set(1, "done")
        board.set(2, "failed", "no [bold]luck[/bold]")
        raise KeyboardInterrupt
    assert [r.state for r in read_launched(tmp_path)] == ["stopped", "done", "failed"]
    out = capsys.readouterr().out.splitlines()
    assert "run 2 of 3  alpha=0.1  done  mIoU 26.0" in out
    assert "run 3 of 3  alpha=0.2  failed  no [bold]luck[/bold]" in out


WITHOUT = """\
import sys
from pathlib import Path

import hydra_plugins

hydra_plugins.__path__ = [p for p in hydra_plugins.__path__ if Path(p, "attrbind_exp_launchers").is_dir()]


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"ray", "submitit"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Missing())
import runpy

runpy.run_module("attrbind_exp.run", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("launcher", "words"),
    [("gpus", "pip install hydra-ray-launcher ray"), ("ray_cluster", "pip install hydra-ray-launcher ray"), ("slurm", "pip install hydra-submitit-launcher submitit")],
)  # fmt: skip
def test_a_launcher_whose_packages_are_missing_says_how_to_get_them(tmp_path, launcher, words):
    given = ["-m", "seed=1,2", f"launcher={launcher}", f"hydra.sweep.dir={tmp_path / 'sweep'}", "tracker=none"]
    done = subprocess.run([sys.executable, "-c", WITHOUT, *given], capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"error: launcher={launcher} needs") and words in done.stderr
    assert read_launched(tmp_path / "sweep") == ()


def test_hydra_starts_without_ray_and_submitit(tmp_path):
    given = ["-m", "seed=1", "dataset.limit=2", "tracker=none", "gallery=0", "changed=0", f"hydra.sweep.dir={tmp_path}"]
    done = subprocess.run([sys.executable, "-c", WITHOUT, *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*/summary.json"))) == 1
