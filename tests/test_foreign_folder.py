"""What a folder from elsewhere may do: hold data, and name what options name. Nothing else of it is called."""

import importlib
import json
import shutil
from functools import cache

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf
from safetensors.numpy import save_file

from attrbind_exp import config
from attrbind_exp.commands.command_line import rewrite_arguments
from attrbind_exp.commands.own_folder import use_config_dir
from attrbind_exp.config.from_folder import allowed_targets
from attrbind_exp.paths import CONF
from attrbind_exp.runs.configuration import read_configuration
from attrbind_exp.runs.index import read_sweep
from attrbind_exp.runs.maps import maps_file, read_maps
from attrbind_exp.runs.rows import read_images
from attrbind_exp.runs.summary import read_summary
from attrbind_exp.types import UserError
from tests.conftest import make_variant
from tests.made_runs import expression_row, make_summary, variant_figures, write_files
from tests.test_command import command, composed

SMALL = ("tracker=none", "gallery=0", "changed=0", "dataset.limit=4", "text_processor=baseline", "batch_size=4")
PLUGIN = """\
from dataclasses import dataclass

from attrbind_exp.heatmaps import score_map
from attrbind_exp.heatmaps.diffsegmenter import DiffSegmenter


class HeatInside:
    def measure(self, heat, truth):
        return 100 * float(heat[truth].sum() / heat.sum())


@dataclass(frozen=True)
class Plain(DiffSegmenter):
    def complete(self, maps, seen):
        return score_map.min_max(maps)
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A user's folder with a metric and a heat-map method, and two shards that were run with them."""
    folder = tmp_path_factory.mktemp("foreign")
    for name, text in {
        "mine/inside_of.py": PLUGIN,
        "mine/metric/inside.yaml": "inside:\n  _target_: inside_of.HeatInside\n",
        "mine/heatmap/plain.yaml": "plain:\n  _target_: inside_of.Plain\n  weights: ${model.weights}\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    given = [f"--config-dir={folder / 'mine'}", "metric=inside", "heatmap=[diffsegmenter,plain]", *SMALL]
    code, _, err = command("-m", "shard=0/2,1/2", "keep_maps=true", *given, f"hydra.sweep.dir={folder / 'parts'}")
    assert code == 0, err
    return folder


@pytest.fixture
def parts(sweep, tmp_path):
    """The shards as somebody gets them: without what they were merged to."""
    folder = shutil.copytree(sweep / "parts", tmp_path / "parts")
    for merged in folder.glob("merged*"):
        shutil.rmtree(merged)
    return folder


def one_line(answer, *words):
    """A command ended in one line, with these words in it, and printed nothing else."""
    code, out, err = answer
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert all(word in err for word in words), err


def test_a_sharded_run_with_plug_ins_is_merged_and_rescored_with_their_folder_alone(sweep, parts):
    (before,) = (sweep / "parts").glob("merged*")
    own = ("--config-dir", str(sweep / "mine"))
    one_line(command(str(parts), module="merge"), "names 'inside_of.", "--config-dir=DIR")
    code, out, err = command(str(parts), *own, module="merge")
    assert code == 0, err
    (merged,) = parts.glob("merged*")
    for name in ("summary.json", "expressions.jsonl", "failures.jsonl", "ablation.csv"):
        assert (merged / name).read_bytes() == (before / name).read_bytes()
    assert read_summary(merged).variants[0].metrics["inside"].n == 4
    shard = next(iter(parts.glob("*shard*0/2*")), None) or read_sweep(parts).runs[0].folder
    one_line(command(str(shard), "threshold=0.5", module="rescore"), "names 'inside_of.", "config.yaml")
    code, out, err = command(str(shard), "threshold=0.5", *own, module="rescore")
    assert code == 0, err
    code, out, err = command(str(parts), *own, module="report")
    assert code == 0 and out.strip() == str(parts / "report.html"), err


def spoil(folder, place, value):
    """Change one value of every config.yaml below a folder; `place` is a path with dots."""
    for file in folder.glob("**/config.yaml"):
        cfg = yaml.safe_load(file.read_text())
        OmegaConf.update(box := OmegaConf.create({}), place, value, force_add=True)
        merge_into(cfg, OmegaConf.to_container(box))
        file.write_text(yaml.safe_dump(cfg))


def merge_into(old, new):
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            merge_into(old[key], value)
        else:
            old[key] = value


CALL = {"_target_": "os.system", "_args_": ["touch owned"]}
REFUSED = {
    "a metric": ("metric.x", CALL),
    "the dataset": ("dataset._target_", "os.system"),
    "in the dataset": ("dataset.note", CALL),
    "deep in the dataset": ("dataset.note", [{"a": [{"b": CALL}]}]),
    "in part": ("heatmap.x", CALL | {"_partial_": True}),
    "by a name that finds others": ("metric.x", {"_target_": "hydra.utils.get_method", "path": "os.system"}),
    "by instantiate": ("metric.x", {"_target_": "hydra.utils.instantiate", "config": {"x": 1}}),
    "an edit": ("text_processor.methods", [{"name": "a", "edits": [CALL]}]),
    "the model": ("model.load", CALL),
    "the tracker": ("tracker", CALL),
    "the captioner": ("captioner", CALL),
    "a place of its own": ("elsewhere", CALL),
    "ours, of another group": ("metric.x", {"_target_": "attrbind_exp.tracking.wandb_tracker.WandbTracker"}),
    "ours, of no group": ("metric.x", {"_target_": "attrbind_exp.runs.store.write_text", "path": "owned", "text": ""}),
    "ours, as a launcher": ("metric.x", {"_target_": "hydra_plugins.attrbind_exp_launchers.launchers.RayLauncher"}),
    "no name": ("metric.x", {"_target_": 7}),
    "a name with names in it": ("metric.x", {"_target_": {"_target_": "os.system"}}),
    "a group that is a path": ("../hydra/launcher", CALL),
}


@cache
def good_config():
    """config.yaml as a run writes it."""
    cfg = composed("shard=0/1", "text_processor=baseline", "dataset.limit=2")
    config.fill_reading(cfg)
    return OmegaConf.to_yaml(cfg, resolve=True)


def made(folder):
    """A folder that looks like a finished shard."""
    figures = [variant_figures(("baseline", None), 50.0, 1)]
    write_files(folder, make_summary(figures), [expression_row(("baseline", None), "1:1", 0.5)])
    (folder / "config.yaml").write_text(good_config())
    return folder


@pytest.mark.parametrize(("place", "value"), REFUSED.values(), ids=list(REFUSED))
def test_other_targets_are_refused_and_never_called(tmp_path, monkeypatch, place, value):
    folder = made(tmp_path / "shard")
    monkeypatch.chdir(tmp_path)
    file = folder / "config.yaml"
    cfg = yaml.safe_load(file.read_text())
    keys = place.split(".") if not place.startswith(".") else [place]
    here = cfg
    for key in keys[:-1]:
        here = here[key]
    here[keys[-1]] = value
    file.write_text(yaml.safe_dump(cfg))
    for module, arguments in (("merge", [str(tmp_path)]), ("rescore", [str(folder), "threshold=0.5"])):
        one_line(command(*arguments, module=module), f"'{file}'", f"in {place}", "--config-dir=DIR")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "text", ["${oc.env:SECRET}", "a ${oc.env:SECRET,none} b", "${.name}", "${oc.decode:'1'}", "${asset:x}"]
)
def test_a_foreign_configuration_reads_no_environment(tmp_path, monkeypatch, text):
    monkeypatch.setenv("SECRET", "hush")
    folder = made(tmp_path / "shard")
    spoil(folder, "dataset.note", "x")
    file = folder / "config.yaml"
    file.write_text(file.read_text().replace("note: x", f'note: "{text}"'))
    for module, arguments in (("merge", [str(tmp_path)]), ("rescore", [str(folder), "threshold=0.5"])):
        answer = command(*arguments, module=module)
        one_line(answer, f"'{file}'", "dataset.note", "no references")
        assert "hush" not in answer[2]
    assert command(str(folder), module="report")[0] == 0
    assert "hush" not in (folder / "report.html").read_text()


def test_what_may_be_called_is_what_options_name(sweep):
    assert allowed_targets("metric", None) == frozenset()
    assert allowed_targets("dataset", None) == {
        f"attrbind_exp.data.{name}" for name in ("coco.load_coco", "folder.load_folder", "refer.load_refer")
    }
    with use_config_dir(sweep / "mine"):
        assert allowed_targets("metric", sweep / "mine") == {"inside_of.HeatInside"}
        assert "inside_of.Plain" in allowed_targets("heatmap", sweep / "mine") - allowed_targets("heatmap", None)
    assert allowed_targets("../conf/dataset", None) == allowed_targets(str(CONF / "dataset"), None) == frozenset()


DEEP = "[" * 100_000 + "]" * 100_000
NO_CONFIGURATION = {
    "deep": f"a: {DEEP}\n",
    "deep keys": "".join(" " * k + "a:\n" for k in range(900)),
    "doubling": "a: &a [x]\n" + "".join(f"{k}: &{k} [{', '.join(f'*{chr(ord(k) - 1)}' for _ in range(9))}]\n" for k in "bcdefghi"),
    "a list": "[1, 2]\n",
    "one word": "word\n",
    "nothing": "",
    "no YAML": "a: [\n",
    "no text": b"\xff\xfe\x00",
    "an object": "a: !!python/object/apply:os.system ['touch owned']\n",
    "numbers for groups": "model: 5\ndataset: 5\nheatmap: 5\nshard: 0/1\n",
    "lists for groups": "model: []\ndataset: []\nheatmap: []\nshard: 0/1\n",
}  # fmt: skip


@pytest.mark.parametrize("text", NO_CONFIGURATION.values(), ids=list(NO_CONFIGURATION))
def test_what_is_no_configuration_ends_in_one_line(tmp_path, monkeypatch, text):
    folder = made(tmp_path / "shard")
    monkeypatch.chdir(tmp_path)
    (folder / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    one_line(command(str(folder), "threshold=0.5", module="rescore"))
    code, _, err = command(str(tmp_path), module="merge")
    assert code == 2 and err.count("\n") == 1
    code, _, err = command(str(folder), module="report")
    assert code in (0, 2) and "Traceback" not in err
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "place",
    [
        "model",
        "dataset",
        "heatmap",
        "text_processor",
        "metric",
        "threshold",
        "seed",
        "attention_layers",
        "alpha",
        "keep_maps",
        "captioner",
        "shard",
    ],
)
@pytest.mark.parametrize("value", [None, 7, "x", [1], {"x": 1}], ids=str)
def test_values_of_another_kind_end_in_one_line(tmp_path, place, value):
    folder = made(tmp_path / "shard")
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {place: value}))
    try:
        cfg = config.read_config(folder)
        with config.naming_config(folder):
            config.read_settings(cfg).load_dataset()
    except UserError as error:
        assert str(error).isprintable() and len(str(error)) < 1000


@pytest.mark.parametrize(
    "typed",
    ["dataset=../shapes", "dataset=/etc/passwd", "+dataset=a/b", "dataset@x=..", "heatmap=[daam,../daam]", "sweep=../x",
     "launcher=a/b", "hydra/launcher=../x", "~dataset=../x", "attention_layers=../../conf/attention_layers/half"],
)  # fmt: skip
def test_an_option_is_no_path(typed):
    with pytest.raises(UserError, match="names a path; an option is a name: choose from ") as error:
        rewrite_arguments(["-m", typed])
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "typed",
    ["dataset.root=../a/b", "model.path=/a/../b", "hydra.run.dir=../x", "shard=0/2", "expression=a/b", "folder=../x"],
)
def test_a_path_is_a_path(typed):
    assert rewrite_arguments([typed])[0].startswith(typed.partition("=")[0])


@pytest.mark.parametrize(
    "typed",
    ["attention_layers=../half", "attention_layers=half,quarter", "attention_layers=[half]", "attention_layers=none",
     "threshold=[", "attention_layers.weights={8: ", "threshold=a", "threshold={}"],
)  # fmt: skip
def test_rescoring_refuses_other_options_in_one_line(tmp_path, typed):
    one_line(command(str(made(tmp_path / "run")), typed, module="rescore"), typed.partition("=")[0])


def test_rows_and_summaries_without_end_are_named(tmp_path):
    folder = made(tmp_path / "run")
    good = (folder / "expressions.jsonl").read_bytes()
    for line in (
        f'{{"x": {DEEP}}}\n'.encode(),
        b'{"row": "\xff"}\n',
        f'{{"row": "expression.1", "x": {DEEP}}}\n'.encode(),
    ):
        (folder / "expressions.jsonl").write_bytes(good + line)
        with pytest.raises(UserError, match=r"expressions.jsonl' line 2 is no row"):
            list(read_images(folder))
    for text in (f'{{"x": {DEEP}}}'.encode(), b'{"command": "\xff", "note": "\xff"}'):
        (folder / "summary.json").write_bytes(text)
        with pytest.raises(UserError, match=r"summary.json' is no summary"):
            read_summary(folder)
        (folder / "sweep.json").write_bytes(text)
        with pytest.raises(UserError, match=r"sweep.json' is not what a sweep writes"):
            read_sweep(folder)
    (folder / "config.yaml").write_text("a: 1\n")
    assert read_configuration(folder) == "a: 1\n"


def test_a_row_that_was_changed_is_not_merged(sweep, parts):
    file = next(parts.glob("**/expressions.jsonl"))
    lines = file.read_bytes().splitlines(keepends=True)
    row = json.loads(lines[0])
    own = ("--config-dir", str(sweep / "mine"))
    for spoilt in ([*lines[:1], *lines], lines[1:], [json.dumps(row | {"seed": 5}).encode() + b"\n", *lines[1:]],
                   lines[: -len(lines) // 2]):  # fmt: skip
        file.write_bytes(b"".join(spoilt))
        one_line(command(str(parts), *own, module="merge"), f"below '{parts}'", "run")
        for merged in parts.glob("merged*"):
            assert not (merged / "summary.json").exists()
            shutil.rmtree(merged)


LIES = {
    "a length beyond the file": (2**40).to_bytes(8, "little") + b"{}",
    "a length of 2^64": b"\xff" * 8 + b"{}",
    "no header": b"",
    "deep": len(DEEP).to_bytes(8, "little") + DEEP.encode(),
}
ABOUT = {"places": {"1:1": [[0]]}, "variants": [["baseline", None]], "columns": [["m", 8, ["down"]]], "layers": []}
WRONG = {
    "nothing": None,
    "deep": DEEP,
    "no text": "[",
    "no places": json.dumps({k: v for k, v in ABOUT.items() if k != "places"}),
    "places of text": json.dumps(ABOUT | {"places": {"1:1": "0"}}),
    "a place too far": json.dumps(ABOUT | {"places": {"1:1": [[9]]}}),
    "no such sample": json.dumps(ABOUT | {"places": {}}),
    "more columns than maps": json.dumps(ABOUT | {"columns": ABOUT["columns"] * 2}),
    "columns of three numbers": json.dumps(ABOUT | {"columns": [[1, 2, 3]]}),
}


def find_map(folder):
    return read_maps(folder, "i").find("1:1", make_variant("baseline"), 0)


@pytest.mark.parametrize("content", LIES.values(), ids=list(LIES))
def test_kept_maps_whose_header_lies_are_named(tmp_path, content):
    file = maps_file(tmp_path, "i")
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"no readable maps of image 'i' at .*run it again with keep_maps=true"):
        find_map(tmp_path)


@pytest.mark.parametrize("about", WRONG.values(), ids=list(WRONG))
def test_kept_maps_that_say_something_else_are_named(tmp_path, about):
    file = maps_file(tmp_path, "i")
    file.parent.mkdir()
    arrays = {
        "maps": np.ones((1, 1, 4, 4), np.float16),
        "low": np.zeros((1, 1), np.float32),
        "spread": np.ones((1, 1), np.float32),
    }
    save_file(arrays, file, {"about": json.dumps(ABOUT)})
    assert find_map(tmp_path).shape == (1, 4, 4)
    save_file(arrays, file, None if about is None else {"about": about})
    with pytest.raises(UserError, match="run it again with keep_maps=true"):
        find_map(tmp_path)


@pytest.mark.parametrize("kind", ["masks", "tables", "pickles"])
def test_random_damage_is_refused_counted_or_right(tmp_path, monkeypatch, kind):
    """A small part of benchmarks/damaged.py."""
    folder = CONF.parent / "benchmarks"
    if not folder.is_dir():
        pytest.skip("benchmarks/ is not in an installed package")
    monkeypatch.syspath_prepend(str(folder))
    cases = importlib.import_module("damaged_cases")
    attempt = cases.KINDS[kind](tmp_path)
    found = [cases.outcome(attempt, kind, 3, number) for number in range(60)]
    assert {outcome for outcome, _ in found} <= {"refused", "counted", "right"}, found
    assert sum(outcome == "right" for outcome, _ in found) >= 3
