"""Runs as Slurm jobs, by submitit; a job that is killed, times out or loses its node is one failed run."""

import time
from collections.abc import Sequence
from typing import Any

import submitit
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from omegaconf import OmegaConf

from hydra_plugins.attrbind_exp_launchers.launchers import POLL, SlurmLauncher, lost, settle

KILLED = (submitit.core.utils.FailedJobError, submitit.core.utils.UncompletedJobError)


def launch(launcher: SlurmLauncher, job_overrides: Sequence[Sequence[str]], first: int, board: Any) -> list[JobReturn]:
    """Submit one job a run, wait for all; on the way out, whatever the reason, none is left behind."""
    numbers = range(first, first + len(job_overrides))
    state = Singleton.get_state()
    jobs = executor(launcher).map_array(
        launcher,
        [list(o) for o in job_overrides],
        ["hydra.sweep.dir"] * len(numbers),
        list(numbers),
        [str(n) for n in numbers],
        [state] * len(numbers),
    )
    returns: dict[int, JobReturn] = {}
    try:
        while len(returns) < len(jobs):
            for number, job in enumerate(jobs):
                if number not in returns and job.done():
                    try:
                        returns[number] = job.results()[0]
                    except KILLED as error:
                        returns[number] = lost(error, job_overrides[number])
                    settle(board, number, returns[number])
            board.refresh()
            time.sleep(POLL)
    finally:
        for number, job in enumerate(jobs):
            if number not in returns:
                job.cancel()
    return [returns[i] for i in range(len(jobs))]


def executor(launcher: SlurmLauncher) -> submitit.AutoExecutor:
    """submitit's executor with the parameters of conf/hydra/launcher/slurm.yaml."""
    params = {k: v for k, v in launcher.params.items() if v is not None}
    of_all = set(OmegaConf.structured(BaseQueueConf).keys())
    made = submitit.AutoExecutor(folder=params.pop("submitit_folder"), cluster=launcher.cluster)
    made.update_parameters(**{k if k in of_all else f"slurm_{k}": v for k, v in params.items()})
    return made
