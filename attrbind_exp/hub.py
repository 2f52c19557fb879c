"""Names on the Hugging Face hub: how to tell them from paths, find their files in the local cache, and fetch them."""

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import try_to_load_from_cache


def is_hub_name(path: str) -> bool:
    """Whether `path` has the form owner/name."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", path) is not None


def find_file(path: str, name: str) -> Path | None:
    """The path of a file: in the folder `path`, or, for a hub name, in the local cache. None where it is not there.

    Nothing is fetched.
    """
    local = Path(path).expanduser()
    if local.is_dir():
        return local / name if (local / name).is_file() else None
    found = try_to_load_from_cache(path, name) if is_hub_name(path) else None
    return Path(found) if isinstance(found, str) else None


def fetch_command(name: str, patterns: Sequence[str]) -> str:
    """The shell command that fetches those files of a hub name that match one of `patterns`."""
    return f"hf download {name} " + " ".join(f'--include "{p}"' for p in patterns)
