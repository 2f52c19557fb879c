"""Benchmarks that stand in for a GPU's hour still start; what they measure is nobody's business here."""

import ast
import importlib
import json
import os
import subprocess
import sys

import pytest

from attrbind_exp.config import CONF

FOLDER = CONF.parent / "benchmarks"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="benchmarks/ is not in an installed package")


def test_benchmarks_name_what_is_there():
    """Some import only when they are started, and those for a GPU are started where one is."""
    named = [
        (file.name, node.module, alias.name)
        for file in sorted(FOLDER.glob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("attrbind_exp")
        for alias in node.names
    ]
    gone = [name for name in named if not is_there(*name[1:])]
    assert len(named) > 100 and not gone


def is_there(module, name):
    try:
        return hasattr(importlib.import_module(module), name) or bool(importlib.import_module(f"{module}.{name}"))
    except ImportError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("counting", ["device", "host"])
def test_the_hosts_share_is_measured(counting):
    typed = [sys.executable, FOLDER / "host.py", "--images", "2", "--rounds", "1", "--counting", counting]
    done = subprocess.run(typed, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["counting"] == counting and found["passes"] > 40 and found["ms"]["counting"] > 0
