"""The house rules, the store, the pictures, W&B read back, and the score map by hand."""

import ast
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from attrbind_exp.backbones.backbone import Layer
from attrbind_exp.backbones.capture import SelfAttention
from attrbind_exp.config import CONF, PACKAGE, SWEEPS
from attrbind_exp.heatmaps import score_map
from attrbind_exp.heatmaps.layers import Column, find_columns, weigh_columns
from attrbind_exp.reporting import figures
from attrbind_exp.reporting.tables import markdown
from attrbind_exp.runs.rows import encode_rows
from attrbind_exp.runs.store import RunStore
from attrbind_exp.runs.summary import read_summary
from attrbind_exp.types import Failure, LayerChoice, UserError
from tests.made_runs import expression_row, make_summary, variant_figures


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{a.name}" for a in node.names)}
    return found


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("hydra", {"commands/", "config/", "demo/command.py", "pretrain/command.py"}),
        ("omegaconf", {"commands/", "config/", "demo/command.py", "pretrain/command.py"}),
        ("wandb", {"tracking/"}),
        ("wandb_workspaces", {"tracking/dashboard.py"}),
        ("spacy", {"language/parse.py", "language/target.py"}),
        ("pycocotools", {"data/masks.py", "data/segmentations.py"}),
        ("matplotlib", {"reporting/", "tracking/tensorboard_tracker.py"}),  # TensorBoard takes a curve as a figure
        ("jinja2", {"reporting/html/page.py"}),
        ("gradio", {"demo/page.py"}),
        ("huggingface_hub", {"hub.py"}),
        ("diffusers", {"backbones/", "pretrain/"}),
        ("msgspec", {"runs/", "tasks/", "reporting/", "commands/parts.py"}),
    ],
)
def test_each_library_lives_in_its_room(library, allowed):
    users = {
        str(f.relative_to(PACKAGE))
        for f in PACKAGE.rglob("*.py")
        if any(re.match(rf"{library}\b", m) for m in imports(f))
    }
    assert [u for u in users if not u.startswith(tuple(allowed))] == []
    assert [a for a in allowed if not any(u.startswith(a) for u in users)] == []


# Which room may import which is the business of lint-imports (pyproject.toml).
STUBS = (
    "run",
    "segment",
    "compare",
    "score",
    "parse",
    "doctor",
    "merge",
    "rescore",
    "report",
    "results",
    "study",
    "dashboard",
)

FILES = {"__init__", "__main__", "types", "paths", "hub", "cache", "devices", "memory", "log", "work"}


def test_the_top_of_the_package_is_small():
    top = {f.stem for f in PACKAGE.glob("*.py")}
    assert set(STUBS) <= top and top - set(STUBS) == FILES
    for name in STUBS:
        code = [line for line in (PACKAGE / f"{name}.py").read_text().splitlines() if line.strip()]
        assert len(code) == 3  # an import and the call below `if __name__`


def test_no_file_is_longer_than_a_reader_can_hold():
    assert [str(f) for f in PACKAGE.rglob("*.py") if len(f.read_text().splitlines()) > 300] == []


@pytest.mark.parametrize(
    "file",
    [
        "types.py",
        "heatmaps/score_map.py",
        *sorted(f"{r}/{f.name}" for r in ("edits", "scoring") for f in (PACKAGE / r).glob("*.py")),
    ],
)
def test_pure_modules_touch_no_files_or_devices(file):
    text = (PACKAGE / file).read_text()
    assert not {"os", "io", "json", "PIL"} & imports(PACKAGE / file)
    assert not re.search(r"\bopen\(|\.to\(['\"]|\.cuda\(|\.cpu\(", text)


def test_min_max_and_constant_maps():
    maps = torch.tensor([[[0.0, 2.0], [4.0, 1.0]], [[3.0, 3.0], [3.0, 3.0]]])
    assert score_map.min_max(maps).tolist() == [[[0, 0.5], [1, 0.25]], [[0, 0], [0, 0]]]


def test_grids_round_up():
    assert [score_map.grid_at(r, (9, 16)) for r in (1, 2, 4, 8)] == [(9, 16), (5, 8), (3, 4), (2, 2)]


@pytest.mark.parametrize("count", [1, 5, 11])  # 11 columns do not fit into keys 8 wide at once
@pytest.mark.parametrize("shared", [False, True])
def test_completion_equals_the_matrix_in_the_open(count, shared):
    torch.manual_seed(0)
    layers = [
        SelfAttention(name, torch.randn(2, 3, 20, 8), torch.randn(2, 3, 20, 8), 8**-0.5, [0, 1]) for name in ("a", "b")
    ]
    if shared:  # rows of one image leave one query
        layers[0] = replace(layers[0], query=layers[0].query[:1], key=layers[0].key[:1])
    c = torch.rand(2, count, 4, 5)
    S = sum((x.query @ x.key.transpose(-1, -2) * x.scale).softmax(-1).mean(1) for x in layers) / 2  # (B, N, N)
    expected = (S[:, None] @ c.flatten(2)[..., None]).reshape(2, count, 4, 5)
    torch.testing.assert_close(score_map.complete(c, layers), expected)


@pytest.mark.parametrize("count", [1, 11])  # fewer and more than go through together
@pytest.mark.parametrize("shared", [False, True])
def test_completion_by_kept_sums_equals_the_matrix_in_the_open(count, shared):
    torch.manual_seed(0)
    cells = score_map.QUERIES + 64  # the last queries are fewer
    query, key = 4 * torch.randn(2, 3, cells, 8), torch.randn(2, 3, cells, 8)
    if shared:
        query, key = query[:1], key[:1]
    scores = query.double() @ key.double().transpose(-1, -2) * 8**-0.5
    layer = SelfAttention("a", query, key, 8**-0.5, [0, 1], scores.logsumexp(-1).float())
    c = torch.rand(2, count, 16, cells // 16)
    expected = scores.softmax(-1).mean(1)[:, None] @ c.double().flatten(2)[..., None]
    found = score_map.complete(c, [layer])
    torch.testing.assert_close(found.double().flatten(2), expected[..., 0], rtol=1e-5, atol=1e-6)
    if count > 1 and not shared:  # no column depends on another, to the last bit
        every = c.flatten(2)
        assert torch.equal(score_map.attend(layer, every[:, 3:5]), score_map.attend(layer, every)[:, 3:5])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_completion_by_kept_sums_takes_the_maps_that_the_fused_kernel_takes(dtype):
    query, key = torch.randn(2, 1, 2, 64, 8)
    layer = SelfAttention("a", query, key, 0.5, [0], (query @ key.mT * 0.5).logsumexp(-1))
    c = torch.rand(1, 3, 8, 8).to(dtype)
    found, fused = score_map.complete(c, [layer]), score_map.complete(c, [replace(layer, log_sums=None)])
    assert found.dtype == fused.dtype
    torch.testing.assert_close(found, fused, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)


def test_map_of_one_resolution_by_hand():
    fine = torch.tensor([[0.0, 1, 2, 3]])  # (B, 4): a 2 x 2 grid
    found = score_map.min_max(score_map.mean_map([fine, fine * 3], (2, 2), (2, 2)))
    torch.testing.assert_close(found, torch.tensor([[[0, 1 / 3], [2 / 3, 1]]]))
    coarse = torch.tensor([[5.0]])  # one cell: constant, so it adds nothing
    assert score_map.min_max(score_map.mean_map([coarse], (1, 1), (2, 2))).tolist() == [[[0, 0], [0, 0]]]


def test_a_map_that_is_zero_or_flat_but_for_rounding_is_told_from_a_constant_one():
    assert score_map.is_flat(torch.zeros(1, 2, 2), torch.float32).tolist() == [True]
    rise = torch.tensor([0, 2e-7, 1e-4, 0.5])[:, None, None] * torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    maps = 0.5 + rise  # constant, rounding, a little, a lot
    assert score_map.is_flat(maps, torch.float32).tolist() == [False, True, False, False]
    assert score_map.is_flat(maps, torch.bfloat16).tolist() == [False, True, True, False]


def test_columns_add_up_by_their_weights():
    columns = torch.tensor([[[[1.0, 2.0]], [[10.0, 20.0]]]])  # (1, 2, 1, 2)
    assert score_map.combine(columns, torch.tensor([[0.5, 0.1]])).tolist() == [[[1.5, 3.0]]]


LAYERS = [Layer(f"{b}{r}", b, r, True) for b, r in (("down", 1), ("down", 2), ("mid", 8), ("up", 2), ("up", 1))]


def test_a_choice_of_layers_becomes_columns():
    def weighed(choice):
        return weigh_columns(find_columns(choice, LAYERS), choice.weights)

    both, ones = ("down", "up"), {1: 1.0, 2: 1.0, 8: 1.0}
    assert weighed(LayerChoice(weights={1: 0.1, 2: 0.0, 8: 0.3, 4: 9.0})) == {
        Column(1, both): 0.1, Column(2, both): 0.0, Column(8, ("mid",)): 0.3,
    }  # fmt: skip
    assert weighed(LayerChoice(blocks=("up",), weights=ones)) == {Column(1, ("up",)): 1.0, Column(2, ("up",)): 1.0}
    assert weighed(LayerChoice((2,), ("down", "mid"), ones)) == {Column(2, ("down",)): 1.0}


def test_store_writes_whole_files(tmp_path):
    store = RunStore(tmp_path / "run", "key")
    rows = [expression_row(("baseline", None), name, 0.5) for name in ("a", "é")]
    store.add_rows(rows)
    store.add_failures([Failure("1:2", "image_missing", "gone")])
    store.close()
    lines = (tmp_path / "run" / "expressions.jsonl").read_bytes()
    assert lines == encode_rows(rows) and '"sample_id":"é"'.encode() in lines and lines.count(b"\n") == 2
    with RunStore(tmp_path / "run", "key") as again:
        assert [(found.sample_id, end) for found, end in again.read_rows()][1] == ("é", len(lines))
    scored = variant_figures(("baseline", None), 1.5, 2)
    store.write_summary(make_summary([scored]))
    assert read_summary(tmp_path / "run") == make_summary([scored])
    assert not list((tmp_path / "run").glob("*.partial"))
    with pytest.raises(ValueError, match="JSON"):
        store.write_summary(make_summary([replace(scored, oIoU=float("nan"))]))


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to the run folder"):
        RunStore(tmp_path / "file", "key")


def test_a_picture_takes_any_title(tmp_path):
    image = np.full((8, 8, 3), 100, np.uint8)
    path = figures.panels({"a": image, "b": image}, "costs $5 & $6 <b>", tmp_path / "panels.png")
    assert Image.open(path).width > 400


def test_markdown_lines_up():
    lines = markdown(pd.DataFrame([["x", "1"], ["long", "22"]], columns=["a", "b"])).splitlines()
    assert lines == ["| a    |   b |", "| ---- | --: |", "| x    |   1 |", "| long |  22 |"]


def test_the_wheel_holds_the_configuration_and_the_assets(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=CONF.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    assert {f"attrbind_exp/conf/{f.relative_to(CONF)}" for f in CONF.rglob("*.yaml")} <= names
    assert {f"attrbind_exp/sweeps/{f.name}" for f in SWEEPS.glob("*.yaml")} <= names
    assets = [
        f
        for room in ("assets", "reporting/html/templates", "demo/static")
        for f in (PACKAGE / room).rglob("*")
        if f.is_file()
    ]
    assert {"attrbind_exp/py.typed", *(f"attrbind_exp/{f.relative_to(PACKAGE)}" for f in assets)} <= names
    plugins = PACKAGE.parent / "hydra_plugins"
    assert {str(f.relative_to(plugins.parent)) for f in plugins.rglob("*.py")} <= names


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "7"}])
def test_threads_that_wait_do_not_spin_unless_the_user_says_so(given):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {k: v for k, v in os.environ.items() if k not in names} | given
    code = f"import os, sys, attrbind_exp; assert 'torch' not in sys.modules; print(*map(os.environ.get, {names!r}))"
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split() == [*(given.values() or ("PASSIVE", "0"))]
