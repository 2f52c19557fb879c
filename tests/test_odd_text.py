"""Newlines, escape sequences, markup and broken characters in what people write; and the end of a run, cut short."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attrbind_exp.data.broken_text import without_broken_text
from attrbind_exp.data.dataset import Dataset
from attrbind_exp.data.rows import read_rows as read_table
from attrbind_exp.evaluation import loop
from attrbind_exp.reporting import figures, plots
from attrbind_exp.reporting.html import page
from attrbind_exp.reporting.tables import markdown
from attrbind_exp.runs.board import Board
from attrbind_exp.runs.index import Launched
from attrbind_exp.runs.rows import encode_rows, read_images
from attrbind_exp.runs.store import RunStore, read_failures
from attrbind_exp.types import Failure, Sample, UserError
from tests.conftest import picture
from tests.made_runs import expression_row
from tests.test_command import command

TEXTS = {x["name"]: x["expression"] for x in json.loads((Path(__file__).parent / "cases/texts.json").read_text())}
FAILED = {"blanks only": "empty_expression", "empty": "empty_expression", "half a surrogate pair": "broken_text"}
WHOLE = {name: text for name, text in TEXTS.items() if name != "half a surrogate pair"}
# What a terminal obeys, or what turns or hides the text around it.
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ud800-\udfff]")
SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]
MODEL = ("model=bundled", "tracker=none")


def write_folder(folder, texts=TEXTS):
    """A picture and a table that asks for these expressions by name."""
    folder.mkdir()
    picture(40, 60).save(folder / "a.png")
    rows = [{"image": "a.png", "id": name, "expression": text, "mask": SQUARE} for name, text in texts.items()]
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"dataset.root={folder}"


def start(data, folder, *more):
    return command("dataset=folder", data, *MODEL, f"hydra.run.dir={folder}", *more)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A run over all texts with every one drawn: (folder, exit code, stdout, stderr)."""
    root = tmp_path_factory.mktemp("odd")
    return root / "run", *start(write_folder(root / "data"), root / "run", "gallery=30", "alpha=0.9")


def test_every_text_is_scored_or_counted(odd):
    folder, code, _, err = odd
    assert (code, err) == (0, ""), err
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["n"], summary["n_scored"], summary["n_failed"]) == (24, 21, 3)
    assert {f.sample_id: f.reason for f in read_failures(folder)} == FAILED
    (rows,) = [rows for _, rows in read_images(folder)]
    read = {row.sample_id: row.expression for row in rows}
    assert read == {name: text.strip() for name, text in TEXTS.items() if name not in FAILED}
    assert len((folder / "expressions.jsonl").read_bytes().split(b"\n")) == 21 + 1
    assert len(list((folder / "gallery").glob("gallery_*.png"))) == 21 and (folder / "gallery.png").is_file()
    assert (folder / "report.html").is_file() and not (folder / "gallery" / "not_drawn.jsonl").exists()
    assert not list(folder.rglob("*.partial"))


def test_neither_terminal_nor_page_shows_a_control_character(odd):
    folder, _, out, err = odd
    text = (folder / "report.html").read_text()
    assert not CONTROLS.search(out + err)
    assert not CONTROLS.search(text), CONTROLS.search(text)
    data = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)[1]
    assert not re.search(r"\\u(00[01]|007f|00[89]|202[a-e])", data)
    assert "[31m" not in data and "<script>alert" not in data and "[red]square[/red]" in data
    names = [str(file.relative_to(folder)) for file in folder.rglob("*")]
    assert not CONTROLS.search("".join(names))


def test_refer_annotations_may_hold_any_text_too(tmp_path, refer_folder):
    file = refer_folder / "refs(made).json"
    refs = json.loads(file.read_text())
    refs[0]["sentences"] = [
        {"sent_id": number, "sent": text, "raw": text, "tokens": []} for number, text in enumerate(TEXTS.values())
    ]
    file.write_text(json.dumps(refs[:1]))
    given = ("dataset.name=tiny", f"dataset.root={refer_folder.parent}", "gallery=0", "changed=0", "alpha=0.9")
    code, _, err = command(*MODEL, *given, f"hydra.run.dir={tmp_path / 'run'}")
    assert code == 0, err
    reasons = {f.sample_id.rpartition(":")[2]: f.reason for f in read_failures(tmp_path / "run")}
    assert reasons == {str(number): FAILED[name] for number, name in enumerate(TEXTS) if name in FAILED}


def test_rows_are_read_back_as_they_were_written(tmp_path):
    rows = [
        expression_row(("baseline", None), name, 0.5, image_id=text, expression=text, slices={text: text}, fallbacks=[])
        for name, text in WHOLE.items()
    ]
    with RunStore(tmp_path, "key") as store:
        store.add_rows(rows)
        assert [row for row, _ in store.read_rows()] == [*rows]
    assert [row for _, found in read_images(tmp_path) for row in found] == rows
    assert encode_rows(rows).count(b"\n") == len(rows)


def test_failures_are_read_back_as_they_were_written(tmp_path):
    failures = [Failure(text, "reason", f"said {text}") for text in TEXTS.values()]
    with RunStore(tmp_path, "key") as store:
        store.add_failures(failures)
        assert store.read_failures() == failures
    assert read_failures(tmp_path) == failures
    assert (tmp_path / "failures.jsonl").read_bytes().count(b"\n") == len(failures)


@pytest.mark.parametrize("escaped", [True, False])
def test_tables_of_json_lines_are_cut_at_newlines_alone(tmp_path, escaped):
    lines = [json.dumps({"text": text}, ensure_ascii=escaped) for text in (TEXTS if escaped else WHOLE).values()]
    (tmp_path / "t.jsonl").write_bytes("".join(f"{line}\n" for line in lines).encode())
    found = [row["text"] for _, row in read_table(tmp_path / "t.jsonl", ["text"])]
    assert found == [*(TEXTS if escaped else WHOLE).values()]


def test_tables_of_csv_are_cut_at_newlines_alone(tmp_path):
    with open(tmp_path / "t.csv", "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([["text"], *([text] for text in WHOLE.values())])
    assert [row["text"] for _, row in read_table(tmp_path / "t.csv", ["text"])] == [*WHOLE.values()]
    for odd in ("\v", "\f", "\x1c", "\x85", "\u2028", "\u2029", "\0"):  # without quotes
        (tmp_path / "t.csv").write_bytes(f"id,text\na,red{odd}square\nb,star\n".encode())
        assert [row["text"] for _, row in read_table(tmp_path / "t.csv", ["text"])] == [f"red{odd}square", "star"]
    (tmp_path / "t.csv").write_bytes(b"id,text\na,red\rsquare\nb,star\n")
    with pytest.raises(UserError, match="line 2"):
        [*read_table(tmp_path / "t.csv", ["text"])]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_may_end_their_lines_in_any_usual_way(tmp_path, end):
    for name, lines in {"t.csv": ["text", "red", '"b,c"'], "t.jsonl": ['{"text": "red"}', '{"text": "b,c"}']}.items():
        (tmp_path / name).write_bytes("".join(line + end for line in lines).encode())
        assert [row["text"] for _, row in read_table(tmp_path / name, ["text"])] == ["red", "b,c"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the white star", "the white star"), ("über die Straße", "über die Straße"), ("red\nsquare", "red square"),
        ("red\r\n\tsquare", "red   square"), ("a\x85b\u2028c\u2029d\ve\ff", "a b c d e f"), ("a\0b", "a\ufffdb"),
        ("\x1b[31mred\x1b[0m", "red"), ("\x9b1;31mred", "red"), ("\x1b]0;title\x07red", "red"), ("\x1b]8;;http://x\x1b\\red", "red"),
        ("\x1b(Bred\x1bc", "red"), ("\x1b]0;never ended", "0;never ended"), ("a\x1b", "a\ufffd"), ("\ud83d", "\ufffd"),
        ("\u202ered\u2066\ufeff", "red"), ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"), ("[red]x[/red]", "[red]x[/red]"),
        ("a" * 299 + "bc", "a" * 223 + " … " + "a" * 72 + "bc"),
    ],
    ids=ascii,
)  # fmt: skip
def test_what_is_shown_of_a_text(text, shown):
    from attrbind_exp.runs.shown import clean

    assert clean(text) == shown and len(clean(text * 1000)) <= 300
    assert all(len(clean(text * 50, limit)) <= limit for limit in range(1, 12))


def test_pictures_are_drawn_under_any_title(tmp_path):
    image = np.full((40, 12, 3), 90, np.uint8)
    for number, text in enumerate(TEXTS.values()):
        path = figures.panels({"image": image, f"b {text}"[:400]: image}, text, tmp_path / f"{number}.png", text)
        assert Image.open(path).height > 240
    names = [f"{text}$x_{{" for text in TEXTS.values()]  # two dollars would begin a formula
    plots.threshold_curve({name[:90] + "$a^$b": np.linspace(0, 1, 101) for name in names}, tmp_path / "curve.png")
    assert not list(tmp_path.glob("*.partial"))


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path, image = tmp_path / "p.png", np.full((9, 9, 3), 90, np.uint8)
    before = figures.panels({"image": image}, "title", path).read_bytes()
    save = Image.Image.save

    def cut_short(self, to, *given, **more):
        save(self, to, *given, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", cut_short)
    with pytest.raises(KeyboardInterrupt):
        figures.panels({"image": image}, "another", path)
    assert path.read_bytes() == before


def test_the_board_takes_names_and_errors_as_text(tmp_path, capsys):
    run = Launched("[red]a[/red] \x1b[2Jb\nc [/", str(tmp_path / "1"), "again")
    with Board(tmp_path, [run]) as board:
        board.set(0, "failed", "no \x1b]0;x\x07[bold]luck[/]\0")
        board.console.print(board._table())
    out = capsys.readouterr().out
    assert "[red]a[/red] b c [/  failed  no [bold]luck[/]\ufffd" in out and out.count("[red]a[/red] b c [/") == 2
    assert not CONTROLS.search(out)


def test_tables_and_errors_reach_the_terminal_cleaned(tmp_path):
    import pandas as pd

    assert "\x1b" not in markdown(pd.DataFrame([["a\x1b[1mb\nc", "1"]], columns=["x", "n"]))
    write_folder(tmp_path / "data")
    (tmp_path / "data" / "table.jsonl").write_text(json.dumps({"imag\x1b[31me": "a.png"}))
    code, _, err = start(f"dataset.root={tmp_path / 'data'}", tmp_path / "run")
    assert code == 2 and "no column 'image', only image" in err and not CONTROLS.search(err)


# The end of a run.

SMALL = ("gallery=3", "changed=2", "text_processor=paper")
FOUR = {name: TEXTS[name] for name in ("newline", "html", "escape sequence", "only digits")}
END = ("report.html", "gallery.png", "threshold_curve.png", "gallery/gallery_000.png", "gallery/gallery_002.png")


def scored(folder):
    """What scoring leaves, with its times."""
    names = ("expressions.jsonl", "summary.json", "ablation.md", "ablation.csv", "failures.jsonl")
    return {name: (folder / name).read_bytes() for name in names}


def test_a_picture_that_cannot_be_drawn_is_left_out_and_named(tmp_path, monkeypatch):
    draw = figures.panels

    def fail(pictures, title, path, sample_id=None, *more):
        if sample_id == "html":
            raise RuntimeError("no \x1b[31mglyph")
        return draw(pictures, title, path, sample_id, *more)

    monkeypatch.setattr(figures, "panels", fail)
    data = write_folder(tmp_path / "data", FOUR)
    code, _, err = start(data, tmp_path / "run", "gallery=4", "changed=0", "alpha=0.9")
    assert code == 0 and "1 pictures could not be drawn" in err and "Traceback" not in err
    (line,) = (tmp_path / "run" / "gallery" / "not_drawn.jsonl").read_text().strip().split("\n")
    assert json.loads(line) == {"gallery": "gallery", "sample_id": "html", "message": "RuntimeError: no glyph"}
    assert len(list((tmp_path / "run" / "gallery").glob("*.png"))) == 3
    assert "html of gallery in run: RuntimeError: no glyph" in (tmp_path / "run" / "report.html").read_text()
    code, out, _ = start(data, tmp_path / "run", "gallery=4", "changed=0", "alpha=0.9")
    assert code == 0 and "nothing to do" in out


def test_a_picture_that_the_page_cannot_take_is_named_on_it(odd, monkeypatch, tmp_path):
    from attrbind_exp.reporting.html import pictures
    from attrbind_exp.reporting.write import make_report

    read = pictures.describe

    def fail(image, path):
        if path.name == "gallery_003.png":
            raise RuntimeError("broken")
        return read(image, path)

    monkeypatch.setattr(pictures, "describe", fail)
    text = make_report(odd[0]).read_text()
    assert "Not readable: gallery_003.png" in text and text.count("data:image/jpeg") > 20


def test_summary_and_tables_come_first_then_pictures_tracker_and_page(tmp_path, monkeypatch):
    from attrbind_exp.reporting import track

    seen = []

    def note(module, name, label):
        original = getattr(module, name)

        def noted(*given, **more):
            seen.append(label)
            return original(*given, **more)

        monkeypatch.setattr(module, name, noted)

    note(RunStore, "write_summary", "summary")
    note(figures, "panels", "picture")
    note(plots, "threshold_curve", "curve")
    note(track, "track_run", "tracker")
    note(page, "make_page", "page")
    monkeypatch.setattr("attrbind_exp.reporting.html.page.make_page", page.make_page)
    code, _, err = start(write_folder(tmp_path / "data", FOUR), tmp_path / "run", *SMALL)
    assert code == 0, err
    assert list(dict.fromkeys(seen)) == ["summary", "picture", "curve", "tracker", "page"]


@pytest.mark.parametrize("where", ["panels", "sheet", "threshold_curve", "track_run", "make_page"])
def test_an_end_that_was_cut_short_is_made_by_the_same_command(tmp_path, monkeypatch, where):
    from attrbind_exp.reporting import track

    data, folder = write_folder(tmp_path / "data", FOUR), tmp_path / "run"
    module = {"track_run": track, "make_page": page, "threshold_curve": plots}.get(where, figures)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, where, killed)
        assert start(data, folder, *SMALL)[0] == 130
    before = scored(folder)
    assert not (folder / "report.html").exists()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "score", killed)
        code, out, err = start(data, folder, *SMALL)
        assert code == 0 and "made again" in out, err
    assert scored(folder) == before and all((folder / name).is_file() for name in END)
    assert "gallery" in (folder / "report.html").read_text() and not list(folder.rglob("*.partial"))
    code, out, _ = start(data, folder, *SMALL)
    assert code == 0 and "nothing to do" in out


@pytest.mark.parametrize("gone", END)
def test_what_was_removed_of_the_end_is_made_again(ended, gone):
    folder, data = ended
    before = scored(folder)
    was = (folder / gone).read_bytes()
    (folder / gone).unlink()
    code, out, err = start(data, folder, *SMALL)
    assert code == 0 and "made again" in out, err
    assert scored(folder) == before and all((folder / name).is_file() for name in END)
    assert (folder / gone).suffix != ".png" or (folder / gone).read_bytes() == was


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A small run that is finished: (folder, where its data lie)."""
    root = tmp_path_factory.mktemp("ended")
    data = write_folder(root / "data", FOUR)
    code, _, err = start(data, root / "run", *SMALL)
    assert code == 0, err
    return root / "run", data


def test_a_page_alone_and_a_finished_run_load_no_model(ended):
    folder, data = ended
    given = ["dataset=folder", data, *MODEL, f"hydra.run.dir={folder}", *SMALL]
    for said, gone in (("page made again", "report.html"), ("nothing to do", None)):
        if gone:
            (folder / gone).unlink()
        again = [sys.executable, "-X", "importtime", "-m", "attrbind_exp.run", *given]
        done = subprocess.run(again, capture_output=True, text=True)
        assert done.returncode == 0 and said in done.stdout and (folder / "report.html").is_file()
        loaded = {line.rpartition("|")[2].strip() for line in done.stderr.split("\n")}
        assert not loaded & {"torch", "diffusers", "spacy"}


def test_files_beside_the_pictures_stay(ended):
    folder, data = ended
    mine = folder / "gallery" / "mine_001.png"
    picture(9, 9).save(mine)
    (folder / "gallery" / "note_002.png").write_text("no picture")
    (folder / "gallery.png").unlink()
    assert start(data, folder, *SMALL)[0] == 0
    assert mine.is_file() and (folder / "gallery" / "note_002.png").read_text() == "no picture"
    mine.unlink(), (folder / "gallery" / "note_002.png").unlink()


# The end of a sweep.

FAILING = ("-m", "alpha=0.9,-1", "dataset.limit=3", "tracker=none", "gallery=0", "changed=0")


@pytest.mark.parametrize("raised", [UserError("no \x1b[31mtable"), RuntimeError("no table"), KeyError("x")], ids=repr)
@pytest.mark.parametrize("step", ["write_results", "report_sweep"])
def test_a_sweep_whose_end_raises_exits_non_zero_and_names_its_failed_runs(tmp_path, monkeypatch, step, raised):
    from attrbind_exp.commands import sweep

    def fail(*_):
        raise raised

    monkeypatch.setattr(sweep, step, fail)
    table = ["+report={title: t, rows: {}}"] if step == "write_results" else []
    code, _, err = command(*FAILING, *table, f"hydra.sweep.dir={tmp_path}")
    assert code == 1 and "failed: alpha=-1: alpha=-1; give a finite number" in err and "\x1b" not in err
    assert str(raised).replace("\x1b[31m", "") in err and ("Traceback" in err) == (not isinstance(raised, UserError))


def test_a_sweep_without_a_shard_exits_non_zero(tmp_path):
    given = ("-m", "shard=0/3,1/3", "dataset.limit=6", "tracker=none", "gallery=0", "changed=0")
    code, _, err = command(*given, f"hydra.sweep.dir={tmp_path}")
    assert code == 1 and "error: " in err and "2/3" in err and "Traceback" not in err


def test_a_slice_of_several_values_is_looked_through_too(tmp_path):
    """A sentence may bring a list of values for a slice; half a surrogate pair in one of them is named."""
    good, bad = (
        Sample(name, "1", tmp_path / "1.png", "a star", None, None, (4, 4), {"kind": ["colour", value]})
        for name, value in (("good", "place"), ("bad", "pl\ud800ce"))
    )
    found = without_broken_text(Dataset("data", [good, bad], []))
    assert [s.sample_id for s in found.samples] == ["good"]
    assert [(f.sample_id, f.reason) for f in found.failures] == [("bad", "broken_text")]
