"""Where the time of a run goes: its wall time by stage, torch's profiler behind it.

    python benchmarks/stages.py [text_processor=ablation ..]         # the arguments of attrbind_exp.run
    python benchmarks/stages.py --trace trace.json [..]              # also a trace for chrome://tracing

Stages are timed where they are entered, without what a stage inside them takes; on CUDA the device is waited for at each
end, so a stage is charged with its own kernels. Reading and scoring happen in threads beside the rest: their time is
shown, but is no part of the sum. The last line is one JSON object.
"""

import json
import sys
import threading
import time
from collections import defaultdict
from functools import wraps
from pathlib import Path

started = time.perf_counter()
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from attrbind_exp import run as command
from attrbind_exp.backbones import unet as model
from attrbind_exp.commands import command_line
from attrbind_exp.evaluation import batching as batch
from attrbind_exp.evaluation import experiment
from attrbind_exp.evaluation import loop as evaluation
from attrbind_exp.heatmaps import score_map
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.language import parse_cache, processor
from attrbind_exp.reporting import gallery
from attrbind_exp.runs import store
from attrbind_exp.tracking import tracker

IMPORTS = "imports"
STAGES = [
    ("load model", model, "load_model"), ("read pictures (threads)", batch, "read_samples"),
    ("parse", parse_cache, "parse_expressions"), ("VAE", model.DiffusionModel, "encode_pixels"),
    ("text encoder", model.DiffusionModel, "encode_text"), ("edit embeddings", processor.TextProcessor, "bind"),
    ("noise", model.DiffusionModel, "add_noise"), ("UNet", model.DiffusionModel, "denoise"),
    ("completion", score_map, "complete"), ("heat maps", Segmenter, "start_heat_maps"),
    ("scoring (threads)", evaluation, "score_image"), ("write rows", store.RunStore, "add_rows"),
    ("summary", experiment, "summarize"), ("pictures", gallery.Artist, "draw"),
]  # fmt: skip
seconds: dict[str, float] = defaultdict(float)
inside = threading.local()


def timed(name: str, function):
    """The function with its time, less that of stages inside it, added to `seconds`."""

    @wraps(function)
    def run(*args, **kwargs):
        outer, inside.children = getattr(inside, "children", None), 0.0
        begin = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            took = time.perf_counter() - begin
            seconds[name] += took - inside.children
            inside.children = None if outer is None else outer + took
            if outer is None:
                del inside.children

    return run


def main() -> None:
    trace = None
    if "--trace" in sys.argv:
        at = sys.argv.index("--trace")
        trace = sys.argv[at + 1]
        del sys.argv[at : at + 2]
    seconds[IMPORTS] = time.perf_counter() - started
    for name, owner, attribute in STAGES:
        setattr(owner, attribute, timed(name, getattr(owner, attribute)))
    for name in ("curve", "table", "images", "summary", "close", "__init__"):
        setattr(tracker.WandbTracker, name, timed("tracking", getattr(tracker.WandbTracker, name)))
    activities = [torch.profiler.ProfilerActivity.CPU]
    profile = torch.profiler.profile(activities=activities) if trace else None
    if profile:
        profile.start()
    command_line.run_main(command.main)
    if profile:
        profile.stop()
        profile.export_chrome_trace(trace)
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=12))
    wall = time.perf_counter() - started
    beside = {name: took for name, took in seconds.items() if "threads" in name}
    stages = {name: took for name, took in seconds.items() if name not in beside}
    stages["everything else"] = wall - sum(stages.values())
    for name, took in sorted({**stages, **beside}.items(), key=lambda pair: -pair[1]):
        print(f"{name:24} {took:8.2f} s {100 * took / wall:6.1f} %")
    print(json.dumps({"wall": round(wall, 2), **{name: round(took, 2) for name, took in {**stages, **beside}.items()}}))


if __name__ == "__main__":
    main()
