"""Launchers whose sweeps survive a lost run: it is one failed run, named, and all others finish.

Hydra ends a sweep at the first failed run before its callbacks hear of it. So each launcher writes what became of every
run to sweep.json (`runs.board`), hands Hydra the runs that are done, and `sweep.SweepReport` names the failed ones and
makes the exit code. Ray and submitit load when they are used: Hydra imports this file for every command.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_ray_launcher.ray_launcher import RayLauncher as HydraRayLauncher
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from omegaconf import DictConfig, OmegaConf, open_dict

POLL = 1.0  # seconds
Launcher = Any  # Hydra's class says nothing of `config` and `hydra_context`, which all of its launchers have


class LocalLauncher(BasicLauncher):
    """One run after another in this process."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Hydra's own launcher, run by run."""
        with open_board(self, job_overrides, initial_job_idx, live=False) as board:
            returns: list[JobReturn] = []
            for number, overrides in enumerate(job_overrides):
                board.set(number, "running")
                returns += super().launch([overrides], initial_job_idx + number)
                settle(board, number, returns[-1])
        return completed(returns)


class RayLauncher(HydraRayLauncher):
    """One run a GPU, the others queued; on a machine without GPUs one run for every `cpus_per_run` cores.

    `gpus`: how many there are, None = as many as Ray finds. In a cluster (`ray.init.address`) Ray knows.
    """

    def __init__(self, ray: DictConfig, gpus: int | None = None, cpus_per_run: int = 1) -> None:
        super().__init__(ray)
        self.gpus, self.cpus_per_run = gpus, cpus_per_run

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Start all runs and wait; Ctrl-C ends them all."""
        from hydra_plugins.attrbind_exp_launchers import _ray

        configs = compose(self, job_overrides, initial_job_idx)
        with open_board(self, job_overrides, initial_job_idx) as board:
            returns = _ray.launch(self, configs, board)
        return completed(returns)


class SlurmLauncher(BaseSubmititLauncher):
    """One Slurm job a run, by submitit. `cluster`: slurm, or local for processes of this machine."""

    def __init__(self, cluster: str = "slurm", **params: Any) -> None:
        super().__init__(**params)
        self.cluster = cluster

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit all runs as one job array and wait; Ctrl-C cancels them."""
        from hydra_plugins.attrbind_exp_launchers import _slurm

        with open_board(self, job_overrides, initial_job_idx) as board:
            returns = _slurm.launch(self, job_overrides, initial_job_idx, board)
        return completed(returns)


def compose(launcher: Launcher, job_overrides: Sequence[Sequence[str]], first: int) -> list[DictConfig]:
    """The configuration of every run, Hydra's part in it."""
    configs = []
    for number, overrides in enumerate(job_overrides):
        cfg = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
        with open_dict(cfg):
            cfg.hydra.job.id = cfg.hydra.job.num = first + number
        configs.append(cfg)
    return configs


def open_board(launcher: Launcher, job_overrides: Sequence[Sequence[str]], first: int, live: bool = True) -> Any:
    """A Board of the runs to be launched."""
    from attrbind_exp.runs.board import Board, Launched

    sweep = Path(launcher.config.hydra.sweep.dir).absolute()
    configs = compose(launcher, job_overrides, first)
    swept = [o for o in job_overrides[0] if any(o not in other for other in job_overrides)]
    keys = {o.partition("=")[0] for o in swept}
    runs = []
    for overrides, cfg in zip(job_overrides, configs, strict=True):
        folder = Path(cfg.hydra.sweep.dir, cfg.hydra.sweep.subdir).absolute()
        own = [o for o in overrides if o.partition("=")[0] in keys] or list(overrides)
        typed = [o.replace("+sweeps=", "sweep=") for o in cfg.hydra.overrides.task]
        alone = shlex.join([*typed, "hydra.mode=RUN", f"hydra.run.dir={folder}"])
        name = " ".join(own).replace(".value=", "=")
        runs.append(Launched(name, str(folder), f"python -m attrbind_exp.run {alone}"))
    return Board(sweep, runs, live, first)


def settle(board: Any, number: int, result: JobReturn) -> None:
    """A run that has come back."""
    if result.status == JobStatus.COMPLETED:
        board.set(number, "done")
    else:
        board.set(number, "failed", explain(result._return_value))


def explain(error: Any) -> str:
    """One line of an error: what it is and what it says, without the traceback that Ray and submitit put before it."""
    if isinstance(error, str):
        return error
    said = " ".join(str(error).strip().splitlines()[-1:])
    name = type(error).__name__
    return name if not said else said if name == "UserError" or said.startswith(name) else f"{name}: {said}"


def lost(error: Exception, overrides: Sequence[str]) -> JobReturn:
    """The return of a run that did not come back."""
    result = JobReturn(overrides=overrides, status=JobStatus.FAILED)
    result.return_value = error
    return result


def completed(returns: Sequence[JobReturn]) -> list[JobReturn]:
    """The runs that are done: Hydra raises at any other. Those stand in sweep.json."""
    return [r for r in returns if r.status == JobStatus.COMPLETED]


def plain(config: Any) -> dict[str, Any]:
    """A config as keyword arguments."""
    return OmegaConf.to_container(config, resolve=True) if config else {}  # type: ignore[return-value]
