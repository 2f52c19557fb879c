"""Runs as Slurm jobs, by submitit; a job that is killed, times out or loses its node is one failed run."""

import re
import time
from collections.abc import Sequence
from typing import Any

import submitit
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from omegaconf import OmegaConf

from attrbind_exp.commands.own_folder import use_config_dir
from attrbind_exp.commands.verbosity import use_verbosity
from attrbind_exp.log import asked_for
from attrbind_exp.paths import own_folder
from attrbind_exp.runs.board import Board
from attrbind_exp.types import UserError
from hydra_plugins.attrbind_exp_launchers.launchers import POLL, SlurmLauncher, explain, failed_return, record_end

KILLED = (submitit.core.utils.FailedJobError, submitit.core.utils.UncompletedJobError)
# A job's log or its trace, as it stands in submitit's errors.
LEFT = re.compile(r"\n-{20,}\n(.*?)(?:\n-{20,}\nYou can check|\Z)", re.DOTALL)


class Job(BaseSubmititLauncher):
    """What a job executes: one run, which finds the user's folder that the launching process had, and says as much."""

    def __init__(self, launcher: SlurmLauncher):
        super().__init__(**launcher.params)
        self.own, self.asked = own_folder(), asked_for()
        self.setup(hydra_context=launcher.hydra_context, task_function=launcher.task_function, config=launcher.config)

    def __call__(self, *given: Any) -> JobReturn:
        """One run, from its overrides, the key of its folder, its number, its name and Hydra's state."""
        with use_config_dir(self.own), use_verbosity(self.asked):
            return super().__call__(*given)


def launch(
    launcher: SlurmLauncher,
    submit: submitit.AutoExecutor,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    board: Board,
) -> list[JobReturn]:
    """Submit one job a run by the executor `submit`, wait for all; on the way out, whatever the reason, none is left
    behind."""
    jobs = submit_jobs(launcher, submit, job_overrides, first)
    returns: dict[int, JobReturn] = {}
    try:
        while len(returns) < len(jobs):
            for number, job in enumerate(jobs):
                if number not in returns and job.done():
                    returns[number] = return_of(job, job_overrides[number])
                    record_end(board, number, returns[number])
            board.refresh()
            time.sleep(POLL)
    finally:
        for number, job in enumerate(jobs):
            if number not in returns:
                job.cancel(check=False)
    return [returns[i] for i in range(len(jobs))]


def return_of(job: submitit.Job[JobReturn], overrides: Sequence[str]) -> JobReturn:
    """What a job that is done came to. One whose result cannot be read, such as a file cut short by a full disk, is a
    failed run like one that was killed: the others' results still count."""
    try:
        return job.results()[0]
    except KILLED as error:
        return failed_return(last_words(job, error), overrides)
    except Exception as error:  # whatever reading a broken result raises
        said = f"its result cannot be read ({explain(error)}); its log: {job.paths.stderr}"
        return failed_return(said, overrides)


def submit_jobs(
    launcher: SlurmLauncher, submit: submitit.AutoExecutor, job_overrides: Sequence[Sequence[str]], first: int
) -> list[submitit.Job[JobReturn]]:
    """All runs as one job array. Raises UserError with what sbatch says, where it refuses them."""
    numbers = range(first, first + len(job_overrides))
    state = Singleton.get_state()
    try:
        return submit.map_array(
            Job(launcher),
            [list(o) for o in job_overrides],
            ["hydra.sweep.dir"] * len(numbers),
            list(numbers),
            [str(n) for n in numbers],
            [state] * len(numbers),
        )
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError, FileNotFoundError) as error:
        raise UserError(f"Slurm takes no job ({explain(error)}); mend that by launcher.KEY=VALUE") from error


def last_words(job: submitit.Job[JobReturn], error: Exception) -> str:
    """One line of why a job came to nothing: what Slurm says of it, the last line that it left, where its log is."""
    ended = "" if isinstance(error, submitit.core.utils.FailedJobError) else f"the job ended as {job.state}"
    left = LEFT.search(str(error))
    lines = [line.strip() for line in left[1].splitlines() if line.strip()] if left else []
    return f"{': '.join(filter(None, [ended, *lines[-1:]]))}; its log: {job.paths.stderr}"


def executor(launcher: SlurmLauncher) -> submitit.AutoExecutor:
    """submitit's executor with the parameters of conf/hydra/launcher/slurm.yaml. Raises UserError where there is no
    Slurm, and for parameters that submitit refuses."""
    params = sbatch_parameters(launcher)
    of_all = set(OmegaConf.structured(BaseQueueConf).keys())
    folder, timeouts = params.pop("submitit_folder"), params.pop("max_num_timeout", 0)
    try:
        made = submitit.AutoExecutor(folder=folder, cluster=launcher.cluster, slurm_max_num_timeout=timeouts)
        made.update_parameters(**{k if k in of_all else f"slurm_{k}": v for k, v in params.items()})
    except (RuntimeError, AssertionError, NameError, TypeError, ValueError) as error:  # each of its own for its own
        raise UserError(
            f"launcher=slurm cannot be used here ({explain(error)}); mend that, or choose launcher=gpus or local"
        ) from error
    return made


def sbatch_parameters(launcher: SlurmLauncher) -> dict[str, Any]:
    """The keys that are set, as submitit has them."""
    params: dict[str, Any] = {
        k: OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v
        for k, v in launcher.params.items()
        if v is not None
    }
    if "gres" in params:
        params.pop("gpus_per_node", None)
    if params.pop("requeue", False):
        params["additional_parameters"] = {"requeue": True} | params.get("additional_parameters", {})
    if "cpus_per_task" in params:  # since Slurm 22.05 srun does not take it over from sbatch
        params["srun_args"] = [f"--cpus-per-task={params['cpus_per_task']}"]
    return params
