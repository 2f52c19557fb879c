"""Runs on Ray: each its own process, which Ray gives one GPU and nothing of the others."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_ray_launcher._launcher_util import _run_job
from omegaconf import DictConfig, OmegaConf
from ray.exceptions import RayError

from attrbind_exp.commands.own_folder import use_config_dir
from attrbind_exp.commands.verbosity import use_verbosity
from attrbind_exp.log import asked_for, log
from attrbind_exp.paths import own_folder
from attrbind_exp.runs.board import Board
from attrbind_exp.types import UserError
from hydra_plugins.attrbind_exp_launchers.launchers import OWN, POLL, RayLauncher, explain, failed_return, record_end

CONNECT = 60  # seconds; Ray waits for 30 at most for one that it starts itself
ONLY_OWN = ("num_gpus", "num_cpus", "object_store_memory", "include_dashboard")  # a cluster that is there has its own


def launch(launcher: RayLauncher, configs: Sequence[DictConfig], board: Board) -> list[JobReturn]:
    """Start a run for every config, wait for all; a RayError (a killed process, a lost node) is one failed run."""
    setup_globals()
    try:
        start(launcher)
        options: dict[str, Any] = keywords(launcher.ray_cfg.remote) | resources(launcher)
        run = ray.remote(**options)(run_job)  # type: ignore[call-overload]
        given = launcher.hydra_context, launcher.task_function, Singleton.get_state(), str(Path.cwd())
        inherited = own_folder(), asked_for()
        waiting = {run.remote(cfg, board.runs[i].folder, *given, *inherited): i for i, cfg in enumerate(configs)}
        returns: dict[int, JobReturn] = {}
        while waiting:
            done, _ = ray.wait(list(waiting), timeout=POLL)
            for ref in done:
                number = waiting.pop(ref)
                try:
                    returns[number] = ray.get(ref)
                except RayError as error:
                    returns[number] = failed_return(error, list(configs[number].hydra.overrides.task))
                record_end(board, number, returns[number])
            board.refresh()
        return [returns[i] for i in range(len(configs))]
    finally:
        ray.shutdown()


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


def keywords(config: DictConfig | None) -> dict[str, Any]:
    """A config as keyword arguments."""
    found = OmegaConf.to_container(config, resolve=True) if config else {}
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def start(launcher: RayLauncher) -> None:
    """Ray on this machine, or the cluster of `ray.init.address`. Raises UserError where it cannot be had."""
    options = {k: v for k, v in keywords(launcher.ray_cfg.init).items() if v is not None}
    options["address"] = address = launcher.address
    if address == OWN:
        options["num_cpus"] = max(os.cpu_count() or 1, launcher.gpus or 0)
        options |= {} if launcher.gpus is None else {"num_gpus": launcher.gpus}
    else:
        options = {k: v for k, v in options.items() if k not in ONLY_OWN}
        check_cluster(address)
    try:
        ray.init(**options)
    except Exception as error:  # Ray raises bare ones, too
        raise UserError(f"Ray does not start here ({explain(error)}); try again, or choose launcher=local") from error


def check_cluster(address: str) -> None:
    """Raise UserError where no Ray can be reached at `address`.

    A process of its own tries that: Ray asks a dead address for a quarter of an hour, or ends the process.
    """
    code = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False)"
    try:
        tried = subprocess.run([sys.executable, "-c", code, address], capture_output=True, text=True, timeout=CONNECT)
        said = tried.stderr.strip().rpartition("\n")[2] if tried.returncode else None
        if said and "Unauthenticated" in tried.stderr:
            said += "; it asks for a token, see RAY_AUTH_MODE in Ray's documentation"
    except subprocess.TimeoutExpired:
        said = f"no answer within {CONNECT} s"
    if said is not None:
        named = f", and RAY_ADDRESS is '{os.environ['RAY_ADDRESS']}'" if os.environ.get("RAY_ADDRESS") else ""
        raise UserError(
            f"no Ray can be reached: launcher.ray.init.address is '{address}'{named} ({said}); start one by "
            "'ray start --head', or choose launcher=gpus, which starts its own"
        )


def resources(launcher: RayLauncher) -> dict[str, float]:
    """What one run takes: a GPU and its share of the cores; without GPUs `cpus_per_run` cores."""
    found = ray.cluster_resources()
    gpus, cpus = int(found.get("GPU", 0)), int(found.get("CPU", 1))
    if gpus:
        return {"num_gpus": 1, "num_cpus": max(1, cpus // gpus)}
    return {"num_gpus": 0, "num_cpus": min(cpus, launcher.cpus_per_run)}


def run_job(
    config: DictConfig,
    folder: str,
    hydra_context: HydraContext,
    task_function: TaskFunction,
    state: dict[type, Singleton],
    where: str,
    own: Path | None,
    asked: str | None,
) -> JobReturn:
    """One run, in its own process, which works in the launching one's directory `where`, since paths may be relative to
    it, finds the user's folder `own` and says as much as was `asked` for; what it prints goes to output.log in its
    folder."""
    os.chdir(where)
    Path(folder).mkdir(parents=True, exist_ok=True)
    with (
        open(Path(folder, "output.log"), "a", encoding="utf-8", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
        use_config_dir(own),
        use_verbosity(asked),
    ):
        result = _run_job(hydra_context, config, task_function, state)
    if result.status == JobStatus.FAILED:
        result.return_value = explain(result._return_value)  # an exception may hold what cannot travel
    return result
