"""A digest of the source that a run is made with, ours and the user's own. Loads no torch: a finished run asks, too."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from attrbind_exp.data.digests import digest_file
from attrbind_exp.paths import PACKAGE

# What can change a figure.
ROOMS = ("data", "scoring", "language", "backbones", "edits", "latent_steps", "heatmaps", "tasks", "evaluation")
FILES = ("types.py", "devices.py", "memory.py")


@lru_cache(maxsize=1)
def source_digest(own: Path | None) -> str:
    """Twelve hex digits over the source of the rooms that can change a figure, and over Python files in the user's
    `own` folder. A comment counts, too: so this is told, and refuses nothing."""
    files = [file for room in ROOMS for file in sorted((PACKAGE / room).rglob("*.py"))]
    files += [PACKAGE / name for name in FILES]
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(PACKAGE).as_posix()} {digest_file(file)}\n".encode())
    for file in _own_files(own):
        total.update(f"{file.name} {digest_file(file)}\n".encode())
    return total.hexdigest()[:12]


def _own_files(own: Path | None) -> Sequence[Path]:
    return [] if own is None else [f for depth in ("*.py", "*/*.py") for f in sorted(own.glob(depth)) if f.is_file()]
