"""Where the time of a run goes: its wall time by stage, with torch's profiler if asked.

    python benchmarks/stages.py [text_processor=ablation ..]         # the arguments of attrbind_exp.run
    python benchmarks/stages.py --trace trace.json [..]              # also a trace for chrome://tracing

A stage is timed where it is entered, without what a stage inside it takes. On CUDA each stage ends by waiting for the
device, so it is charged with its own kernels. Reading files and scoring happen in threads beside the rest: their time
is shown, but is no part of the sum. The last line is one JSON object.
"""

import json
import pkgutil
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

started = time.perf_counter()
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from attrbind_exp.commands import command_line, run

P, R = ParamSpec("P"), TypeVar("R")
IMPORTS = "imports"
# Stage, where its function is looked up when it is called ("module:class"), and the function's name.
STAGES = (
    ("load model", "attrbind_exp.backbones.stable_diffusion", "load_stable_diffusion"),
    ("read pictures (threads)", "attrbind_exp.evaluation.batching", "read_files"),
    ("parse", "attrbind_exp.language.parse_cache", "parse_expressions"),
    ("VAE", "attrbind_exp.backbones.stable_diffusion:StableDiffusion", "encode_pixels"),
    ("text encoder", "attrbind_exp.backbones.stable_diffusion:StableDiffusion", "encode_text"),
    ("edit embeddings", "attrbind_exp.heatmaps.segmenter:Segmenter", "edit"),
    ("noise", "attrbind_exp.backbones.stable_diffusion:StableDiffusion", "add_noise"),
    ("UNet", "attrbind_exp.backbones.stable_diffusion:StableDiffusion", "observe"),
    ("completion", "attrbind_exp.heatmaps.score_map", "complete"),
    ("heat maps", "attrbind_exp.heatmaps.segmenter:Segmenter", "start_heat_maps"),
    ("scoring (threads)", "attrbind_exp.tasks.expressions:ExpressionTask", "count"),
    ("scoring (threads)", "attrbind_exp.tasks.classes:ClassTask", "count"),
    ("write rows", "attrbind_exp.runs.store:RunStore", "add_rows"),
    ("figures", "attrbind_exp.tasks.expressions:ExpressionTask", "figures"),
    ("figures", "attrbind_exp.tasks.classes:ClassTask", "figures"),
    ("pictures", "attrbind_exp.reporting.gallery:Artist", "draw"),
    *(
        ("tracking", "attrbind_exp.tracking.wandb_tracker:WandbTracker", name)
        for name in ("curve", "table", "images", "summary", "close", "__init__")
    ),
)
seconds: dict[str, float] = defaultdict(float)
inside = threading.local()


def timed(name: str, function: Callable[P, R]) -> Callable[P, R]:
    """The function, which now adds its time to `seconds`, less that of the stages inside it."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
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

    return wrapper


def take_trace_file(arguments: list[str]) -> str | None:
    """The file named by --trace, None where there is none. Both are removed from the arguments."""
    if "--trace" not in arguments:
        return None
    at = arguments.index("--trace")
    file = arguments[at + 1]
    del arguments[at : at + 2]
    return file


def report(wall: float) -> None:
    """Print what every stage took: lines to read, then one JSON object."""
    beside = {name: took for name, took in seconds.items() if "threads" in name}
    stages = {name: took for name, took in seconds.items() if name not in beside}
    stages["everything else"] = wall - sum(stages.values())
    for name, took in sorted({**stages, **beside}.items(), key=lambda pair: -pair[1]):
        print(f"{name:24} {took:8.2f} s {100 * took / wall:6.1f} %")
    print(json.dumps({"wall": round(wall, 2), **{name: round(took, 2) for name, took in {**stages, **beside}.items()}}))


def main() -> None:
    trace = take_trace_file(sys.argv)
    for name, place, attribute in STAGES:
        owner = pkgutil.resolve_name(place)
        setattr(owner, attribute, timed(name, getattr(owner, attribute)))
    seconds[IMPORTS] = time.perf_counter() - started
    profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) if trace else None
    with profile or nullcontext():
        command_line.run_main(run.main)
    if profile:
        profile.export_chrome_trace(trace)
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=12))
    report(time.perf_counter() - started)


if __name__ == "__main__":
    main()
