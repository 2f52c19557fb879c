"""A cache on disk that many processes share: latents and parses, by what they were computed from.

An entry is one file, KIND/ab/KEY, where ab are the key's first two characters. Its first line is the SHA-256 of its
kind, its key and the rest. It is written under another name and then renamed, so it is there whole or not at all. The
file `size` counts the bytes of all processes, under a lock. The folder itself is looked through only when the count
reaches the limit, and once a day.

A cache changes no figure and ends no run. What cannot be used costs a warning and is computed again.
"""

import errno
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import torch
from filelock import FileLock
from safetensors.torch import load, save
from torch import Tensor

from attrbind_exp.log import log
from attrbind_exp.types import UserError

DIGEST = 64  # hex digits of SHA-256
FILLED_AFTER_REMOVAL = 0.9  # share of the limit; lower than 1, so that not every new entry removes an old one
DAY, HOUR = 86_400, 3_600  # seconds between two looks through the folder; after which a scratch file has no writer
COUNT = 31  # bytes of the file `size`: how many there are, and when they were last looked through
PATIENCE = 10  # seconds that a writer waits for another one's look through the folder
ENTRY, SCRATCH = re.compile(f"[0-9a-f]{{{DIGEST}}}"), re.compile(f"\\.[0-9a-f]{{{DIGEST}}}\\.[0-9a-f]{{32}}")
# Errors of one entry. After any other (full, read-only or broken disk) the next entry would fare no better.
OF_ONE_ENTRY = (PermissionError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)


class Cache:
    """Bytes by kind and key in `folder`, at most `gigabytes` of them over all processes that write there.

    `hits` and `misses` count the entries asked for that were there or not. Files and folders have the rights that the
    process's umask leaves them. Raises UserError for the home folder of a user who is not known.
    """

    def __init__(self, folder: str | os.PathLike, gigabytes: float = 20.0):
        self.folder, self.limit = find_folder(folder), gigabytes * 1e9
        self.hits = self.misses = 0
        self._readable = self._writable = True
        self._said: dict[str, str] = {}
        self._lock = FileLock(self.folder / ".lock", timeout=PATIENCE)
        self._writer = ThreadPoolExecutor(1)

    def get(self, kind: str, key: str) -> bytes | None:
        """The entry, or None where there is none that can be used."""
        payload = self._read(kind, key) if self._readable else None
        self.hits += payload is not None
        self.misses += payload is None
        return payload

    def _read(self, kind: str, key: str) -> bytes | None:
        file = self._file(kind, key)
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._readable &= self._warn(file, "read", error)
            return None
        payload = content[DIGEST + 1 :]
        if content[: DIGEST + 1] != _first_line(kind, key, payload):
            self._warn_once("entry", f"'{file}' is damaged; it is computed again, and so is what else is damaged there")
            with suppress(OSError):
                file.unlink()
            return None
        with suppress(OSError):
            os.utime(file)  # so that it is not among the next to be removed
        return payload

    def put(self, kind: str, key: str, payload: bytes) -> None:
        """Write an entry. Where that fails the run goes on, without it or, on a full or broken disk, without more."""
        file, content = self._file(kind, key), _first_line(kind, key, payload) + payload
        if not self._writable or len(content) > self.limit:
            return
        scratch = file.with_name(f".{key}.{uuid4().hex}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._make_room(len(content))
            with open(scratch, "xb") as stream:
                stream.write(content)
            os.replace(scratch, file)
        except OSError as error:
            self._writable &= self._warn(file, "written", error)
            with suppress(OSError):
                scratch.unlink()

    def get_tensor(self, kind: str, key: str) -> Tensor | None:
        """The entry as a tensor on the CPU, or None where there is none that can be used."""
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
        """Count `added` bytes that are about to be written, and remove old entries where they would not fit."""
        size, now = self.folder / "size", int(time.time())
        with self._lock:
            size.touch()
            with open(size, "r+b") as stream:  # cut off and written anew, ext4 would wait for the disk each time
                try:
                    total, looked = map(int, stream.read(COUNT).split())
                except ValueError:  # nobody has counted yet, or the file is spoilt
                    total, looked = 0, 0
                if total + added > self.limit or abs(now - looked) > DAY:
                    total, looked = self._look_through(added), now
                stream.seek(0)
                stream.write(b"%15d %15d" % (total + added, looked))

    def _look_through(self, added: int) -> int:
        """The bytes that lie in the folder. Scratch files of killed writers are removed and, where `added` bytes do not
        fit, the entries that were not asked for longest. Files of other names are left alone."""
        entries, now = [], time.time()
        for file in self._files():
            with suppress(*OF_ONE_ENTRY):  # another process removed it, or it is a colleague's
                stat = file.stat()
                if SCRATCH.fullmatch(file.name) and now - stat.st_mtime > HOUR:
                    Path(file).unlink()
                else:
                    entries.append((stat.st_mtime_ns, stat.st_size, file.path))
        total = sum(size for _, size, _ in entries)
        goal = FILLED_AFTER_REMOVAL * self.limit if total + added > self.limit else self.limit
        for _, size, path in sorted(entries):
            if total + added <= goal:
                break
            with suppress(*OF_ONE_ENTRY):
                Path(path).unlink()
                total -= size
        if total + added > self.limit:
            raise OSError(errno.ENOSPC, "it is full, and what is there cannot be removed")
        return total

    def _files(self) -> Iterator[os.DirEntry[str]]:
        """Entries and scratch files."""
        for folder in self.folder.glob("*/[0-9a-f][0-9a-f]"):
            with suppress(*OF_ONE_ENTRY), os.scandir(folder) as files:
                for file in files:
                    if SCRATCH.fullmatch(file.name) or (ENTRY.fullmatch(file.name) and file.name[:2] == folder.name):
                        yield file

    def _warn(self, file: Path, done: str, error: OSError) -> bool:
        """Say what happened to a file, once. False where the others will fare no better."""
        reason = error.strerror or str(error)
        if isinstance(error, OF_ONE_ENTRY):
            self._warn_once("entry", f"'{file}' cannot be {done} ({reason}); the run goes on without it and its like")
            return True
        self._warn_once("disk", f"nothing more is {done} in the cache '{self.folder}' ({reason}); the run goes on")
        return False

    def _warn_once(self, about: str, text: str) -> None:
        if self._said.setdefault(about, text) is text:  # many threads come here
            log.warning(f"WARNING: {text}")


def find_folder(path: str | os.PathLike) -> Path:
    """The folder that a user named, "~" and "~NAME" filled in. Raises UserError where that home is not known."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise UserError(f"there is no home folder for the cache '{path}'; give a whole path, or null") from error


def _first_line(kind: str, key: str, payload: bytes) -> bytes:
    return hashlib.sha256(f"{kind}/{key}\n".encode() + payload).hexdigest().encode() + b"\n"


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
