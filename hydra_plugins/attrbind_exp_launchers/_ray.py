"""Runs on Ray: each its own process, which Ray gives one GPU and nothing of the others."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_ray_launcher._launcher_util import _run_job
from omegaconf import DictConfig
from ray.exceptions import NodeDiedError, ObjectLostError, RayError

from attrbind_exp.commands.own_folder import use_config_dir
from attrbind_exp.commands.verbosity import use_verbosity
from attrbind_exp.log import asked_for, log
from attrbind_exp.paths import own_folder
from attrbind_exp.runs.board import Board
from attrbind_exp.types import UserError
from hydra_plugins.attrbind_exp_launchers._ray_cluster import (
    THREADS,
    keywords,
    private_environment,
    share_nodes,
    start,
)
from hydra_plugins.attrbind_exp_launchers.launchers import OWN, POLL, RayLauncher, explain, failed_return, record_end

NODE_LOST = (NodeDiedError, ObjectLostError)  # a run that was killed alone is none of them: it may be too large


@dataclass(frozen=True)
class Given:
    """What a run is given of the launching process: Hydra's part, the directory, the user's folder `own`, how much was
    `asked` to be said, variables of the `environment`, and how many `threads` a run gets on a node, by its id."""

    hydra_context: HydraContext
    task_function: TaskFunction
    state: dict[type, Singleton]
    where: str
    own: Path | None
    asked: str | None
    environment: Mapping[str, str]
    threads: Mapping[str, int]


def launch(launcher: RayLauncher, configs: Sequence[DictConfig], board: Board) -> list[JobReturn]:
    """Start a run for every config and wait for all.

    A run whose process dies is one failed run. A run whose node is lost is started once more, wherever there is room.
    """
    setup_globals()
    try:
        start(launcher)
        share = share_nodes(ray.nodes(), launcher.cpus_per_run)
        hydra = launcher.hydra_context, launcher.task_function, Singleton.get_state()
        environment = {} if launcher.address == OWN else private_environment()  # a Ray of our own inherits it
        threads = {} if os.environ.get(THREADS) else share.threads
        given = Given(*hydra, str(Path.cwd()), own_folder(), asked_for(), environment, threads)
        options: dict[str, Any] = {**keywords(launcher.ray_cfg.remote), **share.resources}
        run = ray.remote(**options)(run_job)  # type: ignore[call-overload]
        waiting = {run.remote(cfg, board.runs[i].folder, given): i for i, cfg in enumerate(configs)}
        returns: dict[int, JobReturn] = {}
        again: set[int] = set()
        while waiting:
            done, _ = ray.wait(list(waiting), timeout=POLL)
            for ref in done:
                number = waiting.pop(ref)
                result = wait_for(ref, configs[number])
                if isinstance(result._return_value, NODE_LOST) and number not in again:
                    again.add(number)
                    board.again(number, f"its node was lost ({type(result._return_value).__name__}): started once more")
                    waiting[run.remote(configs[number], board.runs[number].folder, given)] = number
                    continue
                returns[number] = result
                record_end(board, number, result)
            board.refresh()
        return [returns[i] for i in range(len(configs))]
    finally:
        ray.shutdown()


def wait_for(ref: "ray.ObjectRef[JobReturn]", config: DictConfig) -> JobReturn:
    """What a run returned; a failed return where Ray lost it."""
    try:
        return ray.get(ref)
    except RayError as error:
        return failed_return(error, list(config.hydra.overrides.task))


def check_gpus(launcher: RayLauncher) -> None:
    """Raise UserError where more GPUs are asked for than torch sees here, but some; where it sees none, say that the
    runs share the CPU. A cluster knows its own."""
    asked = launcher.gpus
    if asked is not None and (isinstance(asked, bool) or not isinstance(asked, int) or asked < 1):
        raise UserError(f"launcher.gpus={asked}; give a whole number >= 1, or null for all that are there")
    if asked is None or launcher.address != OWN:
        return
    import torch  # a second, and only where a number is given

    seen = torch.cuda.device_count()
    if seen == 0:
        log.warning(f"launcher.gpus={asked}: torch sees no GPU here, so {asked} runs at a time share the CPU")
    elif asked > seen:
        raise UserError(f"launcher.gpus={asked}: torch sees {seen} here; give 1 to {seen}, or null for all of them")


def run_job(config: DictConfig, folder: str, given: Given) -> JobReturn:
    """One run, in its own process, which works in the launching one's directory, since paths may be relative to it;
    what it prints goes to output.log in its folder. What comes back is small: configurations stay here."""
    os.environ.update(given.environment)
    if threads := given.threads.get(ray.get_runtime_context().get_node_id()):
        os.environ[THREADS] = str(threads)  # read as torch loads, which it has not yet
    os.chdir(given.where)
    Path(folder).mkdir(parents=True, exist_ok=True)
    with (
        open(Path(folder, "output.log"), "a", encoding="utf-8", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
        use_config_dir(given.own),
        use_verbosity(given.asked),
    ):
        result = _run_job(given.hydra_context, config, given.task_function, given.state)
    if result.status == JobStatus.FAILED:
        result.return_value = explain(result._return_value)  # an exception may hold what cannot travel
    result.cfg = result.hydra_cfg = None
    return result
