"""A cache on disk that many processes share: latents, text embeddings and parses, by what they were computed from.

An entry is one file, KIND/ab/KEY, where ab are the key's first two characters. Its first line is the SHA-256 of the
rest. It is written under another name and then renamed, so it is there whole or not at all. An entry that does not fit
its SHA-256 is removed and computed again. When the folder grows beyond its limit, the entries go that were not asked
for longest.
"""

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from attrbind_exp.types import UserError

DIGEST = 64  # hex digits of SHA-256
FILLED_AFTER_REMOVAL = 0.9  # share of the limit; lower than 1, so that not every new entry removes an old one


class Cache:
    """Bytes by kind and key in `folder`, at most `gigabytes` of them.

    `hits` and `misses` count the entries asked for that were there or not. Raises UserError where the folder cannot be
    made.
    """

    def __init__(self, folder: str | os.PathLike, gigabytes: float = 20.0):
        self.folder, self.limit = Path(folder).expanduser().absolute(), int(gigabytes * 1e9)
        self.hits = self.misses = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make the cache folder '{self.folder}' ({error.strerror}); give another cache.folder, or null"
            ) from error
        self._size: int | None = None  # bytes in the folder; None until they are first counted
        self._writer = ThreadPoolExecutor(1)

    def get(self, kind: str, key: str) -> bytes | None:
        """The entry, or None where there is none. A damaged entry is removed with a warning, and gives None, too."""
        file = self._file(kind, key)
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            self.misses += 1
            return None
        payload = content[DIGEST + 1 :]
        if content[:DIGEST] != hashlib.sha256(payload).hexdigest().encode():
            print(f"WARNING: '{file}' is damaged; it is removed and computed again", file=sys.stderr)
            file.unlink(missing_ok=True)
            self.misses += 1
            return None
        with suppress(OSError):
            os.utime(file)  # so that it is not among the next to be removed
        self.hits += 1
        return payload

    def put(self, kind: str, key: str, payload: bytes) -> None:
        """Write an entry. On a full or read-only disk nothing is written, with a warning; the run goes on."""
        file = self._file(kind, key)
        content = hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".", delete=False) as scratch:
                scratch.write(content)
            os.replace(scratch.name, file)
            self._make_room(len(content))
        except OSError as error:
            print(f"WARNING: nothing is kept in '{self.folder}': {error.strerror}", file=sys.stderr)

    def get_tensor(self, kind: str, key: str) -> Tensor | None:
        """The entry as a tensor on the CPU, or None where there is none."""
        payload = self.get(kind, key)
        return None if payload is None else load(payload)["value"]

    def put_tensor(self, kind: str, key: str, wait: Callable[[], Tensor]) -> None:
        """Write the tensor that `wait` returns. Both happen in a thread, so the caller does not wait for the device."""
        self._writer.submit(lambda: self.put(kind, key, save({"value": wait().contiguous()})))

    def flush(self) -> None:
        """Wait until everything is written. The end of the process waits for it, too."""
        self._writer.submit(lambda: None).result()

    def _file(self, kind: str, key: str) -> Path:
        return self.folder / kind / key[:2] / key

    def _make_room(self, added: int) -> None:
        """Count `added` bytes. Beyond the limit, remove the entries that were not asked for longest."""
        if self._size is not None and self._size + added <= self.limit:
            self._size += added
            return
        files = []  # counted anew, because other processes write, too
        for file in self.folder.glob("*/??/*"):
            with suppress(FileNotFoundError):
                stat = file.stat()
                files.append((stat.st_mtime, stat.st_size, file))
        self._size = sum(size for _, size, _ in files)
        goal = self.limit if self._size <= self.limit else int(FILLED_AFTER_REMOVAL * self.limit)
        for _, size, file in sorted(files):
            if self._size <= goal:
                break
            file.unlink(missing_ok=True)
            self._size -= size


def digest(*parts: object) -> str:
    """The key of an entry: a SHA-256 of all that it depends on. A tensor counts by its shape, type and content."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            raw = part.detach().cpu().contiguous()
            total.update(repr((tuple(raw.shape), raw.dtype)).encode())
            total.update(raw.flatten().view(torch.uint8).numpy().data)
        else:
            total.update(repr(part).encode())
        total.update(b"\0")
    return total.hexdigest()
