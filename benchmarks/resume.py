"""What a long run costs when it is resumed, and shards when they are merged: time and memory by the number of rows.

    python benchmarks/resume.py                      # 200,000 rows against 200; 8 shards
    python benchmarks/resume.py --rows 20000

Rows are random, the dataset is made (as large as RefCOCO's val and testA, with eight annotated objects an image); no
model is needed. Every figure is that of a fresh process: seconds and peak memory of the large one less those of the small
one, which reads the same dataset up to `dataset.limit`. "figures": dataset, rows, figures and summary; "all": with tables
and the page, of which "cpu" was spent at work. The last line is one JSON object.
"""

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from attrbind_exp import config
from attrbind_exp.commands import finish as ending
from attrbind_exp.commands import merge as merging
from attrbind_exp.data.dataset import by_image
from attrbind_exp.data.digests import digest_annotations
from attrbind_exp.evaluation.unchanged import check_unchanged
from attrbind_exp.reporting.write import write_report
from attrbind_exp.runs.rows import NAME, ExpressionRow, encode_rows, with_digests
from attrbind_exp.runs.store import FAILURES, RunStore
from attrbind_exp.runs.summary import encode_summary
from attrbind_exp.scoring import binding, metrics
from attrbind_exp.tasks.choose import choose_task
from attrbind_exp.tasks.rows import under_variant
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.types import Sample

PER_IMAGE, OBJECTS, CORNERS = 7, 8, 30  # expressions, annotated objects, corners of each polygon
KINDS, COLOURS = ("person", "dog", "car"), ("red", "blue", "green", "white", "black", "small", "tall")
SHARDS = 8


def settings_of(root: Path, limit: int | None = None, shard: str | None = None) -> tuple[DictConfig, config.Settings]:
    """A run of eleven variants: the baseline, NCR, and NCR with UEA at the paper's nine alphas."""
    given = [f"dataset.root={root}", "dataset.name=made", "dataset.split_by=made", "dataset.split=test"]
    given += [f"dataset.limit={limit or 'null'}", f"shard={shard or 'null'}"]
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        cfg = compose("run", ["dataset=refcoco", "model=bundled", "text_processor=ablation", "alpha=grid", *given])
    cfg.text_processor.methods = cfg.text_processor.methods[:3]
    return cfg, config.read_settings(cfg)


def make_dataset(root: Path, expressions: int) -> None:
    """A REFER dataset without its pictures, which nobody looks at here."""
    draw = random.Random(0)
    count = -(-expressions // PER_IMAGE)
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 480, "width": 640} for i in range(count)]
    annotations = [
        {
            "id": i * OBJECTS + k, "image_id": i, "category_id": 1 + k % len(KINDS), "area": 5000, "iscrowd": 0,
            "segmentation": [[round(480 * draw.random(), 2) for _ in range(2 * CORNERS)]],
        }
        for i in range(count)
        for k in range(OBJECTS)
    ]  # fmt: skip
    refs = []
    for number in range(expressions):
        image, place = divmod(number, PER_IMAGE)
        sentence = {"sent_id": number, "sent": f"the {COLOURS[place]} {KINDS[place % len(KINDS)]}"}
        refs.append(
            {
                "ref_id": number, "ann_id": image * OBJECTS + place, "image_id": image, "split": "test",
                "category_id": 1 + place % len(KINDS), "file_name": f"{image}.jpg", "sentences": [sentence],
            }
        )  # fmt: skip
    categories = [{"id": 1 + k, "name": name} for k, name in enumerate(KINDS)]
    (root / "made").mkdir(parents=True)
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "made" / "instances.json").write_text(json.dumps(content))
    (root / "made" / "refs(made).json").write_text(json.dumps(refs))


def make_rows(sample: Sample, settings: RunSettings, rng: np.random.Generator) -> Iterator[ExpressionRow]:
    """Rows of one expression: counts that fall with the threshold, heat on every object."""
    ids = [sample.object_id, *(o.object_id for o in sample.others or ())]
    count = len(settings.variants)
    truth = int(rng.integers(5_000, 60_000))
    predicted = -np.sort(-rng.integers(0, 120_000, (count, len(metrics.THRESHOLDS))))
    hit = np.minimum((predicted * rng.random((count, 1))).astype(int), truth)
    heats = rng.random((count, len(ids))).round(5)
    for number, variant in enumerate(settings.variants):
        intersection, union = hit[number], truth + predicted[number] - hit[number]
        row = ExpressionRow(
            sample_id=sample.sample_id,
            image_id=sample.image_id,
            text_processor="",
            alpha=None,
            seed=0,
            expression=sample.text,
            prompt=f"a photograph of {sample.text}",
            target=sample.category or "",
            chunk=sample.text,
            bound=True,
            fallbacks=[],
            slices={**sample.slices, "modifier": ["colour"]},
            iou_at={metrics.key(k): round(float(intersection[k] / union[k]), 6) for k in metrics.GRID},
            intersection=intersection.tolist(),
            union=union.tolist(),
            peak=binding.PLACES[int(rng.integers(len(binding.PLACES)))],
            heat_on=dict(zip(ids, heats[number].tolist(), strict=True)),
        )
        yield under_variant(row, variant, 0)


def write_runs(folder: Path, root: Path, limit: int | None) -> None:
    """A run up to its rows, in folder/run, and the same rows as those of finished shards, in folder/parts."""
    _, settings = settings_of(root, limit)
    dataset = settings.load_dataset()
    start_run(folder / "run", settings)
    for number in range(SHARDS):
        cfg, part = settings_of(root, limit, f"{number}/{SHARDS}")
        shard = folder / "parts" / str(number)
        start_run(shard, part)
        scored = ending.Scored(choose_task(dataset, part.run), [], 1.0)
        origin = ending.describe_origin(part, dataset, "none", [f"shard={cfg.shard}"])
        (shard / "summary.json").write_text(encode_summary(ending.summarize(scored, part.run.headline, origin)))
    rng = np.random.default_rng(0)
    with ExitStack() as stack:
        whole = stack.enter_context(open(folder / "run" / NAME, "wb"))
        parts = [stack.enter_context(open(folder / "parts" / str(n) / NAME, "wb")) for n in range(SHARDS)]
        for number, samples in enumerate(by_image(dataset).values()):
            annotations = digest_annotations(samples)
            for sample in samples:
                lines = encode_rows(with_digests(list(make_rows(sample, settings.run, rng)), annotations, ""))
                whole.write(lines)
                parts[number % SHARDS].write(lines)


def start_run(folder: Path, settings: config.Settings) -> None:
    """What a run's folder holds before its first row."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(settings.yaml)
    (folder / "config_hash").write_text(settings.key + "\n")
    (folder / FAILURES).write_text("")


def prepare(folder: Path, root: Path, limit: int | None) -> float:
    """A run to resume and the same in shards."""
    started = time.perf_counter()
    write_runs(folder, root, limit)
    return time.perf_counter() - started


def resume(folder: Path, root: Path, limit: int | None) -> float:
    """Everything that a resumed run does but segment what is missing; seconds up to the summary."""
    seconds = resume_figures(folder, root, limit)
    write_report(folder / "run")
    return seconds


def resume_figures(folder: Path, root: Path, limit: int | None) -> float:
    """The same without the page."""
    from attrbind_exp.evaluation.resume import resume_rows
    from attrbind_exp.runs.progress import Progress

    started = time.perf_counter()
    _, settings = settings_of(root, limit)
    dataset = settings.load_dataset()
    images = by_image(dataset)
    with RunStore(folder / "run", settings.key) as store:
        task = choose_task(dataset, settings.run)
        progress = Progress(store, len(images), settings.run.variants[settings.run.headline])
        check = partial(check_unchanged, images, {}, since=store.begun)
        resumed = resume_rows(images, task, settings.run, store, progress, check=check)
        progress.close()
        scored = ending.Scored(task, resumed.failures, 1.0)
        origin = ending.describe_origin(settings, dataset, "none", [])
        ending.finish(scored, settings.run, dataset, origin, store)
    return time.perf_counter() - started


def merge(folder: Path, *_: object) -> float:
    """The command, whole; seconds up to the summary."""
    started = time.perf_counter()
    marks: list[float] = []
    write = RunStore.write_summary
    RunStore.write_summary = lambda *a: (marks.append(time.perf_counter() - started), write(*a))[1]  # type: ignore[method-assign]
    for name, shards in merging.shard_sets(folder / "parts").items():
        merging.merge(shards, folder / "parts" / name)
    return marks[0]


PARTS = {"prepare": prepare, "resume": resume, "merge": merge}


def in_a_process(part: str, folder: Path, root: Path, limit: int | None) -> dict[str, float]:
    """What a fresh process of this file says of one part."""
    given = [sys.executable, __file__, "--part", part, str(folder), str(root), str(limit or 0)]
    done = subprocess.run(given, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_part(part: str, folder: str, root: str, limit: str) -> None:
    """One part, here; prints its seconds and this process's own peak memory (ru_maxrss would hold its parent's)."""
    started, busy = time.perf_counter(), time.process_time()
    figures = PARTS[part](Path(folder), Path(root), int(limit) or None)
    took, busy = time.perf_counter() - started, time.process_time() - busy
    peak = int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) / 1024
    print(
        json.dumps(
            {"figures_s": round(figures, 1), "all_s": round(took, 1), "cpu_s": round(busy, 1), "peak_MB": round(peak)}
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--part", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        return run_part(*args.part)
    root = Path(tempfile.mkdtemp())
    variants = 11
    found: dict[str, dict[str, float]] = {}
    try:
        make_dataset(root, args.rows // variants)
        for size, limit in (("small", 200 // variants), ("large", None)):
            in_a_process("prepare", root / size, root, limit)
        for part in ("resume", "merge"):
            small, large = (
                in_a_process(part, root / size, root, 0 if size == "large" else 200 // variants)
                for size in ("small", "large")
            )
            found[part] = {key: round(large[key] - small[key], 1) for key in large}
            print(f"{part}: 200 rows {small}, {args.rows} rows {large}; more: {found[part]}", flush=True)
    finally:
        shutil.rmtree(root)
    print(json.dumps({"benchmark": "resume", "rows": args.rows, "shards": SHARDS, "more": found}))


if __name__ == "__main__":
    main()
