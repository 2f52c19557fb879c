"""Commands of the package in forked processes whose libraries are loaded already, on a small dataset with bad samples.

A kill costs a second that way, not the ten of a fresh start. Nothing here starts a thread in the parent: a process that
is forked from one with threads may wait for ever. So each process computes with one thread, too.
"""

import importlib
import json
import os
import runpy
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # read when the libraries load
    os.environ[name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

LIBRARIES = (
    *(f"attrbind_exp.commands.{name}" for name in ("build", "merge", "report", "rescore", "run", "sweep")),
    *(f"attrbind_exp.evaluation.{name}" for name in ("batch_size", "kept", "loop")),
    *(f"attrbind_exp.reporting.{name}" for name in ("gallery", "tables", "track", "html.collect", "html.page")),
    "attrbind_exp.backbones.stable_diffusion",
    "attrbind_exp.heatmaps.diffsegmenter",
    "attrbind_exp.tasks.choose",
    "attrbind_exp.tasks.expressions",
    "hydra_plugins.attrbind_exp_launchers.launchers",
    "scipy.stats",
    "PIL.PngImagePlugin",
    "PIL.JpegImagePlugin",
)
PICTURES = {"val": 3, "test": 6}  # of each split of the small dataset
SENTENCES = 1  # of each object
HANGS_AFTER = 120.0  # seconds
TIMED = ("seconds", "overrides")  # of a summary: what may differ
# What no two runs have alike: times, process ids.
UNLIKE = (
    "run.log",
    "seconds.txt",
    "begun.txt",
    "provenance.jsonl",
    "progress.json",
    ".lock",
    "report.html",
    "sweep.json",
    "summary.json",
)


def load_libraries() -> None:
    """Import all that the commands need, and what they read of their own files at every start."""
    import torch

    torch.set_num_threads(1)
    for name in LIBRARIES:
        importlib.import_module(name)
    from attrbind_exp.language.parse import load_spacy

    load_spacy()


@dataclass(frozen=True)
class Child:
    """A command that was started: its process, and where what it prints goes."""

    pid: int
    printed: Path

    def kill(self, sign: int = signal.SIGKILL) -> None:
        """A signal to it and all that it started."""
        os.killpg(self.pid, sign)

    def ended(self) -> int | None:
        """Its exit code, negative after a signal; None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def wait(self, until: float = HANGS_AFTER) -> int | None:
        """Its exit code; None where it still runs after so many seconds."""
        ends = time.monotonic() + until
        while time.monotonic() < ends:
            if (code := self.ended()) is not None:
                return code
            time.sleep(0.002)
        return None


def start(module: str, arguments: Sequence[str], printed: Path, before: Callable[[], None] | None = None) -> Child:
    """Begin `python -m attrbind_exp.MODULE ARGUMENTS` in a process of its own; it calls `before` first."""
    pid = os.fork()
    if pid:
        while os.getpgid(pid) != pid:  # so that a kill finds it
            time.sleep(0.0005)
        return Child(pid, printed)
    code = 1
    try:
        os.setsid()
        to = os.open(printed, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND)
        os.dup2(to, 1), os.dup2(to, 2)
        os.chdir(printed.parent)
        sys.argv = [f"attrbind_exp/{module}.py", *arguments]
        if before:
            before()
        runpy.run_module(f"attrbind_exp.{module}", run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        end_process(code)


def end_process(code: int) -> None:
    """End as an interpreter does: threads are waited for, then what was to be done at the end is done."""
    import atexit
    import threading

    try:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush(), sys.stderr.flush()
    finally:
        os._exit(code)


def run(module: str, arguments: Sequence[str], printed: Path) -> float:
    """The seconds that a command takes. Ends this process where the command fails."""
    started = time.monotonic()
    code = start(module, arguments, printed).wait()
    if code != 0:
        raise SystemExit(f"{module} {' '.join(arguments)} ended with {code}:\n{printed.read_text()}")
    return time.monotonic() - started


def make_data(folder: Path) -> list[str]:
    """The bundled shapes, a few pictures a split, in `folder`; one picture is missing, one mask is empty. Returns what
    a command is told to use them."""
    from attrbind_exp.paths import PACKAGE

    shapes = PACKAGE / "assets" / "shapes"
    instances, refs = (json.loads((shapes / name).read_text()) for name in ("instances.json", "refs(made).json"))
    chosen: list[int] = []
    for split, count in PICTURES.items():
        chosen += list(dict.fromkeys(r["image_id"] for r in refs if r["split"] == split))[:count]
    images = {image["id"]: image for image in instances["images"] if image["id"] in chosen}
    instances["images"] = list(images.values())
    instances["annotations"] = [a for a in instances["annotations"] if a["image_id"] in images]
    kept = [r | {"sentences": r["sentences"][:SENTENCES]} for r in refs if r["image_id"] in images]
    empty = next(r["ann_id"] for r in kept if r["image_id"] == chosen[-3])
    next(a for a in instances["annotations"] if a["id"] == empty)["segmentation"] = []
    target = folder / "few"
    (target / "images").mkdir(parents=True)
    for key, image in images.items():
        if key != chosen[-2]:
            shutil.copy(shapes / "images" / image["file_name"], target / "images")
    (target / "instances.json").write_text(json.dumps(instances))
    (target / "refs(made).json").write_text(json.dumps(kept))
    return [f"dataset.root={folder}", "dataset.name=few", "tracker=none"]


def left(folder: Path) -> dict[str, object]:
    """All that a command leaves in `folder`, by file, as far as two of them must leave the same."""
    found: dict[str, object] = {}
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        name = str(file.relative_to(folder))
        if file.name == "summary.json":
            found[name] = {k: v for k, v in json.loads(file.read_text()).items() if k not in TIMED}
        elif file.name == "sweep.json":
            runs = json.loads(file.read_text())
            found[name] = [[(r["folder"], r["state"], r["error"]) for r in runs["runs"]], runs["merged"]]
        elif file.name == "report.html":
            found[name] = is_whole_page(file)
        elif file.name not in UNLIKE:
            found[name] = file.read_bytes()
    return found


def is_whole_page(file: Path) -> bool:
    """Whether a page is there from its beginning to its end."""
    content = file.read_text()
    return content.startswith("<!doctype html>") and content.rstrip().endswith("</html>")


def differences(found: dict[str, object], wanted: dict[str, object]) -> list[str]:
    """The files that are missing, too many, or of another content."""
    names = sorted(set(found) | set(wanted))
    return [name for name in names if name not in found or name not in wanted or found[name] != wanted[name]]


def add_up(file: Path, counts: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Add counts to those in a JSON file; returns the sums. The file is written whole or not at all."""
    sums: dict[str, dict[str, int]] = json.loads(file.read_text()) if file.is_file() else {}
    for kind, by_name in counts.items():
        for name, count in by_name.items():
            sums.setdefault(kind, {})[name] = sums.get(kind, {}).get(name, 0) + count
    scratch = file.with_name(file.name + ".partial")
    scratch.write_text(json.dumps(sums, indent=2, sort_keys=True) + "\n")
    os.replace(scratch, file)
    return sums
