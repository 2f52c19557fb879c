"""Slurm: what sbatch is asked for, why a job came to nothing, and a job that runs out of time and goes on."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from attrbind_exp import config
from attrbind_exp.commands import command_line
from attrbind_exp.runs.index import read_launched
from tests import fake_slurm
from tests.test_command import command
from tests.test_tracker import inspect, run_files, told

submitit = pytest.importorskip("submitit")
SMALL = ("tracker=none", "gallery=0", "changed=0", "dataset.limit=2")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A Slurm of this machine."""
    for name, value in fake_slurm.install(tmp_path / "slurm").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(submitit.SlurmJob, "_results_timeout_s", 0)
    monkeypatch.setenv("PYTHONPATH", str(config.CONF.parent))
    return tmp_path / "slurm" / "jobs"


def sbatch_file(folder, *given):
    """The lines of a job's script."""
    from hydra_plugins.attrbind_exp_launchers import _slurm

    typed = ["-m", "seed=0", "launcher=slurm", *given, f"hydra.sweep.dir={folder}"]
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        _, *overrides = command_line.rewrite_arguments(typed)
        cfg = compose("run", overrides=overrides, return_hydra_config=True)
    made = _slurm.executor(instantiate(cfg.hydra.launcher))._executor
    return made._make_submission_file_text("run", "0").splitlines(), made


def test_every_key_reaches_sbatch(tmp_path, slurm):
    lines, made = sbatch_file(tmp_path)
    asked = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    expected = {"cpus-per-task=4", "gpus-per-node=1", "mem=32GB", "time=1440", "signal=USR2@180", "requeue", "nodes=1"}
    assert expected <= asked and made.max_num_timeout == 20
    assert not any(line.startswith(("partition", "account", "qos", "gres", "mail", "constraint")) for line in asked)
    (step,) = (line for line in lines if line.startswith("srun"))
    assert "--cpus-per-task=4" in step
    given = {"partition": "long", "account": "us", "qos": "high", "gres": "gpu:a100:1", "timeout_min": 60, "mem_gb": 8}
    given |= {
        "constraint": "a100",
        "exclude": "n[1-2]",
        "nodelist": "n7",
        "mail_user": "me@here",
        "mail_type": "END,FAIL",
    }
    given |= {"signal_delay_s": 300, "max_num_timeout": 3, "requeue": "false", "cpus_per_task": 9}
    given |= {"setup": "[module load cuda,ulimit -n 4096]", "additional_parameters": "{reservation: mine}"}
    lines, made = sbatch_file(tmp_path, *(f"launcher.{key}={value}" for key, value in given.items()))
    asked = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    expected = {"partition=long", "account=us", "qos=high", "gres=gpu:a100:1", "time=60", "mem=8GB", "constraint=a100"}
    expected |= {"exclude='n[1-2]'", "nodelist=n7", "mail-user=me@here", "mail-type=END,FAIL", "signal=USR2@300"}
    assert expected | {"reservation=mine", "cpus-per-task=9"} <= asked and made.max_num_timeout == 3
    assert not any(line.startswith(("gpus", "requeue")) for line in asked)  # gres says it all
    assert {"module load cuda", "ulimit -n 4096"} <= set(lines)


def test_what_sbatch_refuses_is_one_line(tmp_path, slurm):
    given = ["-m", "seed=0,1", "launcher=slurm", "launcher.partition=nowhere", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    code, _, err = command(*given, *SMALL)
    assert code == 2 and "sbatch: error: invalid partition specified: nowhere" in err, err
    assert err.strip().splitlines()[-1].startswith("error: Slurm takes no job")


def test_a_job_that_dies_names_its_state_its_last_line_and_its_log(tmp_path, slurm, monkeypatch):
    monkeypatch.setenv("FAKE_SLURM_ENDS", "OUT_OF_MEMORY")
    sweep = tmp_path / "sweep"
    code, _, err = command("-m", "seed=0,1", "launcher=slurm", f"hydra.sweep.dir={sweep}", *SMALL)
    runs = read_launched(sweep)
    assert code == 1 and [run.state for run in runs] == ["failed", "failed"], err
    log = sweep / ".submitit" / "100_1" / "100_1_0_log.err"
    assert runs[1].error == (
        f"the job ended as OUT_OF_MEMORY: slurmstepd: error: Detected 1 oom_kill event; its log: {log}"
    )
    assert log.is_file() and f"its log: {log}" in err


def test_a_result_that_was_cut_short_is_a_failed_run(tmp_path):
    """submitit's own job, done, with a file of its result that has no last bytes."""
    from hydra.core.utils import JobStatus

    from hydra_plugins.attrbind_exp_launchers import _slurm

    job = submitit.DebugJob.__new__(submitit.DebugJob)
    submitit.Job.__init__(job, tmp_path, "7_0")
    whole = submitit.core.utils.cloudpickle_dump(("success", list(range(1000))), job.paths.result_pickle)
    assert whole is None and job.paths.result_pickle.is_file()
    job.paths.result_pickle.write_bytes(job.paths.result_pickle.read_bytes()[:-9])
    job.results = lambda: submitit.Job.results(job)
    job.wait = lambda: None
    made = _slurm.return_of(job, ["seed=0"])
    assert made.status == JobStatus.FAILED and made.overrides == ["seed=0"]
    assert "its result cannot be read (" in made._return_value and str(job.paths.stderr) in made._return_value


@pytest.mark.slow
def test_a_job_out_of_time_goes_on_in_the_same_run_and_the_same_wandb_run(tmp_path, slurm, monkeypatch):
    """Two shards by two jobs, one of them told to stop half-way; half a minute."""
    sweep = tmp_path / "outputs" / "sweep" / "shards"
    small = ("gallery=0", "changed=0", "dataset.limit=40", "batch_size=1", "tracker.mode=offline")
    given = ["-m", "shard=0/2,1/2", "launcher=slurm", f"hydra.sweep.dir={sweep}", *small]
    started = [sys.executable, "-m", "attrbind_exp.run", *given]
    with subprocess.Popen(started, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        folder = sweep / "batch_size=1,dataset.limit=40,shard=0" / "2"
        rows = folder / "expressions.jsonl"
        end = time.monotonic() + 100
        while not (rows.is_file() and rows.stat().st_size):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        children = psutil.Process(int((slurm / "100_0.pid").read_text())).children(recursive=True)
        (job,) = (child for child in children if "submitit.core._submit" in child.cmdline())
        os.kill(job.pid, signal.SIGUSR2)
        _, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert [run.state for run in read_launched(sweep)] == ["done", "done"]
    assert len(re.findall("started on", (folder / "run.log").read_text())) == 2  # it was stopped, and went on
    assert (sweep / "merged,batch_size=1,dataset.limit=40" / "summary.json").is_file()
    records = [told(inspect(file)) for file in run_files(sweep)]
    evals = [run for run in records if run["job_type"] == "eval"]
    assert len(evals) == 3 and {run["run_group"] for run in records} == {"sweep/shards"}
    by_id = {}
    for run in evals:
        by_id.setdefault(run["run_id"], set()).add(run["display_name"])
    shared = "batch_size=1,dataset.limit=40,"
    assert sorted(map(sorted, by_id.values())) == [[f"{shared}shard=0/2"], [f"{shared}shard=1/2"]]
    assert Path(sweep / "report.html").is_file()
