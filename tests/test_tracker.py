"""W&B: what is kept offline reads back, nothing that goes wrong there stops or slows a run, no secret leaves the machine."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb
from PIL import Image

from attrbind_exp.commands import dashboard
from attrbind_exp.reporting.references import NAMES
from attrbind_exp.runs.masks import read_masks
from attrbind_exp.tracking.dashboard import GALLERIES, MASKS, TABLES, make_workspace
from attrbind_exp.tracking.wandb_tracker import WandbTracker
from attrbind_exp.types import UserError
from tests.conftest import picture
from tests.test_command import command


def inspect(run_file: Path) -> list[dict]:
    """All records of an offline run, by W&B's own tool."""
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run_file.parent)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_an_offline_wandb_run_reads_back(tmp_path, refer_folder):
    out = tmp_path / "run"
    given = [
        f"dataset.root={refer_folder.parent}",
        "dataset.name=tiny",
        "gallery=2",
        "changed=0",
        "text_processor=ablation",
    ]
    code, _, err = command("tracker=wandb", "tracker.mode=offline", f"hydra.run.dir={out}", *given)
    assert code == 0, err
    (run_file,) = out.glob("wandb/offline-run-*/*.wandb")
    text = json.dumps(inspect(run_file))
    for word in ("attribute_binding", "mIoU", "threshold_curve", "gallery", "expressions", "tiny"):
        assert word in text, word
    media = run_file.parent / "files" / "media"
    assert len(list(media.glob("images/gallery_[0-9]*.png"))) == 2
    assert len(list(media.glob("images/gallery_masks_*.png"))) == 2
    (shown,) = (p["gallery_masks.all_masks"] for p in points(run_file) if "gallery_masks.all_masks" in p)
    _, kept = read_masks(out / "gallery" / "gallery_000.npz")
    assert set(shown[0]) == set(kept) > {"ground truth", "baseline"}
    for name, mask in kept.items():
        laid = np.asarray(Image.open(run_file.parent / "files" / shown[0][name]["path"]))
        assert (laid == mask.labels).all() and mask.labels.any()
    assert "gallery_masks_wandb_delimeter_ground truth" in text
    tables = {f.name.split("_")[0]: json.loads(f.read_text()) for f in media.glob("table/*.table.json")}
    assert len(tables["expressions"]["data"]) == 5 and "the white star" in tables["expressions"]["data"][0]
    assert len(tables["threshold"]["data"]) == 6 * 101


def test_unknown_tracker_mode_is_named(tmp_path):
    with pytest.raises(UserError, match="auto, online, offline"):
        WandbTracker(tmp_path, {}, "p", mode="cloud")


def run_files(folder):
    """The offline runs below a folder."""
    return sorted(folder.glob("**/offline-run-*/*.wandb"))


def told(records):
    """What W&B's log says the run is: its group, kind and configuration."""
    (run,) = (r["run"] for r in records if r["type"] == "run")
    return run


def alpha_plot():
    """What the workspace's alpha curve is drawn over, and the regular expression of what is drawn."""
    found = json.loads(make_workspace("team", "project")._to_model().model_dump_json(by_alias=True))
    alpha, *_ = found["spec"]["section"]["panelBankConfig"]["sections"]
    plot = alpha["panels"][0]["config"]
    assert plot["useMetricRegex"]
    return plot["xAxis"], re.compile(plot["metricRegex"])


def points(run_file):
    """What a run's log has point by point, in order."""
    return [r["history"]["item"] for r in inspect(run_file) if r["type"] == "history"]


def test_a_sweep_leaves_its_runs_in_one_group_and_a_report(tmp_path, refer_folder):
    given = (f"dataset.root={refer_folder.parent}", "dataset.name=tiny", "gallery=2", "tracker.mode=offline")
    sweep = tmp_path / "outputs" / "sweep" / "alphas"
    code, out, err = command(
        "-m", "alpha.value=0.5,0.9,[0.1,1]", "text_processor=paper", f"hydra.sweep.dir={sweep}", *given
    )
    assert code == 0, err
    assert f"upload it by: wandb sync {sweep}/wandb {sweep}/*/wandb" in out
    assert {file.parent.parent for file in run_files(sweep)} == {*sweep.glob("wandb"), *sweep.glob("*/wandb")}
    *evals, report = sorted((inspect(f) for f in run_files(sweep)), key=lambda r: told(r)["job_type"])
    assert [told(r)["run_group"] for r in (*evals, report)] == ["sweep/alphas"] * 4
    assert {told(r)["job_type"] for r in evals} == {"eval"} and told(report)["job_type"] == "report"
    assert sorted(told(r)["config"]["update"]["alpha"] for r in evals) == [0.5, 0.9, 1.0]
    made = told(evals[0])["config"]["update"]
    assert made["provenance/torch"] == torch.__version__ and made["identity/dtype"] == "fp32"
    assert not any(isinstance(value, dict) for key, value in made.items() if key != "_wandb")
    assert {told(r)["display_name"] for r in evals} == {
        f"alpha={a},dataset.name=tiny,text_processor=paper" for a in ("0.5", "0.9", "[0.1,1]")
    }
    assert told(report)["display_name"] == "report of sweep/alphas"
    assert told(evals[0])["tags"] == ["tiny test", "bundled", "test"]
    (file,) = (f for f in run_files(sweep) if f.parent.parent.parent == sweep)
    tables = {f.name.split("_")[0]: json.loads(f.read_text()) for f in file.parent.glob("files/media/table/*.json")}
    rows = [dict(zip(tables["results"]["columns"], row, strict=True)) for row in tables["results"]["data"]]
    by_name = {row["variant"]: row for row in rows}
    # The baseline of all runs is one row; the alphas of two runs are compared with it. The data are not the paper's.
    assert [r["variant"] for r in rows if r["variant"] == "baseline"] == ["baseline"]
    assert all(row["paper"] is None for row in rows)
    assert list(by_name)[-3:] == list(NAMES)[:3] and "text_blind" in by_name
    ours = {name: row for name, row in by_name.items() if name not in ("baseline", *NAMES)}
    assert len(ours) == 5 and all(
        row["low oracle"] <= row["difference oracle"] <= row["high oracle"] for row in ours.values()
    )
    lines = {row[1] for row in tables["alpha"]["data"]}
    assert len(lines) == 1
    # The workspace draws every alpha of the sweep once, each as high as its row says; the run of two has one summary.
    x, named = alpha_plot()
    drawn = [{**p} for f in run_files(sweep) for p in points(f) if x in p]
    heights = {p[x]: [p[key] for key in p if named.search(key)] for p in drawn}
    assert len(drawn) == 4 and list(heights) == [0.1, 0.5, 0.9, 1]
    alpha_of = {row["alpha"]: row["mIoU oracle"] for row in rows if row["alpha"] is not None}
    assert heights == {alpha: [pytest.approx(mIoU)] for alpha, mIoU in alpha_of.items()}
    for run in run_files(sweep):
        named = [f["path"] for r in inspect(run) if r["type"] == "files" for f in r["files"]["files"]]
        media = [name for name in named if name.startswith("media/")]
        assert media and all((run.parent / "files" / name).is_file() for name in media)


class Refusing(http.server.BaseHTTPRequestHandler):
    """A W&B that has had too many requests."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(429)
        self.send_header("content-length", "0")
        self.end_headers()

    do_GET = do_PUT = do_POST

    def log_message(self, *_): ...


@pytest.fixture
def too_many_requests():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


SECRET = "0123456789abcdef" * 2 + "feedbeef"


@pytest.fixture
def online(monkeypatch):
    """An account, and little patience."""
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setattr(WandbTracker, "START", 2)


@pytest.mark.parametrize("where", ["nobody listens", "too many requests"])
def test_a_run_ends_without_wandb_and_says_how_to_upload(
    tmp_path, refer_folder, online, monkeypatch, where, too_many_requests
):
    monkeypatch.setenv("WANDB_BASE_URL", too_many_requests if "many" in where else "http://127.0.0.1:9")
    given = (f"dataset.root={refer_folder.parent}", "dataset.name=tiny", "gallery=1", "changed=0")
    code, out, err = command(f"hydra.run.dir={tmp_path / 'run'}", *given)
    assert code == 0, err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["n_scored"] == 5
    (file,) = run_files(tmp_path / "run")
    assert "W&B: not everything was uploaded" in out and f"upload it by: wandb sync {file.parent}" in out
    assert "expressions" in json.dumps(inspect(file))
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


def test_what_fails_later_is_told_at_the_end_and_stops_nothing(tmp_path, monkeypatch):
    tracker = WandbTracker(tmp_path, {}, "p", mode="offline")

    def crash(*_, **__):
        raise RuntimeError("the service is gone")

    with monkeypatch.context() as patch:
        patch.setattr(tracker._run, "log", crash)
        tracker.table("t", ["a"], [[1]])
        tracker.images("i", {"nowhere": tmp_path / "missing.png"})
        patch.setattr(tracker._run, "finish", crash)
        said = tracker.close()
    tracker._run.finish()
    assert said is not None and "the service is gone" in said and "wandb sync" in said


def test_the_second_run_of_a_process_keeps_its_media_in_its_own_folder(tmp_path):
    picture(20, 20).save(tmp_path / "x.png")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        tracker = WandbTracker(tmp_path / name, {}, "p", mode="offline")
        tracker.table("t", ["a"], [[1]])
        tracker.images("i", {"x": tmp_path / "x.png"})
        assert "kept offline" in tracker.close()
        assert list((tmp_path / name).glob("wandb/artifacts/staging/*"))
        assert list((tmp_path / name).glob("wandb/offline-run-*/files/media/images/*.png"))


def test_the_workspace_speaks_of_what_is_logged():
    made = make_workspace("team", "project", "table3_alpha/shapes_bundled")._to_model().model_dump_json(by_alias=True)
    for word in (*TABLES, *GALLERIES, *MASKS, "summary_metrics.mIoU", "table3_alpha/shapes_bundled"):
        assert f'"{word}"' in made, word
    everything = make_workspace("team", "project")._to_model().model_dump_json(by_alias=True)
    assert '"grouping":[]' in everything.replace(" ", "")  # a panel would show the mean over the alphas of a sweep


@pytest.fixture
def fresh_wandb(monkeypatch):
    """W&B as a new process has it: variables are read when a run starts."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    wandb.teardown()
    yield monkeypatch
    wandb.teardown()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("WANDB_MODE", "nonsense", "WANDB_MODE: Input should be 'online'"),
        ("WANDB_API_KEY", "s3cret", "WANDB_API_KEY invalid"),
        ("WANDB_BASE_URL", "junk", "WANDB_BASE_URL: Input should be a valid URL"),
        ("WANDB_PROJECT", "a/b/c", "Invalid project name 'a/b/c'"),
        ("WANDB_SILENT", "maybe", "WANDB_SILENT: Input should be a valid boolean"),
        ("WANDB_SERVICE", "junk", "WANDB_SERVICE"),
    ],
)
def test_a_variable_that_wandb_refuses_costs_one_line_and_the_run_is_kept(tmp_path, fresh_wandb, name, value, words):
    fresh_wandb.setenv(name, value)
    tracker = WandbTracker(tmp_path, {}, "p")
    tracker.summary({"mIoU": 1.0})
    said = tracker.close()
    (file,) = run_files(tmp_path)
    assert words in said and said.endswith(f"upload it by: wandb sync {file.parent}") and said.isprintable()
    assert "s3cret" not in said and os.environ[name] == value


@pytest.mark.parametrize(
    ("name", "value"),
    [("WANDB_DIR", "/proc/nowhere"), ("WANDB_MODE", "dryrun"), ("WANDB_ENTITY", "a/b c"), ("WANDB_RESUME", "must")],
)
def test_a_variable_that_wandb_takes_changes_nothing_for_the_run_folder(tmp_path, fresh_wandb, name, value):
    fresh_wandb.setenv(name, value)
    said = WandbTracker(tmp_path, {}, "p").close()
    (file,) = run_files(tmp_path)
    assert said == f"W&B run kept offline; upload it by: wandb sync {file.parent}"


def test_nothing_is_kept_for_wandb_where_it_is_disabled(tmp_path, fresh_wandb):
    fresh_wandb.setenv("WANDB_DISABLED", "true")
    assert WandbTracker(tmp_path, {}, "p").close() is None and not run_files(tmp_path)


def test_runs_keep_apart_though_one_id_is_set_for_all(tmp_path, fresh_wandb):
    fresh_wandb.setenv("WANDB_RUN_ID", "one")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        WandbTracker(tmp_path / name, {}, "p", mode="offline").close()
    ids = {told(inspect(file))["run_id"] for file in run_files(tmp_path)}
    assert len(ids) == 2 and "one" not in ids


def test_the_upload_of_a_run_in_a_folder_with_quotes_can_be_pasted(tmp_path):
    folder = tmp_path / "it's $HOME\n"
    folder.mkdir()
    said = WandbTracker(folder, {}, "p", mode="offline").close()
    (file,) = run_files(folder)
    assert said.isprintable()
    typed = said.partition("upload it by: ")[2]
    shown = subprocess.run(["bash", "-c", f"printf '%s\\0' {typed}"], capture_output=True, check=True).stdout
    assert shown.decode().split("\0")[:-1] == ["wandb", "sync", str(file.parent)]


def test_where_wandb_cannot_even_stay_offline_the_run_goes_on(tmp_path, monkeypatch):
    def fail(**_):
        raise RuntimeError("no service\nmore")

    monkeypatch.setattr(wandb, "init", fail)
    tracker = WandbTracker(tmp_path, {}, "p", mode="offline")
    tracker.table("t", ["a"], [[1]])
    assert tracker.close() == (
        "W&B: nothing is kept for it (no service; offline: no service); the run's folder has everything"
    )


def test_a_project_that_wandb_refuses_is_named_before_anything_is_scored(tmp_path):
    with pytest.raises(UserError, match=r"tracker\.project='a/b' is refused by W&B: Invalid project name"):
        WandbTracker(tmp_path, {}, "a/b", mode="offline")


def test_the_dashboard_names_a_refused_variable_in_one_line(fresh_wandb, capsys):
    fresh_wandb.setenv("WANDB_BASE_URL", "junk")
    fresh_wandb.setattr(sys, "argv", ["dashboard", "team/project"])
    with pytest.raises(SystemExit) as end:
        dashboard.main()
    *_, line = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and "error: W&B refused: " in line and "valid URL" in line
