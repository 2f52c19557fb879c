"""Elsewhere than on Linux: a run without what only Linux, or only Unix, has; and whether the lock can be installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from attrbind_exp.config import CONF

ROOT = CONF.parent

# Libraries decide what system they are on when they are imported. So they come first, and all of ours after the change.
ELSEWHERE = """
import ctypes, os, runpy, signal, sys
import diffusers, filelock, hydra.main, jinja2, matplotlib.pyplot, msgspec, pandas, pycocotools.mask, rich.progress
import safetensors.torch, scipy.stats, spacy, torch, transformers
from diffusers import StableDiffusionPipeline
from hydra._internal.core_plugins import basic_launcher

UNIX = {
    os: "fork forkpty getuid geteuid getgid getegid getpgid setsid killpg sched_getaffinity statvfs mkfifo chown nice wait4",
    signal: "SIGKILL SIGUSR1 SIGUSR2 SIGHUP SIGALRM SIGSTOP SIGCONT SIGQUIT alarm setitimer pthread_kill",
}
for module, names in UNIX.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty"):
    sys.modules[name] = None
plain = ctypes.CDLL

def library(name, *rest, **named):
    if name is None:
        raise TypeError("expected a name, as on Windows")
    return plain(name, *rest, **named)

ctypes.CDLL = library
sys.platform = "win32"
assert not [name for name in sys.modules if name.partition(".")[0] == "attrbind_exp"]
from attrbind_exp.evaluation import heat
heat.AHEAD = 1  # every image has more heat than that
sys.argv = ["attrbind_exp/run.py", *sys.argv[1:]]
runpy.run_module("attrbind_exp.run", run_name="__main__")
"""


def test_a_run_needs_nothing_that_only_unix_has(tmp_path):
    given = ["dataset.limit=2", "tracker=none", "gallery=1", "changed=1", "model.device=cpu", "text_processor=paper"]
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *given, f"hydra.run.dir={tmp_path / 'run'}", f"cache.folder={tmp_path / 'cache'}"],
        cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (
        len((tmp_path / "run" / "expressions.jsonl").read_text().splitlines()) == 2 * 3
    )  # and the empty prompt's heat
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.slow
def test_types_know_of_no_attribute_that_windows_or_macos_lack(tmp_path):
    """Checked by mypy, whose stubs say which system has what."""
    for system in ("win32", "darwin"):
        asked = [sys.executable, "-m", "mypy", "--platform", system, "--cache-dir", str(tmp_path)]
        done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def manylinux(machine: str) -> list[str]:
    """The platforms of wheels that a Linux of 2021 or later takes: glibc 2.34."""
    return [f"manylinux_2_{n}_{machine}" for n in range(34, 4, -1)] + [f"manylinux2014_{machine}", f"linux_{machine}"]


SYSTEMS = {
    "Linux x86-64": manylinux("x86_64"),
    "Linux aarch64": manylinux("aarch64"),
    "macOS arm64": [f"macosx_{n}_0_{kind}" for n in range(15, 10, -1) for kind in ("arm64", "universal2")],
    "Windows": ["win_amd64"],
}
FROM_SOURCE = "antlr4-python3-runtime"  # has no wheel; it is Python alone


def resolve(python: str, system: str, folder: Path) -> str:
    """What pip says against installing the lock there, "" where it could; nothing is installed."""
    tag = f"cp{python.replace('.', '')}"
    asked = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--quiet",
        "--target",
        str(folder / "none"),
    ]
    asked += [
        "--only-binary=:all:",
        f"--no-binary={FROM_SOURCE}",
        "--no-deps",
        "--requirement",
        str(ROOT / "requirements.lock"),
    ]
    asked += ["--implementation", "cp", "--python-version", python, "--abi", tag, "--abi", "abi3", "--abi", "none"]
    asked += [part for name in SYSTEMS[system] for part in ("--platform", name)]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=1800)
    return "" if done.returncode == 0 else done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_the_lock_can_be_installed_on_every_system(python, system, tmp_path):
    """By pip's own resolver: every pinned version has a wheel there. Two minutes each, and no test without a net."""
    said = resolve(python, system, tmp_path)
    if "NewConnectionError" in said or "ConnectTimeout" in said or "NameResolutionError" in said:
        pytest.skip("no package index can be reached")
    assert not said, said
