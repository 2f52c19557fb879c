"""A digest of a model's files: other weights under the same path are another model. Nothing is loaded.

Hashing 4 GB takes 3 to 10 s, so digests of large files are kept in the cache's folder by path, size, time and inode. A
file of the Hugging Face hub's cache is a link to one that is named by its SHA-256, and is not read at all.
"""

import hashlib
import io
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from attrbind_exp.backbones.weights import HALF
from attrbind_exp.hub import find_file
from attrbind_exp.work import Work

# What is read of a Stable Diffusion of any kind; reading.json counts as configuration.
READ = (
    "model_index.json",
    "*/*.json",
    "tokenizer*/*",
    "*/model.safetensors",
    "*/model-*-of-*.safetensors",
    "*/diffusion_pytorch_model.safetensors",
    "*/diffusion_pytorch_model-*-of-*.safetensors",
)
READ_HALF = tuple(p.replace("model", f"model.{HALF}") for p in READ if p.endswith(".safetensors"))
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
KEPT_FROM = 1_000_000  # bytes; smaller files are hashed faster than looked up
SETTLED = 2  # seconds: a file that was written since may be written again within one tick of its time
SHA256 = re.compile("[0-9a-f]{64}")


def weights_digest(path: str, cache: str | None = None, half: bool = False) -> str | None:
    """Twelve hex digits over the files of the model at model.path: a folder, a file, or a hub name in the local cache.
    None where there is nothing that can be read. `cache`: the folder in which digests of large files are kept. `half`:
    whether weights in half precision are loaded, where a part has two sets."""
    local = Path(path).expanduser()
    try:
        if local.is_file():
            return _digest_file(local, cache)[:12]
        index = find_file(path, "model_index.json")
        folder = local if local.is_dir() else index.parent if index else None
        if folder is None:
            return None
        total = hashlib.sha256()
        for file in _files(folder, half):
            total.update(f"{file.relative_to(folder).as_posix()} {_digest_file(file, cache)}\n".encode())
        return total.hexdigest()[:12]
    except OSError:
        return None


def read_loras(lora: str | Sequence[str] | None) -> list[str]:
    """The files of model.lora: none, one or several."""
    return [] if lora is None else [lora] if isinstance(lora, str) else list(lora)


def loras_digest(files: Sequence[str], cache: str | None = None) -> str | None:
    """Twelve hex digits over the files of LoRAs, in their order. None where there are none, or one cannot be read."""
    try:
        digests = [_digest_file(Path(file).expanduser(), cache) for file in files]
    except OSError:
        return None
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:12] if digests else None


def _files(folder: Path, half: bool = False) -> Iterator[Path]:
    """The files that a Stable Diffusion is loaded from; of a model of another layout all at the same depth."""
    every = [f for depth in ("*", "*/*") for f in sorted(folder.glob(depth)) if f.is_file()]
    seen = [f for f in every if not any(part.startswith(".") for part in f.relative_to(folder).parts)]
    used = [f for f in seen if f.parent.name not in UNUSED]
    full, halved = (_matching(used, folder, patterns) for patterns in (READ, READ_HALF))
    # Of a part's two sets only one is loaded: that in half precision where it is asked for, or alone.
    whole = {f.parent for f in full if f.suffix == ".safetensors"}
    other = {f.parent for f in halved if half or f.parent not in whole}
    read = [f for f in used if (f in halved if f.parent in other and f.suffix == ".safetensors" else f in full)]
    yield from read if any(f.suffix == ".safetensors" for f in read) else seen


def _matching(files: Iterable[Path], folder: Path, patterns: Iterable[str]) -> set[Path]:
    """Those of a folder's files whose path in it matches one of `patterns`."""
    return {f for f in files if any(fnmatch(f.relative_to(folder).as_posix(), pattern) for pattern in patterns)}


class _Counted(io.FileIO):
    """A file that tells its `work` how much of it was read."""

    work: Work

    def readinto(self, buffer: Any, /) -> int:
        n = super().readinto(buffer) or 0
        self.work.advance(n / 1e9)
        return n


def _digest_file(file: Path, cache: str | None) -> str:
    """The SHA-256 of a file, 64 hex digits."""
    target = file.resolve()
    if target.parent.name == "blobs" and SHA256.fullmatch(target.name):
        return target.name
    about = target.stat()
    kept = None
    if cache is not None and about.st_size >= KEPT_FROM:
        key = f"{target} {about.st_size} {about.st_mtime_ns} {about.st_ctime_ns} {about.st_ino}"
        kept = Path(cache).expanduser() / "weights" / hashlib.sha256(key.encode()).hexdigest()
        with suppress(OSError, ValueError):
            if SHA256.fullmatch(known := kept.read_text(encoding="ascii")):
                return known
    with Work(f"hashing {file.parent.name}/{file.name}", about.st_size / 1e9, "GB") as work, _Counted(target) as stream:
        stream.work = work
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if kept is not None and abs(time.time() - about.st_ctime) > SETTLED:
        with suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(found, encoding="ascii")
    return found
