"""The Ray that runs are started on: one of this machine's own, or a cluster that is there already."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from omegaconf import DictConfig, OmegaConf

from attrbind_exp.hub import PLACES
from attrbind_exp.types import UserError
from hydra_plugins.attrbind_exp_launchers.launchers import OWN, RayLauncher, explain

CONNECT = 60  # seconds; Ray waits for 30 at most for one that it starts itself
ONLY_OWN = ("num_gpus", "num_cpus", "object_store_memory", "include_dashboard")  # a cluster that is there has its own
THREADS = "OMP_NUM_THREADS"
TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

# A cluster's workers inherit nothing of the launching process. Ray writes a runtime_env into its logs, so it has only
# what a process must know when it starts; what may be secret (tokens, keys, a proxy's password) travels with the run.
HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
PUBLIC = ("PYTHONPATH", *PLACES)
PRIVATE = (*HUB_TOKENS, THREADS)
PRIVATE_KINDS = ("WANDB_", "MLFLOW_")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")  # in small letters, too


def public_environment() -> dict[str, str]:
    """The variables that the workers of a cluster start with: where Python and the Hugging Face hub look."""
    return {k: v for k, v in os.environ.items() if k in PUBLIC or (k.startswith("HF_") and k not in HUB_TOKENS)}


def private_environment() -> dict[str, str]:
    """The variables that a run on a cluster is given before it begins: accounts, proxies, the number of threads."""
    return {k: v for k, v in os.environ.items() if k in PRIVATE or k.startswith(PRIVATE_KINDS) or k.upper() in PROXIES}


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
        given = options.get("runtime_env") or {}
        options["runtime_env"] = {**given, "env_vars": public_environment() | (given.get("env_vars") or {})}
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
        if said is not None and (lacking := lacking_token(tried.stderr)):
            raise UserError(f"the Ray cluster at launcher.ray.init.address={address} {lacking}")
    except subprocess.TimeoutExpired:
        said = f"no answer within {CONNECT} s"
    if said is not None:
        named = f", and RAY_ADDRESS is '{os.environ['RAY_ADDRESS']}'" if os.environ.get("RAY_ADDRESS") else ""
        raise UserError(
            f"no Ray can be reached: launcher.ray.init.address is '{address}'{named} ({said}); start one by "
            "'ray start --head', or choose launcher=gpus, which starts its own"
        )


def lacking_token(said: str) -> str | None:
    """What is wrong with the token, and the mend, where `said`, which Ray printed, speaks of that; else None."""
    if "Unauthenticated" not in said and "no authentication token was found" not in said:
        return None
    known = [name for name in TOKENS if os.environ.get(name)]
    if os.environ.get("RAY_AUTH_MODE") != "token":
        more = "" if known else f", and its token as {' or, in a file, as '.join(TOKENS)}"
        return f"wants a token: set RAY_AUTH_MODE=token{more}"
    if "Unauthenticated" not in said:
        return f"wants a token, and none was found: set {' or, to a file, '.join(TOKENS)}"
    held = " or ".join(known) or "~/.ray/auth_token"
    return f"refuses the token in {held}: take the one that its head node was started with"


@dataclass(frozen=True)
class Share:
    """What Ray keeps free for each run, in the words of `ray.remote`, and how many threads a run gets on a node, by the
    node's id."""

    resources: Mapping[str, float]
    threads: Mapping[str, int]


def share_nodes(nodes: Sequence[Mapping[str, Any]], cpus_per_run: int) -> Share:
    """One run a GPU with its part of its own node's cores; without any GPU, runs of `cpus_per_run` cores.

    Ray takes one number of cores for all runs, so it is that of the node that has fewest for a GPU. `nodes`: as
    `ray.nodes` lists them.
    """
    there = [(node["NodeID"], node["Resources"]) for node in nodes if node["Alive"]]
    cores = {name: int(has.get("CPU", 0)) for name, has in there}
    gpus = {name: int(has.get("GPU", 0)) for name, has in there if has.get("GPU", 0) >= 1}
    if gpus:
        parts = {name: cores[name] // count for name, count in gpus.items()}
        least = min(parts.values())
        return Share({"num_gpus": 1, "num_cpus": least}, {name: max(1, part) for name, part in parts.items()})
    part = max(1, min(cpus_per_run, *cores.values(), cpus_per_run))
    return Share({"num_gpus": 0, "num_cpus": part}, dict.fromkeys(cores, part))
