"""SIGKILLs at random moments: whatever is killed, started again it ends as if nothing had happened.

    python benchmarks/kills.py --kills 1000 --kind all --seed 0 --out kills.json
    python benchmarks/kills.py --kills 100 --kind rescore --seed 7 --budget-minutes 5 --out kills.json

A round is one folder: its command is started and killed a few times, then left to end, and the folder is compared with
one whose command was never killed: rows, failures, summary (but for seconds and overrides), tables, pictures, kept maps
byte by byte; the page must be there whole. A third of the kills falls anywhere, a third while rows are written, a
third within what follows them. After each kill a summary that is there must be the final one, and a page whole.

Each part adds its counts to --out; give each another --seed. A folder that ends otherwise is kept, and named. Exit code
1 where there was one. Needs no GPU and no network; one process at a time.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import forked

SETTINGS = ["text_processor=ablation", "keep_maps=true", "gallery=3", "changed=1", "batch_size=4"]
MOST_KILLS = 6  # of one folder
WEIGHTS = {"run": 8, "sweep": 1, "shards": 1, "merge": 3, "rescore": 3, "report": 2}  # of rounds, of all kinds


@dataclass
class Job:
    """A command that fills `folder`, and what it leaves there when it is not killed. `given`: a folder that it begins
    with."""

    module: str
    arguments: Sequence[str]
    folder: Path
    given: Path | None = None
    times: Sequence[float] = ()  # seconds from its start to each of MARKS, and to its end
    wanted: dict[str, object] = field(default_factory=dict)

    def prepare(self) -> None:
        """The folder as the first start finds it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.given:
            shutil.copytree(self.given, self.folder)

    def start(self, before: Callable[[], None] | None = None, printed: str = "printed.txt") -> forked.Child:
        """Begin the command, in a process that calls `before` first; what it prints goes to a file of that name."""
        return forked.start(self.module, self.arguments, self.folder.parent / printed, before)

    def found(self) -> dict[str, object]:
        """What the folder holds."""
        return forked.left(self.folder)

    def measure(self) -> None:
        """Run it without a kill, and note what it leaves and when it passes each of MARKS."""
        self.prepare()
        begun = time.monotonic()
        child = self.start()
        times = [0.0]
        for passed in MARKS[1:]:
            while (code := child.ended()) is None and not passed(self.folder):
                time.sleep(0.005)
            times.append(time.monotonic() - begun)
            if code is not None:
                break
        code = child.wait() if code is None else code
        if code != 0:
            raise SystemExit(f"{self.module} ended with {code}:\n{child.printed.read_text()}")
        times.append(time.monotonic() - begun)
        self.times = times + times[-1:] * (len(MARKS) + 1 - len(times))
        self.wanted = self.found()

    @property
    def duration(self) -> float:
        """Seconds of the whole command."""
        return self.times[-1]


def make_jobs(work: Path, kinds: Sequence[str]) -> dict[str, Job]:
    """What each kind kills; what merge, rescore and report begin with is made."""
    data = forked.make_data(work / "data")
    printed, target = work / "printed.txt", work / "target"
    common = [*data, *SETTINGS, "dataset=shapes"]
    jobs = {
        "run": Job("run", [*common, f"hydra.run.dir={target}"], target),
        "sweep": Job("run", ["sweep=table4_ablation", "model=bundled", *common, f"hydra.sweep.dir={target}"], target),
        "shards": Job("run", ["-m", "shard=0/2,1/2", *common, f"hydra.sweep.dir={target}"], target),
        "merge": Job("merge", [str(target)], target, work / "parts"),
        "rescore": Job("rescore", [str(work / "whole"), "threshold=0.5", "--out", str(target)], target),
        "report": Job("report", [str(target)], target, work / "whole"),
    }
    if {"rescore", "report"} & set(kinds):
        forked.run("run", [*common, f"hydra.run.dir={work / 'whole'}"], printed)
    if "merge" in kinds:
        for number in range(3):
            shard = [f"shard={number}/3", f"hydra.run.dir={work / 'parts' / str(number)}"]
            forked.run("run", [*common, *shard], printed)
    for kind in kinds:
        jobs[kind].measure()
        print(f"{kind}: {', '.join(f'{t:.2f}' for t in jobs[kind].times)} s to {SAID}", flush=True)
    return {kind: jobs[kind] for kind in kinds}


def is_past_rows(folder: Path) -> bool:
    """Whether a run in the folder, or the last of a sweep's, has all rows."""
    found = [file for name in ("expressions.jsonl", "ablation.csv") for file in folder.rglob(name)]
    return bool(found) and len({file.parent for file in found}) * 2 == len(found)


def is_anywhere(folder: Path) -> bool:
    """Passed by every command from its start."""
    return True


def has_row(folder: Path) -> bool:
    """Whether a run in the folder has a row."""
    return any(file.stat().st_size for file in folder.rglob("expressions.jsonl"))


MARKS = (is_anywhere, has_row, is_past_rows)
SAID = "start, first row, all rows, end"


def phase(folder: Path) -> str:
    """What a command was about to do when it was killed, by what lies in its folder."""
    runs = [file.parent for file in folder.rglob("config_hash")]
    if not any((run / "expressions.jsonl").is_file() and (run / "expressions.jsonl").stat().st_size for run in runs):
        return "before the first row"
    if not all((run / "summary.json").is_file() for run in runs):
        return "rows or tables"
    endings = [json.loads(file.read_text()) for file in folder.rglob("end.json")]
    if any(ending["galleries"] is None for ending in endings):
        return "pictures"
    return "page" if not all(ending["page"] for ending in endings) else "after the figures"


def torn(job: Job) -> list[str]:
    """Files that must be right or missing at any moment, and are neither."""
    found = []
    for file in job.folder.rglob("*"):
        name = str(file.relative_to(job.folder))
        if file.name == "summary.json":
            summary = {k: v for k, v in json.loads(file.read_text()).items() if k not in forked.TIMED}
            found += [] if summary == job.wanted[name] else [name]
        elif file.name == "report.html" and not forked.is_whole_page(file):
            found.append(name)
    return found


def kill(job: Job, draw: random.Random) -> bool:
    """Start the command and kill it at a random moment. False where it ended before.

    The moment lies anywhere, or between a later one of MARKS and the next. Where that is passed before the start, since
    an earlier kill came late, it lies anywhere in the time that such a start takes.
    """
    number = draw.randrange(len(MARKS))
    passed = MARKS[number]
    length = job.times[number + 1] - job.times[number]
    if number == 0 or passed(job.folder):
        number, length = 0, job.duration * (0.6 if is_past_rows(job.folder) else 1.0)
    child = job.start()
    while number and (code := child.ended()) is None and not passed(job.folder):
        time.sleep(0.003)
    if not number or code is None:
        code = child.wait(draw.uniform(0, length))
    if code is None:
        child.kill()
        return child.wait() == -9
    if code != 0:
        raise SystemExit(f"{job.module} ended with {code}:\n{child.printed.read_text()}")
    return False


def kill_round(job: Job, draw: random.Random, most: int) -> tuple[Counter[str], list[str]]:
    """Kill one folder's command at most so often, let it end. Returns counts, and what came out otherwise."""
    job.prepare()
    counts, wrong = Counter(rounds=1), []
    for _ in range(min(most, draw.randint(1, MOST_KILLS))):
        if not kill(job, draw):
            counts["ended before the kill"] += 1
            break
        counts["kills"] += 1
        counts[f"killed: {phase(job.folder)}"] += 1
        wrong += torn(job)
    child = job.start()
    code = child.wait()
    if code != 0:
        wrong.append(f"exit code {code}: {child.printed.read_text()[-2000:]}")
    wrong += forked.differences(job.found(), job.wanted)
    counts["equal" if not wrong else "otherwise"] += 1
    return counts, wrong


@contextmanager
def workplace() -> Iterator[Path]:
    """A scratch folder; removed, but for one that holds what ended otherwise: then this process ends with code 1."""
    work = Path(tempfile.mkdtemp(prefix="chaos_"))
    yield work
    if any(work.glob("otherwise_*")):
        print(f"what ended otherwise lies in {work}")
        sys.exit(1)
    shutil.rmtree(work)


def keep_wrong(job: Job, kind: str, wrong: Sequence[str]) -> None:
    """Keep and name a folder that ended otherwise."""
    if wrong:
        number = len(list(job.folder.parent.glob("otherwise_*")))
        kept = job.folder.rename(job.folder.parent / f"otherwise_{number}")
        print(f"OTHERWISE: {kind} in '{kept}': {'; '.join(wrong)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--kind", choices=[*WEIGHTS, "all"], default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget-minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, help="a JSON file to which the counts are added")
    given = parser.parse_args()
    forked.load_libraries()
    kinds = list(WEIGHTS) if given.kind == "all" else [given.kind]
    begun, done, draw = time.monotonic(), 0, random.Random(f"{given.kind} {given.seed}")
    with workplace() as work:
        jobs = make_jobs(work, kinds)
        while done < given.kills and time.monotonic() - begun < 60 * given.budget_minutes:
            kind = draw.choices(kinds, [WEIGHTS[kind] for kind in kinds])[0]
            counts, wrong = kill_round(jobs[kind], draw, given.kills - done)
            done += counts["kills"]
            keep_wrong(jobs[kind], kind, wrong)
            if given.out:
                forked.add_up(given.out, {kind: counts})
            print(f"{done} kills in {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
