"""Disks that fail and processes that are stopped: nothing is lost, no figure changes.

    python benchmarks/faults.py --faults 250 --stops 50 --seed 0 --out faults.json

A fault: benchmarks/faults.c is compiled (by cc, into a scratch folder) and loaded before libc. In a forked command it
lets one call on a path in the command's folder fail, or in the cache, once or from then on: ENOSPC, EIO or EACCES of an
open, read, write, truncate, close, rename, mkdir or unlink, at a random place. The command must end in one line without
a traceback, or go on and leave all that it should, or say what it left out. Started again without the fault, it must
leave what a command leaves that never saw one.

A stop: SIGSTOP at a random moment; the same command, started meanwhile in the same folder, is refused or finds nothing
wrong; after SIGCONT both have left the same as ever.

Each part adds its counts to --out; give each another --seed. Needs no GPU and no network; one process at a time, two
while one is stopped. Linux with cc; elsewhere it says so.
"""

import argparse
import ctypes
import errno
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import forked
import kills

LIBRARY = "ATTRBIND_FAULTS"  # names the layer to the process that begins anew with it
CALLS = ("open", "read", "write", "truncate", "sync", "close", "rename", "mkdir", "unlink")  # as in faults.c
MEANT = {  # the calls that end so on real disks
    "ENOSPC": ("open", "write", "truncate", "close", "rename", "mkdir"),
    "EIO": ("open", "read", "write", "truncate", "close", "rename", "mkdir", "unlink"),
    "EACCES": ("open", "rename", "mkdir", "unlink"),
}
WEIGHTS = {"run": 6, "shards": 1, "merge": 2, "rescore": 2, "report": 1}  # of faults, by kind of command
STOPPED = ("run", "merge", "rescore")


class Counts(ctypes.Structure):
    """What the layer counts: calls of each kind, those that failed, and the first path of which one did."""

    _fields_ = [("seen", ctypes.c_long * len(CALLS)), ("failed", ctypes.c_long), ("path", ctypes.c_char * 1024)]


class Layer:
    """The loaded layer, and the counts of the process that is armed last."""

    def __init__(self, library: str):
        self.library = ctypes.CDLL(library)
        self.memory = mmap.mmap(-1, ctypes.sizeof(Counts))  # shared with forked processes
        self.counts = Counts.from_buffer(self.memory)

    def arm(self, folder: Path, call: str, nth: int, error: str, lasting: bool) -> None:
        """Let the n-th call below the folder fail, in this process."""
        below, number = str(folder).encode(), getattr(errno, error)
        given = (below, CALLS.index(call), ctypes.c_long(nth), number, int(lasting), ctypes.byref(self.counts))
        self.library.arm_faults(*given)

    def clear(self) -> None:
        """Count from nothing."""
        ctypes.memset(ctypes.byref(self.counts), 0, ctypes.sizeof(Counts))


def begin_with_layer() -> str:
    """The layer that this process was begun with; begins the process anew where there is none yet."""
    if LIBRARY in os.environ:
        return os.environ[LIBRARY]
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        print("no faults were made: that takes Linux and a C compiler named cc")
        sys.exit(0)
    built = Path(tempfile.mkdtemp(prefix="faults_")) / "faults.so"
    source = Path(__file__).with_suffix(".c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", built, source, "-ldl"], check=True)
    os.environ |= {LIBRARY: str(built), "LD_PRELOAD": str(built)}
    os.execv(sys.executable, [sys.executable, *sys.argv])


def count_calls(layer: Layer, jobs: dict[str, kills.Job], cache: Path) -> dict[tuple[str, Path], dict[str, int]]:
    """How often each command makes each call below its folder, and below the cache."""
    found = {}
    for kind, job in jobs.items():
        for folder in (job.folder, cache):
            job.prepare()
            shutil.rmtree(cache, ignore_errors=True)
            layer.clear()
            job.start(lambda folder=folder: layer.arm(folder, "open", 0, "EIO", False)).wait()
            found[kind, folder] = dict(zip(CALLS, layer.counts.seen, strict=True))
    return found


def fault(
    layer: Layer, job: kills.Job, where: Path, calls: dict[str, int], draw: random.Random
) -> tuple[str, list[str]]:
    """One fault and the start after it. Returns what the command did about it, and what went wrong."""
    error, call = draw.choice([(e, c) for e, meant in MEANT.items() for c in meant if calls[c]])
    nth, lasting = draw.randint(1, calls[call]), draw.random() < 0.5
    job.prepare()
    if where != job.folder:
        shutil.rmtree(where, ignore_errors=True)
    layer.clear()
    child = job.start(lambda: layer.arm(where, call, nth, error, lasting))
    code = child.wait()
    if code is None:
        child.kill(), child.wait()
    said, path = child.printed.read_text(errors="replace"), layer.counts.path.decode()
    what, wrong = judge(code, said, bool(layer.counts.failed), forked.differences(job.found(), job.wanted))
    child = job.start()
    if (code := child.wait()) != 0:
        wrong.append(f"started again it ended with {code}: {child.printed.read_text()[-1500:]}")
    elif unlike := forked.differences(job.found(), job.wanted):
        wrong.append(f"started again it left {', '.join(unlike)} otherwise")
    if wrong:
        shown = f"{error} at {call} {nth} of {calls[call]} ({path}), {'from then on' if lasting else 'once'}"
        wrong = [f"{shown}: {'; '.join(wrong)}\n    it said: {said[-3000:]}"]
    return what, wrong


def judge(code: int | None, said: str, failed: bool, unlike: list[str]) -> tuple[str, list[str]]:
    """What a command did about a fault in a word, and what was wrong with it."""
    if code is None:
        return "hung", ["it hung"]
    wrong = ["a traceback"] if "Traceback" in said else []
    if code == 0:
        warned = "warning" in said.lower()
        wrong += [f"without a word it left {', '.join(unlike)} otherwise"] if unlike and not warned else []
        return "went on and said so" if warned else "went on" if failed else "not reached", wrong
    lines = [line for line in said.splitlines() if "error: " in line]
    if not lines:
        wrong.append(f"exit code {code} without a line that says why")
    return "ended in one line", wrong


def stop(job: kills.Job, draw: random.Random) -> tuple[str, list[str]]:
    """One SIGSTOP and SIGCONT, a second start between. Returns what became of the second, and what went wrong."""
    job.prepare()
    child, wrong = job.start(), []
    if child.wait(draw.uniform(0, job.duration)) is not None:
        return "ended before the stop", []
    child.kill(signal.SIGSTOP)
    time.sleep(0.05)
    second = job.start(printed="second.txt")
    code, said = second.wait(), ""
    if code is None:
        second.kill(), second.wait()
        what = "the second hung"
    else:
        said = second.printed.read_text()
        what = "the second was refused" if "in use by another process" in said else "the second found it free"
    if code is None or "Traceback" in said or (code != 0) != ("refused" in what):
        wrong.append(f"the second ended with {code}: {said[-2000:]}")
    child.kill(signal.SIGCONT)
    code = child.wait()
    said = child.printed.read_text()
    # Stopped before it took the folder, it may find the other one's work there.
    if code != 0 or "Traceback" in said:
        wrong.append(f"continued it ended with {code}: {said[-2000:]}")
    wrong += forked.differences(job.found(), job.wanted)
    return what, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=250)
    parser.add_argument("--stops", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget-minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, help="a JSON file to which the counts are added")
    given = parser.parse_args()
    library = begin_with_layer()
    try:
        try_all(Layer(library), given)
    finally:
        shutil.rmtree(Path(library).parent)


def try_all(layer: Layer, given: argparse.Namespace) -> None:
    """All faults and stops that were asked for, in any order; ends this process with code 1 where one was wrong."""
    forked.load_libraries()
    begun, draw = time.monotonic(), random.Random(f"faults {given.seed}")
    with kills.workplace() as work:
        jobs = kills.make_jobs(work, list(WEIGHTS))
        cache = work / "outputs" / "cache"
        seen = count_calls(layer, jobs, cache)
        tried = ["fault"] * given.faults + ["stop"] * given.stops
        draw.shuffle(tried)
        for number, trial in enumerate(tried, start=1):
            if time.monotonic() - begun > 60 * given.budget_minutes:
                break
            if trial == "fault":
                kind = draw.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
                where = draw.choices([jobs[kind].folder, cache], [6, 1])[0]
                if not any(seen[kind, where].values()):
                    where = jobs[kind].folder
                what, wrong = fault(layer, jobs[kind], where, seen[kind, where], draw)
            else:
                kind = draw.choice(STOPPED)
                what, wrong = stop(jobs[kind], draw)
            kills.keep_wrong(jobs[kind], kind, wrong)
            counts = Counter({trial + "s": 1, f"{trial}: {what}": 1, "otherwise": int(bool(wrong))})
            if given.out:
                forked.add_up(given.out, {kind: counts})
            print(f"{number} of {len(tried)} in {time.monotonic() - begun:.0f} s; {kind}, {trial}: {what}", flush=True)


if __name__ == "__main__":
    main()
