"""What a run costs beside its evaluation: starting, Ray, the tracker, writing rows, the report page.

    python benchmarks/overheads.py [--rounds 3]

Everything is measured in turn within one round, on the bundled model. Seconds are medians over rounds [least, most]; the
last line is one JSON object.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

RUN = [sys.executable, "-m", "attrbind_exp.run", "dataset.fraction=0.1", "gallery=2", "changed=2"]


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def run(folder: Path, *more: str) -> float:
    """Wall time of one command."""
    given = [*RUN, f"hydra.run.dir={folder}", *more]
    return seconds(lambda: subprocess.run(given, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))


def sweep(folder: Path, launcher: str) -> float:
    """Wall time of a sweep of two runs."""
    given = [*RUN, "-m", "alpha=0.5,0.9", f"launcher={launcher}", "tracker=none", f"hydra.sweep.dir={folder}"]
    return seconds(lambda: subprocess.run(given, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))


def start_ray() -> tuple[float, float]:
    """Ray on this machine: start and stop; a process of its own for one empty task."""
    import ray

    begin = seconds(lambda: ray.init(num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR"))
    task = seconds(lambda: ray.get(ray.remote(max_calls=1, num_gpus=1)(lambda: None).remote()))
    return begin + seconds(ray.shutdown), task


def write_rows(rows: list[list[dict]], folder: Path) -> float:
    """Milliseconds an image: its rows as JSON, written and flushed."""
    from attrbind_exp.runs.store import RunStore

    with RunStore(folder, "key") as store:
        return 1000 * seconds(lambda: [store.add_rows(image) for image in rows]) / len(rows)


def measure(folder: Path) -> dict[str, float]:
    """One round."""
    from attrbind_exp.reporting.html.write import write_report

    found = {"run, tracker=none": run(folder / "none", "tracker=none")}
    found["run, tracker=wandb offline"] = run(folder / "wandb", "tracker=wandb", "tracker.mode=offline")
    summary = json.loads((folder / "none" / "summary.json").read_text())
    found["of it evaluation"] = summary["seconds"]
    found["the same command again (finished: nothing to do)"] = run(folder / "none", "tracker=none")
    found["sweep of two runs, launcher=local"] = sweep(folder / "local", "local")
    found["sweep of two runs, launcher=gpus"] = sweep(folder / "gpus", "gpus")
    found["Ray: start and stop"], found["Ray: a process for a run"] = start_ray()
    rows: dict[str, list[dict]] = {}
    for line in (folder / "none" / "expressions.jsonl").read_text().splitlines():
        rows.setdefault(json.loads(line)["image_id"], []).append(json.loads(line))
    found["rows of an image, ms"] = write_rows(list(rows.values()), folder / "rows")
    found["evaluation of an image, ms"] = 1000 * summary["seconds"] / len(rows)
    found["report.html"] = seconds(lambda: write_report(folder / "none"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = []
    for number in range(parser.parse_args().rounds):
        folder = Path(tempfile.mkdtemp())
        try:
            rounds.append(measure(folder))
        finally:
            shutil.rmtree(folder)
        print(f"round {number + 1}", file=sys.stderr)
    result = {}
    for name in rounds[0]:
        values = [r[name] for r in rounds]
        result[name] = {"median": statistics.median(values), "least": min(values), "most": max(values)}
        print(f"{name:52} {result[name]['median']:8.2f} [{min(values):.2f}, {max(values):.2f}]")
    print(json.dumps({"benchmark": "overheads", "cpus": os.cpu_count(), "rounds": len(rounds), "seconds": result}))


if __name__ == "__main__":
    main()
