"""A Slurm of this machine: sbatch, srun, sacct, scancel and scontrol that run jobs as processes, as far as submitit asks.

`install` puts the five commands into a folder for PATH; each calls this file with its own name. A job's state is a file
in $FAKE_SLURM. FAKE_SLURM_ENDS=STATE makes every job end in that state at once, with a line in its log.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

COMMANDS = ("sbatch", "srun", "sacct", "scancel", "scontrol")


def install(folder: Path) -> dict[str, str]:
    """Make the commands below `folder`; returns the variables that a process needs to find them."""
    (folder / "bin").mkdir(parents=True)
    (folder / "jobs").mkdir()
    for name in COMMANDS:
        command = folder / "bin" / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {__file__} {name} "$@"\n')
        command.chmod(0o755)
    return {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "FAKE_SLURM": str(folder / "jobs")}


def home() -> Path:
    return Path(os.environ["FAKE_SLURM"])


def sbatch(file: str) -> None:
    text = Path(file).read_text()
    if "--partition=nowhere" in text:
        sys.exit("sbatch: error: invalid partition specified: nowhere")
    number = 100 + len(list(home().glob("*.sh")))
    (home() / f"{number}.sh").write_text(text)
    array = re.search(r"--array=0-(\d+)", text)
    ids = [f"{number}_{i}" for i in range(int(array[1]) + 1)] if array else [str(number)]
    for job in ids:
        (home() / job).write_text("PENDING")
        log = (home() / f"{job}.log").open("a")
        supervise = [sys.executable, "-S", "-E", __file__, "supervise", job]
        subprocess.Popen(supervise, start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    print(f"Submitted batch job {number}")


def supervise(job: str) -> None:
    """Run a job until it ends, once more whenever it was put back."""
    number, _, index = job.partition("_")
    script = home() / f"{number}.sh"
    if ends := os.environ.get("FAKE_SLURM_ENDS"):
        error = re.search(r"--error=(\S+)", script.read_text())[1]
        error = Path(error.replace("%A", number).replace("%a", index).replace("%j", number).strip("'"))
        error.parent.mkdir(parents=True, exist_ok=True)
        error.write_text("slurmstepd: error: Detected 1 oom_kill event\n")
        (home() / job).write_text(ends)
        return
    told = {"SLURM_JOB_ID": number, "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"}
    if index:
        told |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": index}
    while True:
        process = subprocess.Popen(["bash", str(script)], env={**os.environ, **told})
        (home() / f"{job}.pid").write_text(str(process.pid))
        (home() / job).write_text("RUNNING")
        code = process.wait()
        again = home() / f"{job}.requeue"
        if not again.is_file():
            break
        again.unlink()
    (home() / job).write_text("COMPLETED" if code == 0 else "FAILED")


def srun(*given: str) -> None:
    given, files = list(given), {}
    while given[0].startswith("--"):
        option, _, value = given.pop(0).partition("=")
        if option in ("--output", "--error"):
            files[option] = value or given.pop(0)
    job = os.environ.get("SLURM_ARRAY_JOB_ID", os.environ["SLURM_JOB_ID"])
    names = {"%A": job, "%a": os.environ.get("SLURM_ARRAY_TASK_ID", ""), "%j": job, "%t": "0"}
    for stream, option in ((1, "--output"), (2, "--error")):
        for sign, value in names.items():
            files[option] = files[option].replace(sign, value)
        Path(files[option]).parent.mkdir(parents=True, exist_ok=True)
        os.dup2(os.open(files[option], os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.execvp(given[0], given)


def sacct(*_: str) -> None:
    print("JobID|State|NodeList")
    for file in home().iterdir():
        if not file.suffix:
            print(f"{file.name}|{file.read_text()}|here")


def scancel(job: str) -> None:
    for file in home().glob(f"{job}*.pid"):
        with_children = subprocess.run(["ps", "-o", "pid=", "--ppid", file.read_text()], capture_output=True, text=True)
        for pid in (file.read_text(), *with_children.stdout.split()):
            os.kill(int(pid), signal.SIGKILL)


def scontrol(_: str, job: str) -> None:
    (home() / f"{job}.requeue").touch()


if __name__ == "__main__":
    {f.__name__: f for f in (sbatch, srun, sacct, scancel, scontrol, supervise)}[sys.argv[1]](*sys.argv[2:])
