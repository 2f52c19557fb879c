"""Good files damaged at random: is each refused in one line, counted as a failure, or right?

    python benchmarks/damaged.py
    python benchmarks/damaged.py --masks 10000 --tables 2000 --pickles 500 --checkpoints 500

Bytes are flipped, cut and doubled; values are swapped, or become others of another type, or nested without end. The
same seed gives the same damages. Cases run in processes of their own: one that ends, or takes longer than TIME seconds,
is named. The exit code is 1 where any case ended in a traceback, hung, ended its process or was changed without a word.
The cases are in damaged_cases.py, damaged_tables.py and damage.py.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

TIME = 10  # seconds that a case may take
START = 180  # and the libraries before the first
DEFAULTS = {"masks": 200, "tables": 200, "pickles": 50, "checkpoints": 20}
GOOD = ("refused", "counted", "right")
BAD = ("traceback", "hung", "ended its process", "changed without a word")


def work(kind: str, numbers: list[int], seed: int, pipe: Connection) -> None:
    """Try each case and say what became of it: (number, outcome, what was seen)."""
    import damaged_cases

    with tempfile.TemporaryDirectory() as folder:
        attempt = damaged_cases.KINDS[kind](Path(folder))
        pipe.send(None)
        for number in numbers:
            pipe.send((number, *damaged_cases.outcome(attempt, kind, seed, number)))


def try_all(kind: str, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """How many cases had each outcome, and a line for every bad one."""
    spawn, found, bad = multiprocessing.get_context("spawn"), Counter[str](), list[str]()
    left = list(range(count))
    while left:
        ours, theirs = spawn.Pipe()
        worker = spawn.Process(target=work, args=(kind, left, seed, theirs), daemon=True)
        worker.start()
        theirs.close()
        wait = START
        try:
            while left and ours.poll(wait):
                said = ours.recv()
                if said is not None:
                    number, outcome, seen = said
                    left.remove(number)
                    found[outcome] += 1
                    bad += [f"{kind} {number}: {outcome}: {seen}"] if outcome in BAD else []
                wait = TIME
            outcome = "hung"
        except EOFError:
            outcome = "ended its process"
        worker.kill()
        worker.join()
        if wait == START:
            raise SystemExit(f"no worker for {kind} could be started")
        if left:
            number = left.pop(0)
            found[outcome] += 1
            bad.append(f"{kind} {number}: {outcome}, exit code {worker.exitcode}")
    return found, bad


def main() -> None:
    """Print a line for every kind, and every case that is none of GOOD."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind, count in DEFAULTS.items():
        parser.add_argument(f"--{kind}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    worst = 0
    for kind in DEFAULTS:
        started = time.monotonic()
        found, bad = try_all(kind, getattr(given, kind), given.seed)
        shown = ", ".join(f"{found[outcome]} {outcome}" for outcome in (*GOOD, *BAD))
        print(f"{kind}: {found.total()} damaged: {shown}; {time.monotonic() - started:.0f} s")
        print("".join(f"  {line}\n" for line in bad), end="", flush=True)
        worst |= bool(bad)
    sys.exit(worst)


if __name__ == "__main__":
    main()
