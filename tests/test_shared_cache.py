"""A cache that many share: rights, faults of files and disks, the limit over processes, what killed runs leave."""

import errno
import multiprocessing
import os
import shutil
import signal
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from attrbind_exp.cache import DAY, HOUR, Cache, digest
from attrbind_exp.config.settings import cache_settings
from attrbind_exp.language import caption_cache
from attrbind_exp.language.caption import BlipCaptioner
from attrbind_exp.language.caption_cache import CaptionCache
from attrbind_exp.types import UserError

KEYS = [digest(i) for i in range(400)]
ENTRY = 1_000  # bytes of an entry in a file
PAYLOAD = bytes(ENTRY - 65)  # its first line: 64 hex digits and a newline


def place(folder: Path, key: str, kind: str = "latents") -> Path:
    return folder / kind / key[:2] / key


def size_of(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.glob("*/??/*"))


def warnings(capsys) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING")]


def raising(error: int, where=lambda path: True, plain=None):
    """A function in the place of `plain` that fails for some paths as a disk would."""

    def fail(path, *rest, **named):
        if where(Path(path)):
            raise OSError(error, os.strerror(error), str(path))
        return plain(path, *rest, **named)

    return fail


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o077])
def test_files_and_folders_have_the_rights_of_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        Cache(tmp_path / "cache").put("latents", KEYS[0], b"x")
        CaptionCache(tmp_path / "cache").put({"a": "dog"})
    finally:
        os.umask(before)
    found = list((tmp_path / "cache").rglob("*"))
    assert {f.name for f in found if f.is_file()} == {KEYS[0], "size", ".lock", "captions.sqlite"}
    for path in (tmp_path / "cache", *found):
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~mask, path


def swap(file: Path) -> None:
    file.write_bytes(place(file.parents[2], KEYS[9]).read_bytes())


def make_folder(file: Path) -> None:
    file.unlink()
    (file / "below").mkdir(parents=True)


@pytest.mark.parametrize(
    ("harm", "healed"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), True),
        (lambda file: file.write_bytes(file.read_bytes().replace(b"value 1", b"value 2")), True),
        (lambda file: file.write_bytes(b""), True),
        (swap, True),  # whole, but of another key
        (make_folder, False),
        (lambda file: (shutil.rmtree(file.parent), file.parent.write_text("")), False),
    ],
)
def test_entries_that_cannot_be_used_cost_one_warning_and_nothing_else(tmp_path, capsys, harm, healed):
    cache = Cache(tmp_path)
    for i in (*range(5), 9):
        cache.put("latents", KEYS[i], b"value 1")
    for i in range(3):
        harm(place(tmp_path, KEYS[i]))
    for _ in ("computed again", "and known then, where that can be"):
        found = [cache.get("latents", KEYS[i]) for i in range(5)]
        assert found in ([None] * 3 + [b"value 1"] * 2, [b"value 1"] * 5)
        for i in range(3):
            if found[i] is None:
                cache.put("latents", KEYS[i], b"value 1")
    assert (cache.get("latents", KEYS[0]) == b"value 1") == healed
    cache.put("latents", KEYS[6], b"other")
    assert Cache(tmp_path).get("latents", KEYS[6]) == b"other", "the others are still written"
    assert len(warnings(capsys)) == 1 and not list(tmp_path.glob("*/??/.*"))


def test_entries_without_rights_cost_one_warning_and_are_replaced(tmp_path, capsys, monkeypatch):
    cache, shut = Cache(tmp_path), {place(tmp_path, key) for key in KEYS[:3]}
    for key in KEYS[:4]:
        cache.put("latents", key, b"x")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", raising(errno.EACCES, shut.__contains__, Path.read_bytes))
        assert [cache.get("latents", key) for key in KEYS[:4]] == [None] * 3 + [b"x"]
    cache.put("latents", KEYS[0], b"x")
    assert cache.get("latents", KEYS[0]) == b"x"
    assert len(warnings(capsys)) == 1
    monkeypatch.setattr(Path, "mkdir", raising(errno.EACCES))
    other = Cache(tmp_path)
    for key in KEYS[:3]:
        other.put("latents", key, b"y")
    assert other.get("latents", KEYS[0]) == b"x", "a folder that can only be read is read"
    (said,) = warnings(capsys)
    assert "cannot be written (Permission denied)" in said


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_on_a_disk_that_takes_nothing_the_cache_is_left_off(tmp_path, capsys, monkeypatch, error):
    cache, tried = Cache(tmp_path), []
    cache.put("latents", KEYS[0], b"x")
    monkeypatch.setattr(os, "replace", raising(error, lambda path: not tried.append(path)))
    for key in KEYS[1:9]:
        cache.put("latents", key, b"x")
    (said,) = warnings(capsys)
    assert os.strerror(error) in said and len(tried) == 1
    assert [cache.get("latents", key) for key in KEYS[:2]] == [b"x", None], "what it holds is still read"
    assert not list(tmp_path.glob("*/??/.*")), "no scratch file is left"


def test_a_disk_that_cannot_be_read_is_asked_once(tmp_path, capsys, monkeypatch):
    cache, tried = Cache(tmp_path), []
    monkeypatch.setattr(Path, "read_bytes", raising(errno.EIO, lambda path: not tried.append(path)))
    assert [cache.get("latents", key) for key in KEYS[:9]] == [None] * 9
    assert len(tried) == len(warnings(capsys)) == 1


@pytest.mark.parametrize("below", ["", "cache"])
def test_a_folder_that_cannot_be_made_ends_no_run(tmp_path, capsys, below):
    (tmp_path / "file").write_text("mine")
    folder = tmp_path / "file" / below
    cache, captions = Cache(folder), CaptionCache(folder)
    for key in KEYS[:3]:
        assert cache.get("latents", key) is None and captions.get(key) == {}
        cache.put("latents", key, b"x")
        captions.put({key: "dog"})
    assert len(warnings(capsys)) == 2 and (tmp_path / "file").read_text() == "mine"  # the cache's, the captions'


def test_a_home_that_is_not_known_is_refused():
    for make in (Cache, lambda folder: BlipCaptioner("blip", cache=folder)):
        with pytest.raises(UserError, match="no home folder for the cache '~nobody-of-this-name/cache'"):
            make("~nobody-of-this-name/cache")


def test_captions_that_cannot_be_kept_are_made_without(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(caption_cache, "TIMEOUT", 0)
    captions = CaptionCache(tmp_path)
    captions.put({"a": "dog"})
    with closing(sqlite3.connect(captions.file)) as other:
        other.execute("BEGIN IMMEDIATE")  # as a process that was stopped while it wrote
        captions.put({"b": "cat"})
    captions.put({"b": "cat"})
    (said,) = warnings(capsys)
    assert "no captions are written" in said and "database is locked" in said
    assert captions.get(["a", "b"]) == {"a": "dog"}
    monkeypatch.setattr(sqlite3, "connect", raising(errno.EIO))
    for _ in range(2):
        assert captions.get(["a"]) == {}
    assert len(warnings(capsys)) == 1


def write_many(folder, gigabytes, keys):
    cache = Cache(folder, gigabytes)
    for key in keys:
        cache.put("latents", key, PAYLOAD)
        assert cache.get("latents", KEYS[0]) == PAYLOAD, "what is asked for all the time stays"


def test_processes_that_write_at_once_stay_within_the_limit_together(tmp_path):
    limit = 50 * ENTRY
    Cache(tmp_path, limit / 1e9).put("latents", KEYS[0], PAYLOAD)
    fork = multiprocessing.get_context("fork")
    shares = [KEYS[start : start + 99] for start in (1, 100, 199, 298)]
    writers = [fork.Process(target=write_many, args=(tmp_path, limit / 1e9, share)) for share in shares]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert 0.8 * limit <= size_of(tmp_path) <= limit
    assert int((tmp_path / "size").read_text().split()[0]) == size_of(tmp_path)


def test_the_folder_is_looked_through_only_when_the_limit_is_reached(tmp_path, monkeypatch):
    looks, look = [], Cache._look_through
    monkeypatch.setattr(Cache, "_look_through", lambda *rest: looks.append(1) or look(*rest))
    for start in (0, 100):  # two caches, as of two processes
        cache = Cache(tmp_path, 200 * ENTRY / 1e9)
        for key in KEYS[start : start + 100]:
            cache.put("latents", key, PAYLOAD)
    assert len(looks) == 1, "nobody had counted before"
    for key in KEYS[200:400]:
        cache.put("latents", key, PAYLOAD)
    assert len(looks) <= 1 + 200 / 20  # a tenth of the limit is made free each time


@pytest.mark.parametrize(
    "count",
    [None, "", "many", "100", f"0 {time.time() - 2 * DAY:.0f}", f"0 {time.time() + 2 * DAY:.0f}"],
    ids=["none", "empty", "many", "no_time", "old", "of_tomorrow"],
)
def test_a_count_that_is_spoilt_or_old_is_made_anew(tmp_path, count):
    cache = Cache(tmp_path, 10 * ENTRY / 1e9)
    for key in KEYS[:10]:
        cache.put("latents", key, PAYLOAD)
    (tmp_path / "size").unlink()
    if count is not None:
        (tmp_path / "size").write_text(count)
    cache.put("latents", KEYS[10], PAYLOAD)
    assert size_of(tmp_path) == 9 * ENTRY and cache.get("latents", KEYS[10]) == PAYLOAD


def die_writing(folder):
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # in a process of its own
    Cache(folder).put("latents", KEYS[1], PAYLOAD)


def test_what_killed_writers_left_is_removed_and_nothing_of_others(tmp_path):
    """The look through the folder takes entries and scratch files, and only by their names."""
    for _ in range(2):
        writer = multiprocessing.get_context("fork").Process(target=die_writing, args=(tmp_path,))
        writer.start()
        writer.join()
        assert writer.exitcode == -signal.SIGKILL
    left, live = sorted(tmp_path.glob("*/??/.*"))
    cache, now = Cache(tmp_path, 3 * ENTRY / 1e9), time.time()
    cache.put("latents", KEYS[0], PAYLOAD)
    mine = [tmp_path / "notes" / "ab" / "thesis.tex", tmp_path / "notes" / "ab" / KEYS[1], tmp_path / "captions.sqlite"]
    mine[0].parent.mkdir(parents=True)
    for file, age in [(left, HOUR + 60), (live, HOUR - 60), *((f, 9 * DAY) for f in mine)]:
        file.write_bytes(PAYLOAD)
        os.utime(file, (now - age, now - age))
    cache.put("latents", KEYS[2], PAYLOAD)  # the fourth that was counted
    assert not left.exists() and live.exists() and all(f.exists() for f in mine)
    assert cache.get("latents", KEYS[1]) is None and cache.get("latents", KEYS[2]) == PAYLOAD


def test_what_is_larger_than_the_limit_or_finds_no_room_is_not_kept(tmp_path, capsys, monkeypatch):
    Cache(tmp_path, 0).put("latents", KEYS[0], b"")
    cache = Cache(tmp_path, 2 * ENTRY / 1e9)
    cache.put("latents", KEYS[0], bytes(2 * ENTRY))
    assert not list(tmp_path.iterdir()) and not warnings(capsys)
    for key in KEYS[:2]:
        cache.put("latents", key, PAYLOAD)
    monkeypatch.setattr(Path, "unlink", raising(errno.EACCES))  # a colleague's, in a folder of theirs
    for key in KEYS[2:9]:
        cache.put("latents", key, PAYLOAD)
    assert len(warnings(capsys)) == 1 and size_of(tmp_path) == 2 * ENTRY


@pytest.mark.parametrize("value", ["many", -1, float("nan"), True, None])
def test_a_limit_that_is_no_number_is_refused(value):
    with pytest.raises(UserError, match="give a number from 0 on"):
        cache_settings(OmegaConf.create({"cache": {"folder": "x", "gigabytes": value}}))
    assert cache_settings(OmegaConf.create({"cache": {"folder": None, "gigabytes": value}})) == (None, 0.0)
    assert cache_settings(OmegaConf.create({"cache": {"folder": "x", "gigabytes": 2}})) == ("x", 2.0)
