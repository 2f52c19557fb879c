"""What long work says of itself, and how much is said at all: bars, lines, -v and -q, NO_COLOR."""

import io
import logging
import re
from contextlib import redirect_stderr

import pytest

from attrbind_exp import work
from attrbind_exp.commands.start import MODULES, help_text
from attrbind_exp.commands.table import SAID_HELP
from attrbind_exp.commands.verbosity import take_verbosity, use_verbosity
from attrbind_exp.log import log
from attrbind_exp.reporting.write import make_report
from attrbind_exp.types import UserError
from attrbind_exp.work import Work, duration, each
from tests.made_runs import expression_row, make_summary, variant_figures, write_files
from tests.test_command import command

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[[0-9;]*(3[0-7]|38;[25])[0-9;]*m")
RUN = ("tracker=none", "dataset.limit=2", "text_processor=baseline", "changed=0", "cache.folder=null")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


class Clock:
    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(work, "time", found)
    return found


@pytest.fixture
def terminal(monkeypatch):
    """Makes stderr a terminal of 100 columns and 256 colours, without NO_COLOR."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}.items():
        monkeypatch.setenv(name, value)
    return redirect_stderr(Terminal())


def test_a_line_says_what_how_far_how_fast_how_long_still_and_what_failed(clock):
    far = Work("scoring", 10, "images", "mIoU 23.1 so far")
    far.advance(2, fresh=False)  # by an earlier start: no part of the rate
    clock.now += 6
    far.advance(3, failed=1)
    assert far.line() == "5 of 10 images, 0.5 images/s, 10 s left, 1 failed, mIoU 23.1 so far"
    assert (far.rate, far.seconds_left) == (0.5, 10)
    assert Work("reading").line() == "" and Work("reading", 4.26, "GB").line() == "0.0 of 4.3 GB"
    assert [duration(s) for s in (0.4, 119, 121, 7199, 7201)] == ["0 s", "119 s", "2 min", "120 min", "2.0 h"]


def test_without_a_terminal_there_is_a_line_every_30_s_and_none_before(clock, capsys):
    with Work("merging", 100, "images") as far:
        said = []
        for _ in range(95):  # seconds
            clock.now += 1
            far.advance()
            said.append(capsys.readouterr())
    assert {s.out for s in said} == {""}
    assert {i + 1: s.err for i, s in enumerate(said) if s.err} == {
        30: "merging: 30 of 100 images, 1.0 images/s, 70 s left\n",
        60: "merging: 60 of 100 images, 1.0 images/s, 40 s left\n",
        90: "merging: 90 of 100 images, 1.0 images/s, 10 s left\n",
    }
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar_ten_times_a_second_at_most_which_goes(clock, terminal, capsys):
    with terminal as screen:
        for _ in each(range(40), "short", "rows"):
            clock.now += 0.01
    assert screen.getvalue() == ""
    drawn = 0
    with terminal as screen, Work("scoring", 2000, "images") as far:
        for number in range(1000):  # 2 s
            clock.now += 0.002
            before = screen.tell()
            far.advance(failed=number == 7)
            drawn += screen.tell() > before
        assert 14 <= drawn <= 16  # from 0.5 s on
        log.warning("WARNING: [bold]as it is[/]")
        shown = ESCAPE.sub("", screen.getvalue())
    assert re.search(r"scoring .+ 9\d\d of 2000 images, 500\.0 images/s, 2 s left, 1 failed", shown)
    assert "WARNING: [bold]as it is[/]" in shown
    assert "failed" not in screen.getvalue().rpartition("\x1b[2K")[2]  # the bar's line is empty again
    assert capsys.readouterr().out == ""


def test_work_within_work_has_a_bar_of_its_own_and_what_comes_later_too(clock, terminal):
    with terminal as screen, Work("outer", 4, "parts") as outer:
        clock.now += 1
        outer.advance()
        for _ in each(range(2), "inner", "rows"):
            clock.now += 1
        assert "inner" in screen.getvalue()
    after = screen.tell()
    with terminal, pytest.raises(RuntimeError), Work("failing", 2) as far:
        clock.now += 1
        far.advance()
        work.end()  # as before an error is said; closing it then harms nothing
        raise RuntimeError
    with terminal, Work("later", 2) as far:
        clock.now += 1
        far.advance()
    last = screen.getvalue()[after:]
    assert "failing" in last and "later" in last and "outer" not in last


@pytest.mark.parametrize(("variable", "value"), [(None, ""), ("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_are_off_where_they_are_not_wanted(clock, terminal, monkeypatch, variable, value):
    if variable:
        monkeypatch.setenv(variable, value)
    with terminal as screen, Work("scoring", 4, "images") as far:
        clock.now += 31
        far.advance()
    said = screen.getvalue()
    assert bool(COLOUR.search(said)) == (variable is None)
    assert "1 of 4 images" in ESCAPE.sub("", said)
    if variable == "TERM":
        assert said == "scoring: 1 of 4 images, 0.032 images/s, 93 s left\n"


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_q_shows_no_work_and_no_warning_but_errors(clock, terminal, stream):
    with redirect_stderr(stream()) as found, use_verbosity("quiet"), Work("scoring", 4) as far:
        clock.now += 31
        far.advance()
        log.warning("WARNING: of something")
        log.error("error: of something")
        assert not logging.getLogger("somebody.elses").isEnabledFor(logging.WARNING)
    assert logging.getLogger("somebody.elses").isEnabledFor(logging.WARNING)
    assert found.getvalue() == "error: of something\n"


def test_flags_are_taken_from_anywhere_but_behind_two_dashes():
    assert take_verbosity(["a=1", "-q", "-m"]) == ("quiet", ["a=1", "-m"])
    assert take_verbosity(["--verbose", "-v"]) == ("verbose", [])
    assert take_verbosity(["-m", "--", "-q"]) == (None, ["-m", "--", "-q"])
    with pytest.raises(UserError, match="give one of them"):
        take_verbosity(["-q", "--verbose"])


def test_every_commands_help_names_the_flags():
    assert all(SAID_HELP in help_text(name) for name in MODULES)
    for module in ("report", "merge", "rescore", "results", "study", "dashboard"):
        assert SAID_HELP in command("--help", module=module)[1]


def test_q_leaves_the_last_line_and_v_says_what_is_silent(tmp_path):
    usual = command(*RUN, "gallery=0", f"hydra.run.dir={tmp_path / 'usual'}")
    quiet = command(*RUN, "gallery=0", f"hydra.run.dir={tmp_path / 'quiet'}", "-q")
    verbose = command(*RUN, "gallery=1", f"hydra.run.dir={tmp_path / 'verbose'}", "--verbose")
    assert quiet == (0, f"{tmp_path / 'quiet'}\n", "")
    assert usual[0] == verbose[0] == 0 and usual[2] == ""
    assert len(usual[1].splitlines()) > 5 and usual[1].splitlines()[-1] == str(tmp_path / "usual")
    assert len(verbose[1].splitlines()) == len(usual[1].splitlines())
    for said in ("reading the data: ", "loading the model: ", "batch_size: ", "scoring: ", "drawing: ", "the page: "):
        assert said in verbose[2]
    assert log.level == logging.INFO
    page = command(str(tmp_path / "usual"), "-q", module="report")
    assert page == (0, f"{tmp_path / 'usual' / 'report.html'}\n", "")
    code, out, err = command("alpha=much", "-q")
    assert (code, out) == (2, "") and err.startswith("error: unknown alpha 'much'")
    assert command(str(tmp_path), "-q", "-v", module="merge")[::2] == (
        2,
        "error: -v and -q ask for more and for less; give one of them\n",
    )


def test_a_sweep_with_q_prints_its_folder_alone(tmp_path):
    code, out, err = command(*RUN, "gallery=0", "-m", "seed=1", "-q", f"hydra.sweep.dir={tmp_path}")
    assert (code, out, err) == (0, f"{tmp_path}\n", "")


def test_the_page_draws_a_bar_on_a_terminal_and_elsewhere_a_line_every_30_s(tmp_path, clock, terminal, monkeypatch):
    def tick():  # a second a look
        clock.now += 1
        return clock.now

    names = [("baseline", None), ("ours", 0.9)]
    rows = [expression_row(name, str(number), 0.5) for number in range(40) for name in names]
    write_files(tmp_path, make_summary([variant_figures(name, 50.0, 40) for name in names]), rows)
    with redirect_stderr(io.StringIO()) as said:
        make_report(tmp_path)
    assert said.getvalue() == ""  # less than 30 s
    monkeypatch.setattr(clock, "monotonic", tick)
    with redirect_stderr(io.StringIO()) as said:
        make_report(tmp_path)
    assert said.getvalue() and all(
        re.fullmatch(r"[a-z ]+: [\d.]+ of .*", line) for line in said.getvalue().splitlines()
    )
    with terminal as screen:
        make_report(tmp_path)
    assert {"reading settings", "reading rows", "comparing"} <= set(
        re.findall(r"[a-z]+ ?[a-z]+", ESCAPE.sub("", screen.getvalue()))
    )
    assert ESCAPE.sub("", screen.getvalue().rpartition("\x1b[2K")[2]).strip() == ""  # nothing is left on the screen


def test_every_long_work_says_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "SAY_EVERY", 0.0)
    shard = (*RUN, "dataset.limit=8", "keep_maps=true", "save_masks=rle")

    def said(*arguments, module="run"):
        code, _, err = command(*arguments, module=module)
        assert code == 0, err
        return {line.partition(":")[0] for line in err.splitlines() if "/s, " in line}

    drawn = {"drawing gallery"}
    run = {"hashing unet/diffusion_pytorch_model.safetensors", "reading", "scoring", "masks", "reading rows"}
    assert said(*shard, "gallery=1", "shard=0/2", f"hydra.run.dir={tmp_path / '0'}") >= run | drawn
    assert said(*shard, "gallery=0", "shard=1/2", f"hydra.run.dir={tmp_path / '1'}") >= run
    assert said(str(tmp_path), module="merge") >= {"reading", "merging", "reading rows"}
    assert said(str(tmp_path / "0"), "threshold=0.5", module="rescore") >= {"reading", "rescoring", "reading rows"}
    assert said("dataset.limit=4", f"hydra.run.dir={tmp_path / 'p'}", module="parse") >= {"parsing", "writing"}
    page = {"reading settings", "reading rows", "comparing"}
    assert said(str(tmp_path / "0"), module="report") == page | {"pictures of the page"}
    assert said(str(tmp_path), module="report") == page | {"reading summaries"}
    assert said(str(tmp_path / "0"), "--figure", "all", module="report") == page | {"figures for a paper"}
    assert "looking for" in said("tracker=none", module="doctor")
