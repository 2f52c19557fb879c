"""What this very process scores with: finding it out. Each answer may be unknown (None), none fails or takes long."""

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from attrbind_exp.devices import DTYPES
from attrbind_exp.evaluation.source import source_digest
from attrbind_exp.language import SPACY_MODELS
from attrbind_exp.paths import PACKAGE, own_folder
from attrbind_exp.runs.provenance import Identity, Part, Provenance

GIT_SECONDS = 1.0  # that git may take; 5 ms are usual, and a file server may be slow
DRIVER = Path("/sys/module/nvidia/version")


def this_part(identity: Identity, device: torch.device, stored: Sequence[torch.dtype] = ()) -> Part:
    """The part of a run that begins here and now: of this identity, with passes on `device`, of weights that were
    `stored` so."""
    started = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return Part(started=started, identity=identity, provenance=surroundings(device, stored))


def surroundings(device: torch.device, stored: Sequence[torch.dtype] = ()) -> Provenance:
    """What a run on `device`, of weights that were `stored` so, is made with."""
    commit, changed = git_state(PACKAGE.parent)
    models = [(name, installed(name)) for name in SPACY_MODELS]
    on_gpu = device.type == "cuda"
    return Provenance(
        commit=commit,
        changed=changed,
        source=source_digest(own_folder()),
        python=platform.python_version(),
        torch=str(torch.__version__),
        diffusers=installed("diffusers"),
        transformers=installed("transformers"),
        numpy=installed("numpy"),
        spacy=installed("spacy"),
        spacy_model=next((f"{name} {found}" for name, found in models if found), None),
        device=device.type,
        gpu=torch.cuda.get_device_name(device) if on_gpu else None,
        driver=driver_version() if on_gpu else None,
        cuda=torch.version.cuda if on_gpu else None,
        cpu=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        stored=" and ".join(dtype_name(kind) for kind in stored) or None,
    )


def dtype_name(dtype: torch.dtype) -> str:
    """fp32, fp16, bf16, as model.dtype names them; torch's own name of any other."""
    return next((name for name, known in DTYPES.items() if known == dtype), str(dtype).removeprefix("torch."))


@lru_cache(maxsize=1)
def git_state(root: Path) -> tuple[str | None, bool | None]:
    """The commit of the checkout at `root`, and whether files that git knows were changed in it. Both are None where
    there is no git, no checkout whose root this is, or no answer in time. Asked once a process, whose code stays that
    of its start."""
    if not (root / ".git").exists():  # installed: a repository further up is somebody else's
        return None, None
    # Variables such as GIT_DIR would name another repository, and no lock may be taken only to look.
    variables = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")} | {"GIT_OPTIONAL_LOCKS": "0"}
    asked = ["git", "-c", "core.fsmonitor=false", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        answer = subprocess.run(
            asked, cwd=root, env=variables, stdin=subprocess.DEVNULL, capture_output=True, timeout=GIT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None, None
    lines = answer.stdout.decode("utf-8", "replace").splitlines() if answer.returncode == 0 else []
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ") and "(" not in line), None)
    return (None, None) if commit is None else (commit, any(not line.startswith("#") for line in lines))


def installed(package: str) -> str | None:
    """The version of a package, None where it is not installed."""
    try:
        return version(package.replace("_", "-"))
    except PackageNotFoundError:
        return None


def driver_version() -> str | None:
    """The version of the NVIDIA driver, as Linux tells it."""
    try:
        return DRIVER.read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None
