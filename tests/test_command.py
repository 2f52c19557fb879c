"""The command line as people type it, wrong values included; and what a run leaves behind."""

import gc
import io
import json
import os
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from attrbind_exp import config
from attrbind_exp.commands import command_line
from attrbind_exp.commands.start import loading
from attrbind_exp.data.refer import load_refer
from attrbind_exp.edits import Variant
from attrbind_exp.evaluation.loop import score
from attrbind_exp.runs.configuration import counted
from attrbind_exp.runs.store import RunStore
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.types import UserError
from tests.conftest import make_segmenter, make_variant, picture, shared


def composed(*overrides, name="run"):
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        return compose(name, overrides=command_line.rewrite_arguments(overrides))


def command(*arguments, module="run", cwd=None):
    """Run a module of the package as `python -m` does, but in this process, whose libraries are loaded already: (exit
    code, stdout, stderr)."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    argv, where = sys.argv, Path.cwd()
    try:
        sys.argv = [f"attrbind_exp/{module}.py", *arguments]
        os.chdir(cwd or where)
        with redirect_stdout(out), redirect_stderr(err):
            runpy.run_module(f"attrbind_exp.{module}", run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = argv
        os.chdir(where)
        GlobalHydra.instance().clear()
    return code, out.getvalue(), err.getvalue()


def process(*arguments, module="run", cwd=None):
    """The same in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", f"attrbind_exp.{module}", *arguments], capture_output=True, text=True, cwd=cwd
    )
    return done.returncode, done.stdout, done.stderr


def run(folder: Path, *arguments):
    """A successful run without tracker; its summary."""
    code, out, err = command("tracker=none", "gallery=0", "changed=0", f"hydra.run.dir={folder}", *arguments)
    assert code == 0, err
    assert out.strip().splitlines()[-1] == str(folder)
    return json.loads((folder / "summary.json").read_text())


def rows(folder: Path):
    return [json.loads(line) for line in (folder / "expressions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        ("alpha=0.9", "alpha.value=0.9"), ("alpha=0.1,0.5,0.9", "alpha.value=0.1,0.5,0.9"), ("alpha=paper", "alpha=paper"),
        ("alpha=[0.1,1]", "alpha.value=[0.1,1]"), ("alpha=nan", "alpha.value=nan"), ("threshold=0.4", "threshold.value=0.4"),
        ("dataset=shapes,coco", "dataset=shapes,coco"), ("seed=3", "seed=3"), ("cache.folder=null", "cache.folder=null"),
        ("expression=white dog, left", "expression='white dog, left'"), ("expression='a b'", "expression='a b'"),
        ("expression=man's hat", "expression='man\\'s hat'"), ("image=a=b (1).jpg", "image='a=b (1).jpg'"),
    ],
)  # fmt: skip
def test_command_line_is_rewritten(typed, given):
    assert command_line.rewrite_arguments([typed]) == [given]


def test_multirun_may_stand_anywhere():
    given = command_line.rewrite_arguments(["seed=1", "-m", "alpha=1,2", "hydra.sweep.dir=x"])
    assert given == ["-m", "seed=1", "alpha.value=1,2", "hydra.sweep.dir='x'"]


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("alpha=abc", "unknown alpha 'abc'; choose a number or one of diffsegmenter, grid, paper"),
        ("alpha=0.1,paper", "mixes numbers and names"),
        (
            "dataset=refcooc",
            "unknown dataset 'refcooc'; did you mean refcoco? choose coco, folder, refcoco, refcoco_plus, refcocog, shapes",
        ),
        ("text_processor=ncr", "attribute_binding, baseline, noun_chunk, uncond_average"),
        ("tracker=sqlite", "csv, mlflow, none, tensorboard, wandb"),
    ],
)
def test_unknown_options_name_the_choices(typed, words):
    with pytest.raises(UserError) as error:
        command_line.rewrite_arguments([typed])
    assert words.split(", ")[0] in str(error.value) and words.split(", ")[-1] in str(error.value)


def test_free_text_reaches_the_program_as_typed():
    for text in [
        "white dog, left",
        "man's hat",
        'a "big" dog',
        "dog (left)",
        "a=b",
        "50% {off} [now]",
        "c:\\x\\",
        "#1: dog",
    ]:
        cfg = composed(f"expression={text}", "image=x.jpg", name="segment")
        assert cfg.expression == text


@pytest.mark.parametrize(
    "override",
    ["alpha=nan", "alpha=-1", "alpha=inf", "alpha=[0.1,-2]", "threshold=2", "threshold=-0.1", "threshold=0.333", "threshold=nan",
     "batch_size=0", "batch_size=many", "dataset.limit=0", "gallery=-1", "model.dtype=fp8", "model.size=[1,2,3]",
     "text_processor.chunk=word", "text_processor.uncond=zero"],
)  # fmt: skip
def test_senseless_values_are_refused_by_name(override):
    key = override.split("=")[0]
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
        config.check(composed(override))


@pytest.mark.parametrize("group", [d.name for d in config.CONF.iterdir() if d.is_dir()])
def test_every_option_composes(group):
    needs = {"refdiff_heat": ["refine.proposals=/data/proposals"]}
    for option in config.options(group):
        cfg = composed(f"{group}={option}", *needs.get(option, []))
        config.check(cfg)
        assert config.variants(cfg)[0]
        config.map_settings(cfg), config.text_settings(cfg)


def test_refcoco_and_coco_choose_sd15_unless_told_otherwise():
    assert composed("dataset=refcoco").model.name == "sd15"
    assert composed("dataset=coco").model.name == "sd15"
    assert composed("dataset=refcoco", "model=bundled").model.name == "bundled"
    assert composed().model.name == "bundled"


def test_variants_and_their_headline():
    assert config.variants(composed("alpha=0.5")) == ([make_variant("attribute_binding", True, 0.5)], 0)
    grid, head = config.variants(composed("alpha=grid"))
    # Several alphas without the baseline: it is measured first, so that it is what all are compared to.
    alphas = [None, 0.1, 0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, None]  # the last is the text-blind floor
    assert [v.alpha for v in grid] == alphas and grid[head].alpha == 0.9
    assert (grid[0].name, grid[0].edits) == ("baseline", ())
    assert [v.alpha for v in config.variants(composed("alpha=grid", "text_processor=paper"))[0]] == alphas
    table, head = config.variants(composed("text_processor=ablation"))
    assert [v.name for v in table][:3] == ["baseline", "noun_chunk", "attribute_binding"] and head == 2
    assert config.variants(composed("alpha=diffsegmenter", "text_processor=uncond_average"))[0][0].alpha == 1.21


def test_a_plain_runs_hash_is_that_of_configurations_without_the_newer_keys():
    """So that a run from before the keys is found and goes on."""
    for heatmap, newer in (("diffsegmenter", ["timesteps"]), ("daam", ["timesteps", "weights"])):
        method = OmegaConf.to_container(composed(f"heatmap={heatmap}"), resolve=True)["heatmap"][heatmap]
        assert all(method[key] is None for key in newer)
        kept = counted({"heatmap": {heatmap: method}})["heatmap"][heatmap]
        assert kept == {key: value for key, value in method.items() if key not in newer}


def test_config_hash_follows_what_changes_figures_only():
    plain = config.config_hash(composed())
    assert plain == config.config_hash(composed("tracker=none", "batch_size=3", "gallery=0", "model.device=cpu"))
    assert len({plain, *(config.config_hash(composed(o)) for o in ("seed=1", "alpha=0.8", "dataset.limit=5"))}) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["alpha=abc"], "alpha 'abc'"), (["alpha=-1"], "alpha=-1"), (["threshold=2"], "threshold=2"), (["dataset=x"], "dataset 'x'"),
        (["alhpa=0.9"], "alhpa"), (["model.path=/nowhere"], "hf download"), (["dataset.split=tset"], "choose from test, val"),
        (["dataset=refcoco", "model=bundled"], "dataset.root"), (["model.device=tpu"], "no device 'tpu'"),
        (["refine.radius=3"], "refine=guided_filter has it"), (["latent_steps.temperature=1"], "latent_steps=conform has it"),
        (["heatmap.elbo.strength=2"], "heatmap=elbo has it"), (["latent_steps=conform", "latent_steps.temperature=0"], "number above 0"),
    ],
    ids=lambda a: a[0] if isinstance(a, list) else "",
)  # fmt: skip
def test_wrong_values_end_in_one_line(tmp_path, arguments, words):
    code, out, err = command("tracker=none", *arguments, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and words in err and len(err.strip().splitlines()) == 1


def test_help_explains_every_group():
    code, out, _ = command("--help")
    assert code == 0
    for group in (d.name for d in config.CONF.iterdir() if d.is_dir()):
        assert group in out
        assert all(option in out for option in config.options(group))


HEAVY = {"torch", "diffusers", "transformers", "spacy", "scipy", "pandas", "matplotlib", "wandb", "ray", "jinja2"}


@pytest.mark.parametrize(
    ("name", "more"),
    [*((n, {"hydra", "omegaconf", "numpy"}) for n in ("run", "segment", "compare", "score", "parse", "doctor", "demo", "pretrain")), ("merge", set()),
     ("rescore", set()), ("report", set()), ("results", set()), ("study", {"-pandas"})],
)  # fmt: skip
def test_help_loads_nothing_that_it_does_not_need(name, more):
    """What is loaded is asked of the process itself; how long that takes is measured in benchmarks/start.py."""
    look = "import atexit, runpy, sys; atexit.register(lambda: print('loaded', *{m.partition('.')[0] for m in sys.modules}));"
    go = f"sys.argv = ['x', 'a=1', '--help']; runpy.run_module('attrbind_exp.{name}', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", f"{look} {go}"], capture_output=True, text=True)
    help_text, _, loaded = done.stdout.rpartition("loaded")
    assert done.returncode == 0 and f"attrbind_exp.{name}" in help_text, done.stderr
    assert (HEAVY | more) & set(loaded.split()) - {m[1:] for m in more if m[0] == "-"} == set()


def test_while_libraries_load_nothing_looks_for_garbage_and_afterwards_it_does_again():
    frozen = gc.get_freeze_count()
    try:
        with pytest.raises(ZeroDivisionError), loading():
            assert not gc.isenabled()
            _ = 1 / 0
        assert gc.isenabled() and gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()


def test_what_is_wrong_is_said_before_a_model_library_loads():
    look = "import atexit, runpy, sys; atexit.register(lambda: print('loaded', *{m.partition('.')[0] for m in sys.modules}));"
    go = "sys.argv = ['x', 'dataset=refcoco', 'dataset.root=/nowhere']; runpy.run_module('attrbind_exp.run', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", f"{look} {go}"], capture_output=True, text=True)
    assert done.returncode == 2 and "/nowhere" in done.stderr
    assert HEAVY & set(done.stdout.split()) == set()


def test_help_of_hydra_and_the_configuration_are_still_hydras():
    code, out, _ = command("--hydra-help")
    assert code == 0 and "--multirun" in out
    code, out, _ = command("--cfg", "job", "seed=7")
    assert code == 0 and yaml.safe_load(out)["seed"] == 7


def test_a_run_leaves_its_summary_and_repeats_itself(tmp_path):
    one = run(tmp_path / "a", "alpha=0.9", "dataset.limit=12")
    given = [
        "tracker=none",
        "gallery=0",
        "changed=0",
        "alpha=0.9",
        "dataset.limit=12",
        f"hydra.run.dir={tmp_path / 'b'}",
    ]
    assert process(*given)[0] == 0
    two = json.loads((tmp_path / "b" / "summary.json").read_text())
    strip = {"seconds", "overrides"}
    assert {k: v for k, v in one.items() if k not in strip} == {k: v for k, v in two.items() if k not in strip}
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert one["n"] == 12 and one["n_failed"] == 0
    head = one["variants"][one["headline"]]
    assert one["mIoU"] == max(head["mIoU_at"].values()) == head["mIoU_at"][f"{one['threshold']:.2f}"]
    assert set(head["precision"]) == {"0.5", "0.6", "0.7", "0.8", "0.9"}
    assert sum(e["n"] for e in head["slices"]["pair"].values()) == 12
    assert {k: one["variants"][0][k] for k in ("text_processor", "alpha", "mIoU")} == {
        "text_processor": "attribute_binding", "alpha": 0.9, "mIoU": one["mIoU"]
    }  # fmt: skip
    each = [np.array(r["intersection"]) / np.array(r["union"]) for r in rows(tmp_path / "a")]
    assert 100 * np.mean(each, 0)[round(100 * one["threshold"])] == pytest.approx(one["mIoU"])


def test_a_grid_of_alphas_equals_single_runs_and_a_sweep(tmp_path):
    grid = run(tmp_path / "grid", "alpha=grid", "dataset.limit=6", "batch_size=7")
    assert [v["alpha"] for v in grid["variants"]] == [None, 0.1, 0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, None]
    assert grid["alpha"] == 0.9
    sweep = tmp_path / "sweep"
    code, _, err = command(
        "-m", "alpha=0.1,0.9", "tracker=none", "gallery=0", "dataset.limit=6", f"hydra.sweep.dir={sweep}",
        "hydra.sweep.subdir=${alpha.value}",
    )  # fmt: skip
    assert code == 0, err
    for entry in grid["variants"]:
        if entry["alpha"] in (None, 0.1, 0.9):
            folder = "baseline_0.9" if entry["alpha"] is None else str(entry["alpha"])
            single = json.loads((sweep / folder / "summary.json").read_text())
            (same,) = (v for v in single["variants"] if v["label"] == entry["label"])
            for key in ("mIoU", "oIoU", "threshold"):
                assert same[key] == pytest.approx(entry[key], abs=1e-3)


def test_a_fixed_threshold_heads_the_summary(tmp_path):
    summary = run(tmp_path / "run", "threshold=0.4", "dataset.limit=6")
    assert summary["threshold"] == 0.4 and summary["mIoU"] == summary["variants"][0]["mIoU_at"]["0.40"]


def test_bad_samples_are_counted_and_named(tmp_path, refer_folder):
    (refer_folder / "images" / "2.png").write_bytes(b"\x89PNG torn")
    data = json.loads((refer_folder / "instances.json").read_text())
    data["annotations"][1]["segmentation"] = []
    (refer_folder / "instances.json").write_text(json.dumps(data))
    given = [f"dataset.root={refer_folder.parent}", "dataset.name=tiny"]
    summary = run(tmp_path / "run", *given)
    assert summary["n"] == 5 and summary["n_scored"] == 2 and summary["n_failed"] == 3
    assert summary["failures"] == {"empty_mask": 1, "image_unreadable": 2}
    named = [json.loads(line) for line in (tmp_path / "run" / "failures.jsonl").read_text().splitlines()]
    assert {f["sample_id"] for f in named} == {"2:2", "3:3", "3:4"} and all("2.png" in f["message"] for f in named[1:])
    assert "knows only shapes" in summary["note"]


def test_a_run_that_scores_nothing_says_so(tmp_path, refer_folder):
    for image in (refer_folder / "images").iterdir():
        image.unlink()
    given = [f"dataset.root={refer_folder.parent}", "dataset.name=tiny", f"hydra.run.dir={tmp_path / 'run'}"]
    code, _, err = command("tracker=none", *given)
    assert code == 2 and "none of the 5 expressions could be scored" in err.splitlines()[-1]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["mIoU"] is None


def test_segment_writes_pictures_and_prints_the_parse(tmp_path):
    picture(90, 150).save(tmp_path / "photo, 1.png")
    code, out, err = command(
        f"image={tmp_path}/photo, 1.png", "expression=white dog playing with two black dogs",
        f"hydra.run.dir={tmp_path}/out", module="segment",
    )  # fmt: skip
    assert code == 0, err
    lines = out.splitlines()
    assert lines[1].startswith("target      dog (tokens [") and lines[2].startswith("noun chunk  white dog (tokens [")
    assert lines[-1] == str(tmp_path / "out")
    assert (tmp_path / "out" / "heat_maps.png").stat().st_size > 10_000
    from PIL import Image

    from attrbind_exp.reporting.panels import KEY, decode

    mask = np.asarray(Image.open(tmp_path / "out" / "mask.png")) > 0
    drawn = Image.open(tmp_path / "out" / "heat_maps.png")
    about = decode(drawn.text[KEY])
    assert mask.shape == (90, 150) and set(about.thresholds.values()) == {0.5}
    boxes = dict(about.panels)
    first, *_, last = boxes
    assert first == "image" and last == "mask of attribute_binding alpha=0.9"
    shown = np.asarray(drawn.crop(boxes["mask of attribute_binding alpha=0.9"])).astype(int)
    inside = np.kron(mask, np.ones((4, 4), bool))  # 90 pixels become 360
    coloured = (shown.max(-1) > shown.min(-1)) & (shown != (213, 94, 0)).any(-1)
    assert coloured.any() and not coloured[~inside].any(), "the mask's file and its picture agree"


def test_segment_refuses_a_picture_that_overflows(tmp_path, monkeypatch):
    from attrbind_exp.backbones.stable_diffusion import StableDiffusion

    encode = StableDiffusion.encode_pixels
    monkeypatch.setattr(StableDiffusion, "encode_pixels", lambda self, pixels: encode(self, pixels) * float("nan"))
    picture(90, 150).save(tmp_path / "photo.png")
    code, _, err = command(
        f"image={tmp_path}/photo.png", "expression=dog", f"hydra.run.dir={tmp_path}/out", module="segment"
    )
    assert code == 2 and "overflows on this picture; use model.dtype=bf16 or fp32" in err
    assert not (tmp_path / "out" / "mask.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["expression=dog"], "no image given"), (["image=x.jpg"], "no expression given"),
        (["image=x.jpg", "expression= "], "no expression given"), (["image=none.jpg", "expression=dog"], "'none.jpg' does not exist"),
    ],
    ids=str,
)  # fmt: skip
def test_segment_says_what_is_missing(tmp_path, arguments, words):
    code, _, err = command(*arguments, module="segment", cwd=tmp_path)
    assert code == 2 and words in err and len(err.strip().splitlines()) == 1


def test_real_sample_runs_end_to_end(tmp_path):
    root = shared("real_sample")
    summary = run(
        tmp_path / "run", "dataset=refcoco", "model=bundled", f"dataset.root={root}", "dataset.name=refwritten",
        "dataset.split_by=here", "dataset.split=test", "alpha=0.9",
    )  # fmt: skip
    assert (summary["n"], summary["n_scored"], summary["n_failed"]) == (120, 120, 0)
    assert "knows only shapes" in summary["note"]


def test_a_heat_map_that_is_not_finite_is_a_failure(tmp_path, model, refer_folder):
    data = load_refer(str(refer_folder.parent), "tiny", "made", "test")
    segmenter = make_segmenter(model)
    complete = segmenter.complete

    def overflowing(*given):
        maps = complete(*given)
        maps[0] = float("nan")
        return maps

    segmenter.complete = overflowing
    store = RunStore(tmp_path / "run", "key")
    scored = score(data, segmenter, RunSettings([Variant("baseline")], batch_size=5), store)
    assert [f.reason for f in scored.failures] == ["not_finite"] and scored.task.tally().n_scored == 4


def test_a_picture_that_overflows_the_autoencoder_is_a_failure_not_a_mask(tmp_path, model, refer_folder, monkeypatch):
    data = load_refer(str(refer_folder.parent), "tiny", "made", "test")
    encode, encoded = model.encode_pixels, []

    def overflowing(pixels):
        latents = encode(pixels)
        if not encoded:
            latents[0, 0, 0] = float("inf")
        encoded.append(pixels)
        return latents

    monkeypatch.setattr(model, "encode_pixels", overflowing)
    store = RunStore(tmp_path / "run", "key")
    scored = score(data, make_segmenter(model), RunSettings([Variant("baseline")]), store)
    # The first picture carries three expressions, the second two.
    assert [f.reason for f in scored.failures] == ["vae_overflow"] * 3 and scored.task.tally().n_scored == 2
    assert "1.png" in scored.failures[0].message and "model.dtype=bf16" in scored.failures[0].message


@pytest.mark.parametrize(
    ("typed", "named"),
    [("threshold.value=null", "threshold=null"), ("threshold=grid", "threshold=grid"), ("threshold=null", "'null'")],
)
def test_segment_takes_one_threshold(tmp_path, typed, named):
    picture(20, 20).save(tmp_path / "a.png")
    code, out, err = command("image=a.png", "expression=dog", typed, module="segment", cwd=tmp_path)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1
    assert err.startswith("error: ") and named in err and "a number" in err


HARD = "a=b, (c) d/{e}: f"


def test_every_path_and_text_may_hold_commas_and_equal_signs():
    for key in set(command_line.FREE_TEXT) - {"expression", "image", "mask", "heat", "rle", "folder", "out"}:
        group = key.partition(".")[0]
        tracker = "tracker=wandb" if key == "tracker.project" else "tracker=mlflow"
        options = {"dataset": ["dataset=coco"], "captioner": ["captioner=blip"], "tracker": [tracker]}.get(group, [])
        options += (
            ["dataset=folder"] if key == "dataset.file" else ["dataset=shapes"] if key == "dataset.parses" else []
        )
        options += ["captioner=file"] if key == "captioner.file" else []
        options += {"proposals": ["sweep=methods_refined"], "refine": ["refine=refdiff_heat"]}.get(group, [])
        options += ["-m", "launcher=slurm"] if group == "launcher" else []
        given = [a for a in command_line.rewrite_arguments([*options, f"{key}={HARD}"]) if a != "-m"]
        with initialize_config_dir(str(config.CONF), version_base="1.3"):
            command = "score" if key in ("predictions", "name", "variant") else "run"
            cfg = compose(command, overrides=given, return_hydra_config=True)
        assert OmegaConf.select(cfg, f"hydra.{key}" if group == "launcher" else key) == HARD


def test_no_key_of_the_configuration_that_holds_a_path_is_forgotten():
    words = {"path", "root", "images", "annotations", "file", "labels", "parses", "note", "cache", "folder", "overrides",
             "project", "dir", "out", "image", "expression", "submitit_folder", "partition", "account", "qos",
             "proposals"}  # fmt: skip
    for file in config.CONF.rglob("*.yaml"):
        group = file.parent.name if file.parent != config.CONF else ""
        for key, value in yaml.safe_load(file.read_text()).items():
            if key in words and not isinstance(value, dict):
                assert f"{group}.{key}".strip(".") in command_line.FREE_TEXT, f"{file.name}: {key}"


def test_labels_of_classes_may_lie_in_any_file(tmp_path):
    labels = tmp_path / "run=3, best" / "labels, v=2.json"
    labels.parent.mkdir()
    labels.write_text(json.dumps({}))
    given = ("dataset=shapes_classes", f"dataset.labels={labels}", "dataset.limit=2", "tracker=none")
    _, out, err = command(*given, f"hydra.run.dir={tmp_path / 'out'}")
    # The file was found: what is wrong with it is said of what is in it.
    assert f"'{labels}'" in err or "scored" in out, err
    assert "Traceback" not in err and "mismatched input" not in err


def test_what_was_typed_comes_back_as_typed():
    typed = ["sweep=table3_alpha", "launcher=slurm", "launcher.partition=a,b", "dataset.root=/data, a", "seed=3"]
    assert command_line.as_typed(command_line.rewrite_arguments(typed)) == typed
    again = command_line.rewrite_arguments(command_line.as_typed(["expression='man\\'s hat'", "model.path='null'"]))
    assert again == ["expression='man\\'s hat'", "model.path='null'"]
