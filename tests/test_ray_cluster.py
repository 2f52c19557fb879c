"""A Ray cluster: what its workers are told, what each run gets of a node, a token that is missing, a node that is lost."""

import json
import os
import pickle
import signal
import threading
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from attrbind_exp.config import CONF
from attrbind_exp.hub import PLACES
from attrbind_exp.runs.board import Board
from attrbind_exp.runs.index import Launched, read_launched
from hydra_plugins.attrbind_exp_launchers.launchers import RayLauncher

ray = pytest.importorskip("ray")

from hydra_plugins.attrbind_exp_launchers import _ray, _ray_cluster

SECRETS = {"HF_TOKEN": "hf_aaa111", "WANDB_API_KEY": "bbb222", "https_proxy": "http://me:ccc333@proxy:3128"}
PUBLIC = {
    "HF_HOME": "/data/hub",
    "HF_HUB_CACHE": "/data/hub/all",
    "HUGGINGFACE_HUB_CACHE": "/data/old",
    "XDG_CACHE_HOME": "/data/cache",
    "HTTP_PROXY": "http://proxy:80",
    "NO_PROXY": "here",
}


def node(name, alive=True, **has):
    return {"NodeID": name, "Alive": alive, "Resources": has}


def test_a_run_gets_the_part_of_its_own_node():
    small, large = node("a", CPU=16.0, GPU=4.0), node("b", CPU=96.0, GPU=8.0)
    head, dead = node("head", CPU=64.0), node("dead", alive=False, CPU=2.0, GPU=2.0)
    found = _ray_cluster.share_nodes([head, small, large, dead], cpus_per_run=1)
    assert found.resources == {"num_gpus": 1, "num_cpus": 4}  # 64 cores of a head without GPUs are nobody's
    assert found.threads == {"a": 4, "b": 12}
    few = _ray_cluster.share_nodes([node("c", CPU=2.0, GPU=8.0)], cpus_per_run=1)
    assert few.resources == {"num_gpus": 1, "num_cpus": 0} and few.threads == {"c": 1}  # else six GPUs would be idle


@pytest.mark.parametrize(("asked", "given"), [(1, 1), (4, 4), (16, 8)])
def test_without_gpus_a_run_gets_the_cores_that_are_asked_for(asked, given):
    found = _ray_cluster.share_nodes([node("a", CPU=8.0), node("b", CPU=8.0)], cpus_per_run=asked)
    assert found.resources == {"num_gpus": 0, "num_cpus": given} and set(found.threads.values()) == {given}


def test_what_is_secret_is_not_where_ray_writes_it_down(monkeypatch):
    for name, value in (SECRETS | PUBLIC).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", "/code")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not asked for")
    public, private = _ray_cluster.public_environment(), _ray_cluster.private_environment()
    assert public["PYTHONPATH"] == "/code" and {name: public[name] for name in PLACES} == {n: PUBLIC[n] for n in PLACES}
    assert not any(secret in json.dumps(public) for secret in SECRETS.values())
    assert (SECRETS | PUBLIC).items() <= (public | private).items()
    assert "AWS_SECRET_ACCESS_KEY" not in public | private and "PATH" not in public | private


@pytest.mark.parametrize(
    ("environment", "said", "words"),
    [
        ({}, "RPC error: Unauthenticated: ..", "wants a token: set RAY_AUTH_MODE=token, and its token as RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_TOKEN": "x"}, "Unauthenticated", "wants a token: set RAY_AUTH_MODE=token"),
        ({"RAY_AUTH_MODE": "token"}, "but no authentication token was found.", "none was found: set RAY_AUTH_TOKEN or"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "x"}, "Unauthenticated", "refuses the token in RAY_AUTH_TOKEN:"),
        ({"RAY_AUTH_MODE": "token"}, "Unauthenticated", "refuses the token in ~/.ray/auth_token:"),
    ],
)  # fmt: skip
def test_a_missing_token_names_its_variable(monkeypatch, environment, said, words):
    for name in ("RAY_AUTH_MODE", *_ray_cluster.TOKENS):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert words in (_ray_cluster.lacking_token(said) or "")
    assert _ray_cluster.lacking_token("ConnectionError: nobody there") is None


def look(cfg):
    """A run that writes down where it is; "lost" stays until its node is gone, "killed" kills itself."""
    import torch

    folder = Path(HydraConfig.get().runtime.output_dir)

    seen = {name: os.environ.get(name) for name in (SECRETS | PUBLIC)}
    where = {"node": ray.get_runtime_context().get_node_id(), "threads": torch.get_num_threads()}
    with open(folder / "starts.jsonl", "a") as file:
        file.write(json.dumps(seen | where) + "\n")
    if folder.name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if folder.name == "lost" and len((folder / "starts.jsonl").read_text().splitlines()) == 1:
        time.sleep(600)
    return 50.0


def starts(folder):
    file = folder / "starts.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


@pytest.mark.slow
def test_a_lost_node_costs_a_second_start_and_a_killed_run_does_not_get_one(tmp_path, monkeypatch):
    """Three nodes on this machine, each with a made GPU; half a minute, most of it Ray's start."""
    from hydra._internal.callbacks import Callbacks
    from hydra.core.utils import JobStatus
    from hydra.types import HydraContext
    from ray.cluster_utils import Cluster

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=2, num_gpus=1, object_store_memory=78643200) for _ in range(2)]
        for name, value in (SECRETS | PUBLIC).items():  # the nodes are there: they do not inherit it
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PYTHONPATH", str(CONF.parent))
        base = OmegaConf.load(CONF / "hydra" / "launcher" / "ray_cluster.yaml")
        base.ray.init.address = cluster.address
        launcher = RayLauncher(base.ray)
        names = ["lost", "killed", "good"]
        launcher.setup(
            hydra_context=HydraContext(config_loader=None, callbacks=Callbacks()), task_function=look, config=None
        )
        with initialize_config_dir(str(CONF), version_base="1.3"):
            given = [f"hydra.sweep.dir={tmp_path}", "hydra.job.num=0", "hydra.job.id=0"]
            each = [[*given, f"hydra.sweep.subdir={name}"] for name in names]
            configs = [compose("run", overrides=o, return_hydra_config=True) for o in each]
        runs = [Launched(name, str(tmp_path / name), f"again {name}") for name in names]

        def end_node():
            while not (found := starts(tmp_path / "lost")):
                time.sleep(0.1)
            (victim,) = (n for n in nodes if n.node_id == found[0]["node"])
            cluster.remove_node(victim, allow_graceful=False)

        killer = threading.Thread(target=end_node, daemon=True)
        killer.start()
        with Board(tmp_path, runs, live=False) as board:
            returns = _ray.launch(launcher, configs, board)
        killer.join(10)
        session = Path(cluster.head_node.get_session_dir_path())
    finally:
        cluster.shutdown()
    assert [r.status for r in returns] == [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.COMPLETED]
    assert max(len(pickle.dumps(r)) for r in returns) < 2_000  # no configuration, no map
    lost, killed, _ = read_launched(tmp_path)
    assert (lost.state, lost.error) == ("done", None) and "its node was lost (NodeDiedError)" in lost.note
    assert killed.state == "failed" and "WorkerCrashedError" in killed.error and killed.note is None
    first, second = starts(tmp_path / "lost")
    assert first["node"] != second["node"] and len(starts(tmp_path / "killed")) == len(starts(tmp_path / "good")) == 1
    assert (SECRETS | PUBLIC).items() <= second.items() and second["threads"] == 2
    kept = [f for folder in (tmp_path, session) for f in folder.rglob("*") if f.is_file() and f.name != "starts.jsonl"]
    written = b"".join(f.read_bytes() for f in kept)
    assert b"/data/hub" in written and not any(secret.encode() in written for secret in SECRETS.values())
