"""What kills and faulty disks found (benchmarks/kills.py, benchmarks/faults.py): one test for each kind of it."""

import errno
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from attrbind_exp.reporting import figures
from attrbind_exp.runs.ending import Ending, missing, write_ending
from attrbind_exp.runs.store import write_text, write_whole
from tests.test_command import command
from tests.test_nothing_lost import SMALL


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A finished run with kept maps."""
    folder = tmp_path_factory.mktemp("runs") / "kept"
    assert command(*SMALL, "keep_maps=true", f"hydra.run.dir={folder}")[0] == 0
    return folder


def refuse(number):
    """Stands for a call of the operating system that fails."""

    def call(path, *_, **__):
        raise OSError(number, os.strerror(number), str(path))

    return call


REFUSED = [("unlink", "EIO"), ("read_text", "EACCES"), ("write_text", "ENOSPC"), ("mkdir", "EROFS")]


@pytest.mark.parametrize(("call", "error"), REFUSED)
def test_what_the_disk_refuses_ends_in_one_line(kept, tmp_path, monkeypatch, call, error):
    with monkeypatch.context() as patch:
        patch.setattr(Path, call, refuse(getattr(errno, error)))
        code, _, err = command(str(kept), "threshold=0.5", "--out", str(tmp_path / "again"), module="rescore")
    assert (code, err.count("\n")) == (2, 1) and os.strerror(getattr(errno, error)) in err
    assert command(str(kept), "threshold=0.5", "--out", str(tmp_path / "again"), module="rescore")[0] == 0


def test_a_page_whose_configuration_cannot_be_read_ends_in_one_line(kept, monkeypatch):
    before = (kept / "report.html").read_text()
    monkeypatch.setattr(Path, "read_text", refuse(errno.EIO))
    code, _, err = command(str(kept), module="report")
    assert code == 2 and "error: the disk refused '" in err and "Input/output error" in err and "Traceback" not in err
    monkeypatch.undo()
    assert (kept / "report.html").read_text() == before


def test_an_error_that_no_disk_makes_keeps_its_traceback(kept, monkeypatch):
    monkeypatch.setattr(Path, "read_text", refuse(errno.EBADF))
    with pytest.raises(OSError, match="Bad file descriptor"):
        command(str(kept), module="report")


def test_a_file_that_cannot_be_renamed_leaves_no_other_behind(tmp_path, monkeypatch):
    write_text(tmp_path / "a.txt", "first")
    for name in ("replace", "unlink"):  # the second: nor can the scratch file be removed
        monkeypatch.setattr(os, name, refuse(errno.ENOSPC))
        with pytest.raises(OSError, match="No space left"):
            write_whole(tmp_path / "a.txt", lambda to: to.write_text("second"))
        assert (tmp_path / "a.txt").read_text() == "first"
        assert (tmp_path / "a.txt.partial").exists() == (name == "unlink")


def test_kept_maps_are_open_to_those_whom_the_umask_lets_in(kept):
    mask = os.umask(0)
    os.umask(mask)
    files = list((kept / "maps").iterdir())
    assert files and {file.stat().st_mode & 0o777 for file in files} == {0o666 & ~mask}


def test_a_sheet_that_gets_too_large_is_named_and_the_run_is_fine(tmp_path, monkeypatch):
    """The sheet alone is left out; a larger gallery= of the finished run draws again, and scores nothing."""
    folder = tmp_path / "run"
    given = ("tracker=none", "dataset.limit=3", "text_processor=baseline", "changed=0", f"hydra.run.dir={folder}")
    monkeypatch.setattr(figures, "MOST_PIXELS", 400_000)
    code, _, err = command(*given, "gallery=1")
    assert code == 0 and (folder / "gallery.png").is_file() and not (folder / "gallery" / "not_drawn.jsonl").exists()
    width, height = Image.open(folder / "gallery.png").size
    assert width * height <= 400_000 < 3 * width * height
    rows = (folder / "expressions.jsonl").stat()
    code, out, err = command(*given, "gallery=3")
    assert code == 0 and "pictures, page made again" in out and "1 pictures could not be drawn" in err
    (line,) = (folder / "gallery" / "not_drawn.jsonl").read_text().splitlines()
    message = f"too_large: 3 pictures make one of {width} x {3 * height} pixels"
    assert json.loads(line) == {"gallery": "gallery", "sample_id": "the sheet", "message": message}
    assert len(list((folder / "gallery").glob("*.png"))) == 3 and not (folder / "gallery.png").exists()
    assert "the sheet of gallery in run: too_large" in (folder / "report.html").read_text()
    for asked in ("gallery=3", "gallery=2"):
        code, out, _ = command(*given, asked)
        assert code == 0 and "nothing to do" in out
    assert (folder / "expressions.jsonl").stat().st_mtime_ns == rows.st_mtime_ns


def test_an_ending_of_an_earlier_version_asks_for_no_pictures(tmp_path):
    (tmp_path / "report.html").touch()
    write_ending(tmp_path, Ending(galleries={}, plots=[], tracked=True, page=True))
    assert missing(tmp_path, (12, 20)) == []
