"""What a run was made of must agree where it goes on; what it was made with is written down, part by part."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from attrbind_exp.backbones import weights_digest as digests
from attrbind_exp.backbones.weights_digest import weights_digest
from attrbind_exp.commands.parts import check_goes_on, merged_parts, tracked_parts
from attrbind_exp.config import PACKAGE
from attrbind_exp.evaluation import provenance as here
from attrbind_exp.evaluation.source import ROOMS, source_digest
from attrbind_exp.reporting.made_with import difference_line, made_with
from attrbind_exp.reporting.write import write_report
from attrbind_exp.runs.configuration import differing
from attrbind_exp.runs.provenance import Identity, Part, Provenance, differences, encode_parts, in_short, read_parts
from attrbind_exp.runs.summary import read_summary
from attrbind_exp.types import UserError
from tests.made_runs import make_summary, variant_figures, write_files
from tests.test_command import command
from tests.test_data_edited import MOVED, annotation, load
from tests.test_nothing_lost import modelless, run  # noqa: F401

OF = Identity(configuration="c0", data="d0", weights="w0", dtype="fp32", version="1.0")
WITH = Provenance(commit="a" * 40, changed=False, torch="2.12.1", device="cuda", gpu="A100", threads=8)


def part(of=OF, by=WITH, **change):
    return Part(started="2026-01-01T00:00:00Z", identity=replace(of, **change), provenance=by)


def write_parts(folder, *parts):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "provenance.jsonl").write_text(encode_parts(parts))
    return folder


# What a part says, and in what two of them differ.


def test_differences_name_what_differs_and_nothing_else():
    assert differences(OF, OF) == differences(WITH, WITH) == []
    assert differences(OF, replace(OF, weights="w1", dtype="fp16")) == ["weights w0 / w1", "dtype fp32 / fp16"]
    other = replace(WITH, torch="2.13.0", gpu="H100")
    assert differences(WITH, other) == ["torch 2.12.1 / 2.13.0", "GPU A100 / H100"]
    assert differences(WITH, replace(WITH, changed=True)) == ["commit aaaaaaaaaa / aaaaaaaaaa, changed"]
    assert differences(WITH, replace(WITH, gpu=None)) == ["GPU A100 / none"]


def test_what_an_identity_does_not_know_agrees_with_anything():
    assert differences(OF, replace(OF, weights=None)) == differences(replace(OF, weights=None), OF) == []


def test_parts_are_read_as_they_were_written_and_a_torn_last_line_is_left_out(tmp_path):
    assert read_parts(tmp_path) == []
    parts = [part(), part(by=replace(WITH, torch="2.13.0"))]
    write_parts(tmp_path, *parts)
    assert read_parts(tmp_path) == parts
    file = tmp_path / "provenance.jsonl"
    file.write_bytes(file.read_bytes()[:-5])
    assert read_parts(tmp_path) == parts[:1]
    file.write_text("{}\n")
    with pytest.raises(UserError, match=r"provenance\.jsonl' line 1"):
        read_parts(tmp_path)


def test_keys_that_differ_are_named_and_those_that_change_no_figure_are_not():
    before = "seed: 0\nalpha: {value: 0.9}\nmodel: {path: m, device: cpu}\ntracker: {mode: auto}\n"
    now = "seed: 1\nalpha: {value: 0.9}\nmodel: {path: m, device: cuda}\nlimit: [3]\n"
    assert differing(before, now) == ["limit", "seed 0 / 1"]


# The digest of a model's files.


@pytest.fixture
def bundled(tmp_path):
    return Path(shutil.copytree(PACKAGE / "assets" / "bundled", tmp_path / "model"))


def flip_a_byte(file, place=-1000):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def test_one_byte_of_any_part_makes_another_model(bundled):
    seen = {weights_digest(str(bundled))}
    for name in ("unet/diffusion_pytorch_model.safetensors", "vae/config.json", "tokenizer/tokenizer.json"):
        flip_a_byte(bundled / name, -10)
        seen.add(weights_digest(str(bundled)))
    assert len(seen) == 4 and all(len(digest) == 12 for digest in seen)


def test_what_is_not_loaded_does_not_count(bundled):
    before = weights_digest(str(bundled))
    for name in ("samples.png", "unet/diffusion_pytorch_model.fp16.safetensors", "v1-5-pruned.ckpt"):
        (bundled / name).write_bytes(b"other")
    (bundled / "safety_checker").mkdir()
    (bundled / "safety_checker" / "model.safetensors").write_bytes(b"other")
    assert weights_digest(str(bundled)) == before == weights_digest(str(PACKAGE / "assets" / "bundled"))


def test_a_digest_is_kept_until_the_file_is_written_again(bundled, tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "SETTLED", -1)  # a file may be as young as these
    before = weights_digest(str(bundled), str(tmp_path / "cache"))
    assert before == weights_digest(str(bundled))
    hashed = []
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: hashed.append(given) or hashlib.sha256(b"read again"))
    small = sum(f.stat().st_size < digests.KEPT_FROM for f in digests._files(bundled))
    weights_digest(str(bundled), str(tmp_path / "cache"))
    assert len(hashed) == small  # none of the large ones
    monkeypatch.undo()
    flip_a_byte(bundled / "unet" / "diffusion_pytorch_model.safetensors")
    assert weights_digest(str(bundled), str(tmp_path / "cache")) == weights_digest(str(bundled)) != before


def test_a_blob_of_the_hubs_cache_is_named_by_its_digest_and_not_read(bundled, tmp_path):
    before = weights_digest(str(bundled))
    file = bundled / "unet" / "diffusion_pytorch_model.safetensors"
    blob = tmp_path / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
    blob.parent.mkdir()
    file.rename(blob)
    file.symlink_to(blob)
    assert weights_digest(str(bundled)) == before
    blob.write_bytes(b"not looked at")
    assert weights_digest(str(bundled)) == before


def test_a_model_that_is_not_there_has_no_digest(tmp_path):
    assert weights_digest(str(tmp_path / "none")) is weights_digest("nobody/nothing") is None


# What this process scores with.


@pytest.fixture
def checkout(tmp_path):
    """A repository with one file, and its commit."""
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "code.py").write_text("a = 1\n")
    named = ["-c", "user.name=n", "-c", "user.email=e@x"]
    for words in (["init", "-q"], ["add", "."], [*named, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=root, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, check=True, capture_output=True, text=True)
    here.git_state.cache_clear()
    yield root, head.stdout.strip()
    here.git_state.cache_clear()


def test_git_says_the_commit_and_whether_the_tree_was_changed(checkout, monkeypatch):
    root, commit = checkout
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as a hook sets it
    assert here.git_state(root) == (commit, False)
    (root / "code.py").write_text("a = 2\n")
    here.git_state.cache_clear()
    assert here.git_state(root) == (commit, True)


def test_a_repository_further_up_is_somebody_elses(checkout):
    (checkout[0] / "site-packages").mkdir()
    assert here.git_state(checkout[0] / "site-packages") == (None, None)


@pytest.mark.parametrize("script", [None, "exec sleep 60", "echo broken; exit 128", "echo '# branch.oid (initial)'"])
def test_without_an_answer_of_git_nothing_is_known_and_nothing_waits(checkout, tmp_path, monkeypatch, script, capfd):
    (tmp_path / "bin").mkdir()
    if script:
        (tmp_path / "bin" / "git").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}" + (os.pathsep + "/bin:/usr/bin" if script else ""))
    monkeypatch.setattr(here, "GIT_SECONDS", 0.2)
    assert here.git_state(checkout[0]) == (None, None)
    assert capfd.readouterr() == ("", "")


def test_precision_is_named_as_it_is_given():
    found = [here.dtype_name(d) for d in (torch.float32, torch.float16, torch.bfloat16, torch.float64)]
    assert found == ["fp32", "fp16", "bf16", "float64"]


def test_versions_are_those_of_the_libraries_and_nothing_private_is_told():
    told = here.surroundings(torch.device("cpu"))
    assert (told.torch, told.device, told.gpu, told.driver) == (torch.__version__, "cpu", None, None)
    assert told.threads == torch.get_num_threads() and told.spacy_model.startswith("en_core_web_sm")
    text = encode_parts([part(by=told)])
    assert not any(word in text for word in (str(Path.home()), str(PACKAGE), os.uname().nodename, "/"))


# A run that is started again.


def given(folder, model, *more):
    small = ("dataset.limit=12", "tracker=none", "gallery=0", "changed=0", "batch_size=4", "text_processor=baseline")
    return (*small, f"model.path={model}", f"hydra.run.dir={folder}", f"cache.folder={folder.parent / 'cache'}", *more)


def cut_short(folder):
    """As a kill would leave the run: some rows, no summary."""
    (folder / "summary.json").unlink()
    rows = (folder / "expressions.jsonl").read_bytes()
    (folder / "expressions.jsonl").write_bytes(b"".join(rows.splitlines(keepends=True)[:-4]))
    return rows


def test_a_run_goes_on_with_the_same_weights_and_says_what_else_changed(bundled, tmp_path, monkeypatch):
    folder, unet = tmp_path / "run", bundled / "unet" / "diffusion_pytorch_model.safetensors"
    code, out, err = command(*given(folder, bundled))
    assert code == 0, err
    first = read_summary(folder)
    assert (first.identity.dtype, first.identity.weights) == ("fp32", weights_digest(str(bundled)))  # of dtype "auto"
    assert [p.provenance for p in read_parts(folder)] == list(first.provenance) and "WARNING" not in err
    assert "made with attrbind_exp 0.1.0" in out and "; cpu, fp32" in out

    flip_a_byte(unet)
    names = f"weights {first.identity.weights} / {weights_digest(str(bundled))}"
    code, _, err = command(*given(folder, bundled))  # finished
    assert code == 2 and names in err and "finished with another model" in err
    rows = cut_short(folder)
    cut = (folder / "expressions.jsonl").read_bytes()
    code, _, err = command(*given(folder, bundled))
    assert code == 2 and names in err and "put back what was there before, or remove the folder" in err
    assert (folder / "expressions.jsonl").read_bytes() == cut and len(read_parts(folder)) == 1

    flip_a_byte(unet)  # put back
    surroundings = here.surroundings
    monkeypatch.setattr(here, "surroundings", lambda *given: replace(surroundings(*given), torch="9.9", changed=True))
    code, out, err = command(*given(folder, bundled))
    assert code == 0 and (folder / "expressions.jsonl").read_bytes() == rows
    warnings = [line for line in err.splitlines() if line.startswith("WARNING: this run goes on")]
    assert len(warnings) == 1 and f"torch {torch.__version__} / 9.9" in warnings[0]
    last = read_summary(folder)
    assert [p.torch for p in last.provenance] == [torch.__version__, "9.9"] and last.mIoU == first.mIoU
    assert len(read_parts(folder)) == 2 and "in 2 parts that differ" in out
    page = (folder / "report.html").read_text()
    assert (
        f'<th scope="row">torch</th><td>{torch.__version__} / 9.9</td>' in page
        and "Made on a changed working tree" in page
    )
    assert "The parts of this run differ in:" in page

    code, _, err = command(*given(folder, bundled, "seed=1"))
    assert code == 2 and "seed 0 / 1" in err and "batch_size" not in err


def test_where_nothing_is_scored_nothing_can_be_mixed(bundled, tmp_path):
    folder = tmp_path / "run"
    write_parts(folder, part(weights="of an earlier start"))
    code, _, err = command(*given(folder, bundled))
    assert code == 0 and "WARNING" not in err and len(read_parts(folder)) == 1


def test_other_data_are_refused_most_exactly_where_they_were_scored(tmp_path, modelless, refer_folder):  # noqa: F811
    run(load(refer_folder), tmp_path / "run")
    with pytest.raises(UserError, match="cannot go on: data d0 / d1"):
        check_goes_on(part(), part(data="d1"), load(refer_folder), tmp_path / "run")
    annotation(0, segmentation=MOVED)(refer_folder)
    with pytest.raises(UserError, match="the annotations of image '1' were edited"):
        check_goes_on(part(), part(data="d1"), load(refer_folder), tmp_path / "run")


# Shards, trackers, tables.


def test_shards_of_other_weights_are_no_parts_of_one_run(tmp_path):
    shards = {f"{k}/2": tmp_path / str(k) for k in range(2)}
    other = replace(WITH, torch="2.13.0")
    write_parts(shards["0/2"], part(configuration="shard 0"))
    write_parts(shards["1/2"], part(configuration="shard 1"), part(configuration="shard 1", by=other))
    found = merged_parts(shards, "whole")
    assert [p.provenance for p in found] == [WITH, WITH, other]
    assert {p.identity for p in found} == {replace(OF, configuration="whole")}
    write_parts(shards["1/2"], part(configuration="shard 1", weights="w1"))
    with pytest.raises(UserError, match="weights w0 / w1") as error:
        merged_parts(shards, "whole")
    assert all(str(folder) in str(error.value) for folder in shards.values()) and "dtype" not in str(error.value)


def test_a_tracker_is_told_the_last_part_and_the_others_where_they_differ():
    told = tracked_parts([part(), part(by=replace(WITH, torch="2.13.0"))])
    assert told["identity"]["weights"] == "w0" and told["provenance"]["torch"] == "2.13.0"
    assert [p["torch"] for p in told["earlier_parts"]] == ["2.12.1"]
    assert set(tracked_parts([part(), part()])) == {"identity", "provenance"}
    assert tracked_parts(summary_of(None)) == {}


def summary_of(of, *by, mIoU=40.0, **more):
    return make_summary([variant_figures(("baseline", None), mIoU, 5)], identity=of, provenance=by, **more)


def test_a_table_says_in_what_its_runs_differ():
    other = replace(WITH, torch="2.13.0", gpu="H100")
    runs = [summary_of(OF, WITH), summary_of(replace(OF, weights="w1"), WITH, other), summary_of(OF, other)]
    said = difference_line(runs)
    assert said == "These runs differ in: torch 2.12.1 / 2.13.0; GPU A100 / H100; weights w0 / w1."
    assert difference_line(runs[1:2]).startswith("The parts of this run differ in: torch 2.12.1 / 2.13.0; GPU")


def test_a_scoring_beside_a_run_differs_in_what_it_was_made_of_and_not_in_a_model():
    """No model made its figures, so neither torch nor a GPU did."""
    scored = {"overrides": ["predictions=a.json"], "model": "a.json"}
    of, by = replace(OF, dtype=None, weights="w9"), replace(WITH, torch="2.13.0", gpu=None, device="cpu")
    peer = summary_of(of, by, **scored)
    assert difference_line([summary_of(OF, WITH), peer]) == ""
    assert not {"torch", "GPU", "device"} & set(made_with(peer)) and made_with(peer)["weights"] == "w9"
    assert in_short(of, [by]) == "made with attrbind_exp 1.0 at aaaaaaaaaa"
    other = summary_of(replace(OF, dtype=None), replace(WITH, spacy="0.1"), **scored)
    assert difference_line([summary_of(OF, WITH), other]).startswith("These runs differ in: spaCy ")


def test_what_a_sweep_is_about_and_other_splits_and_models_are_no_difference():
    runs = [
        summary_of(OF, WITH),
        summary_of(replace(OF, configuration="c1"), WITH),
        summary_of(replace(OF, data="d1"), WITH, split="val"),
        summary_of(replace(OF, weights="w1"), WITH, model="another"),
    ]
    assert difference_line(runs) == "" == difference_line([summary_of(None), summary_of(None)])
    assert "data d0 / d1" in difference_line([runs[0], summary_of(replace(OF, data="d1"), WITH)])
    assert difference_line([runs[0], summary_of(None)]) == "1 of 2 runs do not say what they were made with."


def test_a_page_shows_what_its_runs_were_made_with(tmp_path):
    write_files(tmp_path / "a", summary_of(OF, WITH))
    write_files(tmp_path / "b", summary_of(OF, replace(WITH, torch="<2.13>"), mIoU=41.0))
    page = write_report(tmp_path).read_text()
    assert (
        '<th scope="row">torch</th><td>2.12.1</td><td>&lt;2.13&gt;</td>' in page and '<td colspan="2">w0</td>' in page
    )
    assert "These runs differ in: torch 2.12.1 / &lt;2.13&gt;." in page and "changed working tree" not in page
    assert made_with(summary_of(None)) == {} and in_short(None, ()) == ""


def test_a_summary_of_an_earlier_version_is_read(tmp_path):
    write_files(tmp_path, summary_of(OF, WITH))
    old = json.loads((tmp_path / "summary.json").read_text())
    old.pop("identity"), old.pop("provenance")
    (tmp_path / "summary.json").write_text(json.dumps(old))
    assert read_summary(tmp_path).identity is None


def test_each_room_counts_to_the_source_or_is_known_to_change_no_figure():
    """So that a new room is not forgotten: an edited loss of latent steps once went unnoticed."""
    harmless = {"api", "assets", "commands", "config", "demo", "pretrain", "reporting", "runs", "tracking"}
    rooms = {folder.name for folder in PACKAGE.iterdir() if folder.is_dir() and not folder.name.startswith("__")}
    assert rooms == harmless | set(ROOMS)


def test_the_source_of_one_own_folder_is_not_that_of_the_next(tmp_path):
    """Asked in one process, as a program does that starts several runs."""
    (tmp_path / "edit.py").write_text("x = 1\n")
    without, own = source_digest(None), source_digest(tmp_path)
    assert len({without, own}) == 2 and source_digest(None) == without
