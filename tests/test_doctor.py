"""The doctor on whole and on spoilt data: each fault has its line and its exit code, and nothing is ever written."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from attrbind_exp.commands import command_line
from attrbind_exp.commands.doctor import checkpoint, computes, files, machine, published, samples
from attrbind_exp.commands.doctor.command import examine, start
from attrbind_exp.commands.doctor.published import Counts
from attrbind_exp.config import CONF, PACKAGE
from attrbind_exp.data.coco import coco_places
from attrbind_exp.data.refer import Instances
from attrbind_exp.types import UserError
from tests.conftest import picture, shared
from tests.test_command import composed

BUNDLED = PACKAGE / "assets" / "bundled"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, tmp_path):
    """No cached weights, no account, whatever machine the tests run on."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no_cache"))
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)


def edit(file, change):
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def examined(folder, *overrides):
    """Findings by check on a folder made by refer_folder."""
    given = [f"dataset.root={folder.parent}", f"dataset.name={folder.name}", "dataset.split=test", *overrides]
    return {f.check: f for f in examine(composed(*given, name="doctor"))}


def statuses(found, *checks):
    return [found[check].status for check in checks]


def test_whole_data_is_ok_line_by_line(refer_folder):
    found = examined(refer_folder, "text_processor=ablation")
    assert list(found) == [
        "layout",
        "counts",
        "text",
        "images",
        "sample",
        "metric",
        "disk",
        "model",
        "parts",
        "device",
        "memory",
        "spacy",
        "tracker",
        "passes",
        "hours",
        "size",
    ]
    assert {f.status for f in found.values()} == {"ok"}
    assert "test 3 objects / 5 expressions / 2 images; no counts are published for tiny(made)" in found["counts"].text
    assert "5 expressions, longest 4 words (1:1)" in found["text"].text
    assert "5 expressions x 6 variants" in found["disk"].text


def test_metric_of_truth_ones_and_box_by_hand():
    triangle = np.zeros((10, 10), bool)
    triangle[2:6, 3:7] = np.tri(4, dtype=bool)  # 10 pixels, its box 16
    bar = np.zeros((10, 10), bool)
    bar[0, :5] = True  # 5 pixels, its own box
    text = samples.check_metric([triangle, bar]).text
    assert "ground truth 100.00 mIoU / 100.00 oIoU" in text
    assert "an all-ones mask 7.50 mIoU / 7.50 oIoU" in text  # 10/100 and 5/100; 15/200
    assert "the bounding box 81.25 mIoU / 71.43 oIoU" in text  # 10/16 and 5/5; 15/21


def test_a_metric_that_fails_on_the_truth_is_told(monkeypatch):
    mask = np.eye(4, dtype=bool)
    broken = lambda heat, truth: (np.full(101, 3), np.full(101, 4))  # noqa: E731
    monkeypatch.setattr("attrbind_exp.scoring.metrics.count_overlap", broken)
    finding = samples.check_metric([mask])
    assert finding.status == "MISSING" and "must score exactly 100.00" in finding.text


def test_missing_images_are_counted_and_named(refer_folder):
    (refer_folder / "images" / "2.png").unlink()
    found = examined(refer_folder)
    assert statuses(found, "images", "sample", "metric") == ["MISSING", "WARN", "ok"]
    assert "1 of 2 are missing, first 2.png; looked in" in found["images"].text
    assert str(refer_folder / "images") in found["images"].text
    assert "train2014.zip" in found["images"].text and "dataset.images" in found["images"].text


def test_broken_pictures_and_masks_are_counted_by_reason(refer_folder):
    (refer_folder / "images" / "1.png").write_bytes(b"not a picture")
    edit(refer_folder / "instances.json", lambda d: d["annotations"][2].update(segmentation=[[1, 1, 2, 2]]))
    found = examined(refer_folder)
    assert statuses(found, "images", "sample") == ["ok", "MISSING"]
    text = found["sample"].text
    assert "5 of 5 drawn samples fail: image_unreadable 3, empty_mask 2; first: 1:0 (image" in text
    assert found["metric"].status == "ok"  # masks can be scored without their pictures


def test_the_sample_is_drawn_by_seed(refer_folder):
    edit(refer_folder / "instances.json", lambda d: d["annotations"][2].update(segmentation=[]))
    texts = {seed: examined(refer_folder, "sample=2", f"seed={seed}")["sample"].text for seed in (0, 0, 1, 2, 3)}
    assert len(set(texts.values())) > 1
    assert texts[0] == examined(refer_folder, "sample=2", "seed=0")["sample"].text


def test_wrong_counts_are_a_warning_with_the_published_figures(refer_folder):
    refs = json.loads((refer_folder / "refs(made).json").read_text())
    right = {("tiny", "made"): {"test": Counts(3, 5, 2)}}
    open_ = {("tiny", "made"): {"test": Counts(3, None, 2)}}
    wrong = {("tiny", "made"): {"test": Counts(3, 6, 2), "val": Counts(1, 1, 1)}}
    assert "as published" in files.check_refs(refs, "tiny", "made", right).text
    assert files.check_refs(refs, "tiny", "made", open_).status == "ok"
    finding = files.check_refs(refs, "tiny", "made", wrong)
    assert finding.status == "WARN"
    assert (
        "test has 3 objects / 5 expressions / 2 images, published 3 objects / 6 expressions / 2 images" in finding.text
    )
    assert "val has nothing, published 1 objects" in finding.text


def test_published_counts_add_up():
    def total(name, split_by):
        return tuple(sum(column) for column in zip(*published.REFS[name, split_by].values(), strict=True))

    assert total("refcoco", "unc") == (50_000, 142_209 + 1, 19_994)
    assert total("refcoco+", "unc") == (49_856, 141_564, 19_992)
    assert total("refcocog", "umd") == (49_822, 95_010, 25_799)
    assert total("refcocog", "google")[:2] == (49_822, 95_010)
    assert sum(c.objects for c in published.REFS["refcoco", "google"].values()) == 50_000


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "refs(made).json").unlink(), "refs(made).p (or its JSON twin refs(made).json)"),
        (lambda f: (f / "instances.json").unlink(), "refs(made).json there, missing instances.json"),
        (lambda f: [shutil.rmtree(f), f.mkdir()], "nothing there, missing instances.json, refs(made).p"),
        (lambda f: shutil.rmtree(f), "nothing there"),
    ],
)
def test_missing_files_are_named_with_the_place(refer_folder, spoil, words):
    spoil(refer_folder)
    found = examined(refer_folder, "dataset.split_by=made")
    assert found["layout"].status == "MISSING"
    assert words in found["layout"].text and f"looked in {refer_folder}" in found["layout"].text
    assert "text" not in found and found["disk"].status == "ok"


def test_known_data_sets_say_where_to_get_them(tmp_path):
    found = examined(tmp_path / "refcocog", "dataset.split_by=umd")
    assert published.REFS_LINKS["refcocog"] in found["layout"].text
    assert f"unpack it in {tmp_path}" in found["layout"].text
    assert found["images"].status == "MISSING" and str(tmp_path / "train2014") in found["images"].text


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "instances.json").write_text("{"), "not whole JSON"),
        (lambda f: [(f / "refs(made).json").unlink(), (f / "refs(made).p").write_bytes(pickle.dumps(print))], "refused"),
        (lambda f: edit(f / "refs(made).json", lambda refs: [r.update(split="val") for r in refs]), "unknown split 'test'"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_a_finding(refer_folder, spoil, words):
    spoil(refer_folder)
    found = examined(refer_folder, "dataset.split_by=made")
    assert found["reading"].status == "MISSING" and words in found["reading"].text
    assert found["model"].status == "ok"


def test_bad_expressions_are_counted(refer_folder):
    def spoil(refs):
        refs[0]["ann_id"] = 99
        refs[1]["sentences"][0]["sent"] = " "
        refs[2]["sentences"][0]["sent"] = "dog " * 100

    edit(refer_folder / "refs(made).json", spoil)
    finding = examined(refer_folder)["text"]
    assert finding.status == "WARN"
    assert "2 expressions, longest 100 words (3:3)" in finding.text
    assert "3 cannot be scored: annotation_missing 2, empty_expression 1; first: 1:0" in finding.text


def coco_folder(root: Path) -> Path:
    (root / "annotations").mkdir(parents=True)
    (root / "val2014").mkdir()
    picture(20, 20).save(root / "val2014" / "7.jpg")
    box = [[1, 1, 5, 1, 5, 5, 1, 5]]
    (root / "annotations" / "instances_val2014.json").write_text(json.dumps({
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 20, "width": 20} for i in (7, 8)],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 18, "segmentation": box},
                        {"id": 2, "image_id": 9, "category_id": 18, "segmentation": box}],
        "categories": [{"id": 18, "name": "dog"}],
    }))  # fmt: skip
    return root


def test_coco_files_counts_and_images(tmp_path):
    root = coco_folder(tmp_path / "coco")
    found = {
        f.check: f for f in examine(composed("dataset=coco", f"dataset.root={root}", "model=bundled", name="doctor"))
    }
    assert statuses(found, "layout", "counts", "text", "images", "sample", "metric") == [
        "ok", "WARN", "WARN", "MISSING", "ok", "ok"
    ]  # fmt: skip
    assert "2 images, 1 categories, 2 objects; published 40,504 images, 80 categories" in found["counts"].text
    assert "image_missing 1; first: 2 (annotation 2 asks for image 9" in found["text"].text
    assert "1 of 2 are missing, first 8.jpg" in found["images"].text
    data = Instances({1: {}, 2: {}}, {}, {i: {} for i in range(80)})
    assert files.check_coco_counts(data, "val2014", {"val2014": 2}).status == "ok"
    (root / "annotations" / "instances_val2014.json").unlink()
    layout = files.check_coco(*coco_places(str(root), "val2014", None, None), "val2014")
    assert layout.status == "MISSING"
    assert "annotations_trainval2014.zip" in layout.text and "val2014.zip" not in layout.text.replace(
        "trainval2014", ""
    )


def parts_of(path, half=False):
    """What the doctor says of a model's parts, line by line."""
    finding, place = checkpoint.check_model(str(path))
    assert finding.status == "ok"
    return [(found.status, found.text) for found in checkpoint.check_parts(place, str(path), half)]


def test_weights_that_are_not_there_are_named_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "hf_s3cret")
    name = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    finding, place = checkpoint.check_model(name)
    assert finding.status == "MISSING" and place is None
    for words in (
        f"looked in the hub's cache, {tmp_path}/hub/models--{name.replace('/', '--')} (by HF_HOME), which is not there",
        f"'hf download {name} --include",
        f"accept the licence at https://huggingface.co/{name}, then 'hf auth login' (a token is set here)",
    ):
        assert words in finding.text
    assert "s3cret" not in finding.text
    withdrawn = checkpoint.check_model("runwayml/stable-diffusion-v1-5")[0].text
    assert f"its mirror is {name}" in withdrawn and f"https://huggingface.co/{name}," in withdrawn
    here = checkpoint.check_model(str(tmp_path / "nowhere"))[0]
    assert here.status == "MISSING" and "licence" not in here.text


def test_what_is_missing_of_a_model_is_named_part_by_part(tmp_path):
    copy = shutil.copytree(BUNDLED, tmp_path / "copy")
    whole = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(whole)
    for name in ("conv_in.bias", "mid_block.resnets.0.conv1.weight"):
        tensors.pop(name)
    save_file(tensors, whole)
    (copy / "text_encoder" / "model.safetensors").unlink()
    shutil.rmtree(copy / "tokenizer")
    *faults, (status, text) = parts_of(copy)
    assert [(s, t.partition(":")[0]) for s, t in faults] == [
        ("MISSING", p) for p in ("unet", "text_encoder", "tokenizer")
    ]
    assert "of 442 tensors 2 missing (conv_in.bias, mid_block.resnets.0.conv1.weight)" in faults[0][1]
    assert "text_encoder/ without model.safetensors: config.json" in faults[1][1]
    assert status == "ok" and text.startswith("vae: 1.5 M in fp16, 3.0 MB; scheduler: 1000 steps, epsilon")
    whole.write_bytes(whole.read_bytes()[:-100])
    assert "unet" in parts_of(copy)[0][1] and "cannot be read" in parts_of(copy)[0][1]


def test_no_weights_are_loaded(monkeypatch):
    """Headers alone are read."""
    monkeypatch.setattr("attrbind_exp.backbones.loading.load_file", None)
    assert parts_of(BUNDLED)[0][1].endswith("8.1 M parameters, 16.3 MB on disk")


def test_precision_of_two_sets(tmp_path):
    copy = shutil.copytree(BUNDLED, tmp_path / "copy")
    whole = copy / "vae" / "diffusion_pytorch_model.safetensors"
    shutil.copy(whole, whole.with_name("diffusion_pytorch_model.fp16.safetensors"))
    save_file({name: values.float() for name, values in load_file(whole).items()}, whole)
    assert "vae: 1.5 M in fp32, 6.1 MB" in parts_of(copy)[0][1]
    assert "vae: 1.5 M in fp16, 3.0 MB" in parts_of(copy, half=True)[0][1]
    assert checkpoint.takes_half("cpu", "fp16") and not checkpoint.takes_half("cpu", "auto")


def test_copies_beside_the_weights_do_not_count(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(BUNDLED, copy)
    unet = copy / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(unet, unet.with_name("diffusion_pytorch_model.non_ema.safetensors"))
    old = "diffusion_pytorch_model-00001-of-00002.safetensors"  # no index names it
    shutil.copy(unet, unet.with_name(old))
    assert parts_of(copy) == parts_of(BUNDLED)


def test_weights_in_the_hub_cache_are_found(tmp_path, monkeypatch):
    cache = tmp_path / "hub" / "models--some--model"
    shutil.copytree(BUNDLED, cache / "snapshots" / "abc")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    finding, place = checkpoint.check_model("some/model")
    assert finding.status == "ok" and place == cache / "snapshots" / "abc"
    assert f"found {place}; looked in the hub's cache, {cache} (" in finding.text
    assert finding.text.endswith("), revision main, abc")
    (cache / "snapshots" / "abc" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    missing = parts_of("some/model")[0]
    assert missing[0] == "MISSING" and "'hf download some/model --include" in missing[1] and "licence" in missing[1]
    assert """half precision alone by 'hf download some/model --include "*.json" """ in missing[1]
    assert "revision other, of which nothing is there" in checkpoint.check_model("some/model@other")[0].text


def test_loras_are_looked_at(tmp_path):
    file = tmp_path / "lora.safetensors"
    save_file(
        {
            "lora_unet_conv_in.lora_down.weight": torch.ones(1, 36),
            "lora_unet_conv_in.lora_up.weight": torch.ones(32, 1),
        },
        file,
    )
    found = list(checkpoint.check_loras([str(file), str(tmp_path / "none.safetensors")]))
    assert [finding.status for finding in found] == ["ok", "MISSING"]
    assert found[0].text == f"{file}: changes 1 layers" and "does not exist" in found[1].text
    assert not list(checkpoint.check_loras([]))


def test_parameters_are_those_of_the_loaded_model(model):
    parts = (model.unet, model.vae, model.text_encoder)
    assert checkpoint.count_parameters(BUNDLED) == sum(p.numel() for part in parts for p in part.parameters())


def test_memory_estimate_by_hand():
    needed, formula = machine.estimate_memory(BUNDLED, (64, 128), 3, 2)
    parameters = checkpoint.count_parameters(BUNDLED)
    assert needed == 2 * parameters + 3 * (5 * 64 * 128 * 24 * 2 + 2 * (16 * 32) * 24 * 4)
    assert "5 feature maps of 64 x 128 x 24 x 2 bytes" in formula and "2 heads x 512 cells x 24 tokens" in formula


def test_memory_of_a_gpu_that_is_too_small(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: "Tiny GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**6, 10**9))
    small = machine.check_memory(BUNDLED, "auto", "auto", None, 4)
    assert small.status == "WARN"
    assert "Tiny GPU" in computes.check_device("auto", "auto").text
    assert "cuda has 1.0 MB free" in small.text and "lower batch_size=4" in small.text
    least = machine.check_memory(BUNDLED, "auto", "fp32", None, 1).text
    assert "lower batch_size" not in least and least.endswith("; take model.dtype=fp16 or bf16")
    assert machine.check_memory(BUNDLED, "auto", "fp16", None, 1).text.endswith(
        "take a device with more memory (model.device)"
    )
    assert "x 2 bytes" in small.text and "x 4 bytes +" not in small.text  # half precision by default
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**10, 10**10))
    assert machine.check_memory(BUNDLED, "cuda:0", "fp32", None, 4).status == "ok"
    missing = machine.check_memory(BUNDLED, "cuda:1", "auto", None, 4)
    assert missing.status == "MISSING" and "choose from auto, cpu, cuda, cuda:0" in missing.text


def test_disk_that_is_nearly_full(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**8})())
    finding = machine.check_disk(tmp_path / "not" / "yet", 10_000, 5, 3)
    assert finding.status == "WARN"
    assert f"100.0 MB free at {tmp_path}" in finding.text or f"0.10 GB free at {tmp_path}" in finding.text
    assert "about 0.30 GB (10,000 expressions x 5 variants x 3 seeds x 2 KB)" in finding.text


def test_missing_spacy_model_is_named(monkeypatch):
    def fail():
        raise UserError("no English model for spaCy; install it")

    monkeypatch.setattr("attrbind_exp.language.parse.load_spacy", fail)
    finding = machine.check_spacy()
    assert finding.status == "MISSING" and "install it" in finding.text


def test_accounts_are_found_and_no_key_is_shown(monkeypatch, tmp_path):
    assert machine.check_tracker("auto").text == "W&B offline"
    assert machine.check_tracker("online").status == "WARN"
    (tmp_path / "no_netrc").write_text("machine api.wandb.ai login user password s3cret")
    assert "online, with the login in" in machine.check_tracker("auto").text
    monkeypatch.setenv("WANDB_API_KEY", "s3cret")
    finding = machine.check_tracker("auto")
    assert "WANDB_API_KEY" in finding.text and "s3cret" not in finding.text
    assert machine.check_tracker(None).status == "ok"
    monkeypatch.setenv("NETRC", "~nobody-of-that-name/netrc")
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    finding = machine.check_tracker("auto")
    assert finding.status == "WARN" and "no mode 'nonsense'" in finding.text and "offline, disabled" in finding.text


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in [folder, *folder.rglob("*")]}


WATCHED = """
import os, runpy, sys, tempfile
tempfile.gettempdir()  # torch asks for it, and Python tries it out once by an empty file
def watch(event, arguments):
    path = arguments[0] if arguments else None
    if event == "open" and arguments[2] is not None and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        wrote = path != os.devnull
    else:
        wrote = event in ("os.mkdir", "os.rename", "os.remove", "os.symlink", "os.link") and not os.path.isdir(path)
    if wrote:
        print("WROTE", event, path, file=sys.stderr, flush=True)
sys.addaudithook(watch)
runpy.run_module("attrbind_exp.doctor", run_name="__main__", alter_sys=True)
"""


def test_the_bundled_data_passes_and_nothing_is_written(tmp_path):
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    cwd.chmod(0o555)
    before = tree(tmp_path)
    done = subprocess.run(
        [sys.executable, "-B", "-c", WATCHED, "dataset=shapes"], cwd=cwd, capture_output=True, text=True,
        env={"PATH": "", "PYTHONPATH": str(CONF.parent), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WROTE" not in done.stderr, done.stderr
    assert tree(tmp_path) == before
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["ok"] * 16
    assert lines[-1] == "0 missing, 0 warnings, 16 ok"


@pytest.fixture
def typed(monkeypatch, capsys, tmp_path):
    """The doctor with these arguments, in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["doctor", *arguments])
        try:
            code = command_line.run_main(start) or 0
        except SystemExit as exit_:
            code = exit_.code
        return code, *capsys.readouterr()

    return run


def test_exit_codes(refer_folder, tmp_path, typed):
    given = [f"dataset.root={tmp_path}", "dataset.name=tiny"]
    edit(refer_folder / "refs(made).json", lambda refs: refs[0]["sentences"][0].update(sent=""))
    before = tree(tmp_path)
    code, out, _ = typed(*given)
    assert code == 0 and "WARN     text" in out and out.splitlines()[-1] == "0 missing, 1 warnings, 15 ok"
    code, out, _ = typed(*given, "model.path=nobody/nothing")
    assert code == 1 and "MISSING  model" in out and "hf download nobody/nothing" in out
    for wrong in (
        "-m",
        "hydra.run.dir=elsewhere",
        "++hydra.run.dir=elsewhere",
        "sample=0",
        "alpha=-1",
        "dataset=refcooc",
    ):
        code, _, err = typed(*given, wrong)
        assert code == 2 and wrong.split("=")[0] in err and len(err.splitlines()) == 1, err
    assert tree(tmp_path) == before


def test_help_says_what_the_exit_codes_mean(typed):
    code, out, _ = typed("--help")
    assert code == 0 and "Exit code 0: all ok, or warnings only. 1: something needed is missing." in out


def test_the_real_sample_is_ok():
    root = shared("real_sample")
    given = [
        "dataset=refcoco",
        f"dataset.root={root}",
        "dataset.name=refwritten",
        "dataset.split_by=here",
        "dataset.split=test",
    ]
    found = {f.check: f for f in examine(composed(*given, "model=bundled", name="doctor"))}
    assert {f.status for f in found.values()} == {"ok"}
    assert "test 40 objects / 120 expressions / 17 images" in found["counts"].text
    assert "ground truth 100.00 mIoU / 100.00 oIoU" in found["metric"].text
