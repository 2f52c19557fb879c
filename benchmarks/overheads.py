"""What a run costs besides scoring: starting, Ray, the tracker, writing rows, the report page.

    python benchmarks/overheads.py [--rounds 3]

Everything is measured in turn within each round, on the bundled model. Printed are medians over rounds, in seconds,
[least, most]. The last line is one JSON object.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import seconds

RUN = [sys.executable, "-m", "attrbind_exp.run", "dataset.fraction=0.1", "gallery=2", "changed=2"]


def command(given: Sequence[str]) -> float:
    """The wall time of one command."""
    return seconds(lambda: subprocess.run(given, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))


def run(folder: Path, *more: str) -> float:
    """The wall time of a run."""
    return command([*RUN, f"hydra.run.dir={folder}", *more])


def sweep(folder: Path, launcher: str) -> float:
    """The wall time of a sweep of two runs."""
    return command([*RUN, "-m", "alpha=0.5,0.9", f"launcher={launcher}", "tracker=none", f"hydra.sweep.dir={folder}"])


def start_ray() -> tuple[float, float]:
    """The time to start and stop Ray on this machine, and that of a process for one empty task."""
    import ray

    begin = seconds(lambda: ray.init(num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR"))
    task = seconds(lambda: ray.get(ray.remote(max_calls=1, num_gpus=1)(lambda: None).remote()))
    return begin + seconds(ray.shutdown), task


def write_rows(of_run: Path, folder: Path) -> tuple[float, int]:
    """Milliseconds an image to write and flush the rows of a finished run once more; and how many images these are."""
    from attrbind_exp.runs.rows import read_images
    from attrbind_exp.runs.store import RunStore

    rows = [of_image for _, of_image in read_images(of_run)]
    with RunStore(folder, "key") as store:
        return 1000 * seconds(lambda: [store.add_rows(of_image) for of_image in rows]) / len(rows), len(rows)


def measure(folder: Path) -> dict[str, float]:
    """All measurements once."""
    from attrbind_exp.reporting.write import write_report
    from attrbind_exp.runs.summary import read_summary

    found = {"run, tracker=none": run(folder / "none", "tracker=none")}
    found["run, tracker=wandb offline"] = run(folder / "wandb", "tracker=wandb", "tracker.mode=offline")
    scoring = read_summary(folder / "none").seconds
    found["of it evaluation"] = scoring
    found["the same command again (finished: nothing to do)"] = run(folder / "none", "tracker=none")
    found["sweep of two runs, launcher=local"] = sweep(folder / "local", "local")
    found["sweep of two runs, launcher=gpus"] = sweep(folder / "gpus", "gpus")
    found["Ray: start and stop"], found["Ray: a process for a run"] = start_ray()
    found["rows of an image, ms"], images = write_rows(folder / "none", folder / "rows")
    found["evaluation of an image, ms"] = 1000 * scoring / images
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
