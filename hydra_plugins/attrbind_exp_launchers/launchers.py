"""Launchers whose sweeps survive a lost run: it is one failed run, named, and all others finish.

Hydra ends a sweep at the first failed run before its callbacks hear of it. So each launcher writes what became of every
run to sweep.json (`runs.board`), hands Hydra the runs that are done, and `commands.sweep.SweepReport` names the failed
ones and makes the exit code. Hydra imports this file for every command. So Ray and submitit load only when they are
used, and need not be installed otherwise.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

if TYPE_CHECKING:
    from attrbind_exp.runs.board import Board

POLL = 1.0  # seconds
OWN = "local"
LOCAL = ", or choose launcher=local"
PACKAGES = {
    "ray": "hydra-ray-launcher ray",
    "slurm": "hydra-submitit-launcher submitit",
    "tune": "optuna",
}  # by our extra
Overrides = Sequence[Sequence[str]]  # of every run


class LocalLauncher(BasicLauncher):
    """One run after another in this process."""

    def launch(self, job_overrides: Overrides, initial_job_idx: int) -> Sequence[JobReturn]:
        """Hydra's own launcher, run by run."""
        assert self.hydra_context is not None and self.config is not None  # Hydra has called setup
        configs = compose(self.hydra_context, self.config, job_overrides, initial_job_idx)
        with open_board(self.config, configs, job_overrides, initial_job_idx, live=False) as board:
            returns: list[JobReturn] = []
            for number, overrides in enumerate(job_overrides):
                board.set(number, "running")
                returns += super().launch([overrides], initial_job_idx + number)
                record_end(board, number, returns[-1])
        return done_only(returns)


class RemoteLauncher(Launcher):
    """What the launchers below share: Hydra hands them what their runs need."""

    hydra_context: HydraContext
    task_function: TaskFunction
    config: DictConfig

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra calls it before `launch`."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config


class RayLauncher(RemoteLauncher):
    """One run a GPU, the others queued; on a machine without GPUs one run for every `cpus_per_run` cores.

    `gpus`: how many there are, None = as many as Ray finds. In a cluster (`ray.init.address`) Ray knows.
    """

    def __init__(self, ray: DictConfig, gpus: int | None = None, cpus_per_run: int = 1) -> None:
        self.ray_cfg, self.gpus, self.cpus_per_run = ray, gpus, cpus_per_run

    @property
    def address(self) -> str:
        """Ray's word for where it is: OWN for one that is started here, whatever RAY_ADDRESS names."""
        return str(self.ray_cfg.get("init", {}).get("address") or OWN)

    def launch(self, job_overrides: Overrides, initial_job_idx: int) -> Sequence[JobReturn]:
        """Start all runs and wait; Ctrl-C ends them all."""
        implementation = load("_ray", "ray", asked(self.config), LOCAL)
        implementation.check_gpus(self)
        configs = compose(self.hydra_context, self.config, job_overrides, initial_job_idx)
        with open_board(self.config, configs, job_overrides, initial_job_idx) as board:
            returns = implementation.launch(self, configs, board)
        return done_only(returns)


class SlurmLauncher(RemoteLauncher):
    """One Slurm job a run, by submitit. `cluster`: slurm, or local for processes of this machine; `params`: the other
    keys of conf/hydra/launcher/slurm.yaml."""

    def __init__(self, cluster: str = "slurm", **params: Any) -> None:
        self.cluster, self.params = cluster, params

    def launch(self, job_overrides: Overrides, initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit all runs as one job array and wait; Ctrl-C cancels them."""
        implementation = load("_slurm", "slurm", asked(self.config), LOCAL)
        submit = implementation.executor(self)
        configs = compose(self.hydra_context, self.config, job_overrides, initial_job_idx)
        with open_board(self.config, configs, job_overrides, initial_job_idx) as board:
            returns = implementation.launch(self, submit, job_overrides, initial_job_idx, board)
        return done_only(returns)


def asked(config: DictConfig) -> str:
    """The launcher as it was typed."""
    return f"launcher={config.hydra.runtime.choices['hydra/launcher']}"


def load(module: str, extra: str, wanted: str, instead: str = "") -> ModuleType:
    """The file beside this one that needs packages of an extra, for what is `wanted`. Raises UserError where they are
    not installed, with what will do `instead`."""
    from attrbind_exp.types import UserError

    try:
        return importlib.import_module(f"hydra_plugins.attrbind_exp_launchers.{module}")
    except ModuleNotFoundError as error:
        raise UserError(
            f"{wanted} needs packages that are not installed (no module '{error.name}'); get them by "
            f"'pip install {PACKAGES[extra]}', the extra [{extra}]{instead}"
        ) from error


def compose(context: HydraContext, config: DictConfig, job_overrides: Overrides, first: int) -> list[DictConfig]:
    """The configuration of every run, Hydra's part in it."""
    configs = []
    for number, overrides in enumerate(job_overrides):
        cfg = context.config_loader.load_sweep_config(config, list(overrides))
        with open_dict(cfg):
            cfg.hydra.job.id = cfg.hydra.job.num = first + number
        configs.append(cfg)
    return configs


def open_board(
    config: DictConfig, configs: Sequence[DictConfig], job_overrides: Overrides, first: int, live: bool = True
) -> "Board":
    """A Board of the runs to be launched: `configs` and `job_overrides` are theirs, `config` is the sweep's."""
    from attrbind_exp.commands.command_line import command, path_override
    from attrbind_exp.runs.board import Board
    from attrbind_exp.runs.index import Launched

    swept = {o for job in job_overrides for o in job if any(o not in other for other in job_overrides)}
    keys = {o.partition("=")[0] for o in swept if not o.startswith("hydra.")}
    runs = []
    for overrides, cfg in zip(job_overrides, configs, strict=True):
        folder = Path(cfg.hydra.sweep.dir, cfg.hydra.sweep.subdir).absolute()
        own = [o for o in overrides if o.partition("=")[0] in keys] or list(overrides)
        alone = command([*cfg.hydra.overrides.task, "hydra.mode=RUN", path_override("hydra.run.dir", folder)])
        runs.append(Launched(" ".join(own).replace(".value=", "="), str(folder), alone))
    typed = command([*config.hydra.overrides.hydra, *config.hydra.overrides.task])
    return Board(Path(config.hydra.sweep.dir).absolute(), runs, live, first, typed)


def record_end(board: "Board", number: int, result: JobReturn) -> None:
    """Write down that a run has come back, and how."""
    if result.status == JobStatus.COMPLETED:
        board.set(number, "done")
    else:
        board.set(number, "failed", explain(result._return_value))


def explain(error: object) -> str:
    """One line of an error: what it is and what it says, without the traceback that Ray and submitit put before it."""
    if isinstance(error, str):
        return error
    from omegaconf.errors import OmegaConfBaseException

    from attrbind_exp.types import UserError

    # Hydra wraps what a constructor raises.
    error = cause if isinstance(cause := getattr(error, "__cause__", None), UserError) else error
    first, _, last = str(error).strip().partition("\n")
    # Below what OmegaConf says stands where: "full_key: ..".
    said = (first if isinstance(error, OmegaConfBaseException) else last.rpartition("\n")[2] or first).strip()
    name = type(error).__name__
    return name if not said else said if name == "UserError" or said.startswith(name) else f"{name}: {said}"


def failed_return(error: Exception | str, overrides: Sequence[str]) -> JobReturn:
    """The return of a run that did not come back, with the reason or what there is to say of it."""
    result = JobReturn(overrides=overrides, status=JobStatus.FAILED)
    result.return_value = error
    return result


def done_only(returns: Sequence[JobReturn]) -> list[JobReturn]:
    """The runs that are done: Hydra raises at any other. Those stand in sweep.json."""
    return [r for r in returns if r.status == JobStatus.COMPLETED]
