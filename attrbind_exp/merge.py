"""python -m attrbind_exp.merge DIR: one run of its shards, as an unsharded run has it. Needs no model."""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from attrbind_exp import config
from attrbind_exp.evaluation import Row, fail, plan, take
from attrbind_exp.report import write_report
from attrbind_exp.run import facts, show, write_figures
from attrbind_exp.runs.store import RunStore
from attrbind_exp.runs.tables import ablation, markdown
from attrbind_exp.scoring.summary import ClassScores, Scores, summarize
from attrbind_exp.types import Failure, UserError


def merge(folder: Path) -> dict[str, Any]:
    """Write DIR/merged from the finished shards below DIR and return its summary. Pictures are not drawn.

    Raises UserError where shards are missing, stand twice or were not made by one configuration.
    """
    shards = find_shards(folder)
    cfg = read_config(next(iter(shards.values())))
    cfg.shard = None
    dataset = config.load_dataset(cfg)
    found, headline = config.variants(cfg)
    scores: Scores | ClassScores
    if dataset.classes:
        scores = ClassScores(found, range(cfg.seed, cfg.seed + cfg.seeds), dataset.classes)
    else:
        scores = Scores(found)
    rows: dict[str, dict[str, list[Row]]] = defaultdict(dict)
    for shard in shards.values():
        for line in (shard / "expressions.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rows[row["image_id"]].setdefault(row.get("sample_id", row["image_id"]), []).append(row)
    store = RunStore(folder / "merged", config.config_hash(cfg))
    store.keep(0)
    store.write_text("config.yaml", OmegaConf.to_yaml(cfg))
    samples = {s.sample_id: s for s in dataset.samples}
    for image in (image for batch in plan(dataset, 1) for image in batch):
        parts = list(rows[image].values())
        store.add_rows(row for part in parts for row in part)
        for part in parts:
            take(part, samples, scores)
    lines = [line for shard in shards.values() for line in (shard / "failures.jsonl").read_text("utf-8").splitlines()]
    fail([Failure(**json.loads(line)) for line in lines], scores, store)
    summaries = [json.loads((shard / "summary.json").read_text(encoding="utf-8")) for shard in shards.values()]
    summary = summarize(scores, headline, cfg.threshold.value)
    summary["seconds"] = sum(s["seconds"] for s in summaries)
    summary |= {"captioner": summaries[0]["captioner"], "overrides": []}
    summary |= facts(cfg, dataset)
    write_figures(summary, store)
    write_report(store.folder)
    store.close()
    return summary


def find_shards(folder: Path) -> dict[str, Path]:
    """Folders of the finished shards below `folder`, by shard."""
    found: dict[str, Path] = {}
    hashes: dict[str, Path] = {}
    for file in sorted(folder.glob("**/summary.json")):
        cfg = read_config(file.parent)
        if cfg.get("shard") is None:
            continue
        if cfg.shard in found:
            raise UserError(f"shard {cfg.shard} stands twice, in '{found[cfg.shard]}' and '{file.parent}'; remove one")
        found[cfg.shard] = file.parent
        cfg.shard = None
        hashes.setdefault(config.config_hash(cfg), file.parent)
    if len(hashes) > 1:
        first, second = list(hashes.values())[:2]
        raise UserError(f"'{first}' and '{second}' are shards of different runs; merge the shards of one")
    count = int(next(iter(found)).partition("/")[2]) if found else 0
    if lacking := [f"{k}/{count}" for k in range(count) if f"{k}/{count}" not in found]:
        raise UserError(f"no finished run of shard {', '.join(lacking)} below '{folder}'; start it again, then merge")
    if not found:
        raise UserError(f"no finished shard below '{folder}'; run with shard=0/N .. first")
    return {f"{k}/{count}": found[f"{k}/{count}"] for k in range(count)}


def read_config(folder: Path) -> DictConfig:
    """The composed configuration of a run."""
    return OmegaConf.load(folder / "config.yaml")  # type: ignore[return-value]


def main() -> None:
    """Merge and print as a run does."""
    parser = argparse.ArgumentParser(prog="python -m attrbind_exp.merge", description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder below which the runs of all shards lie")
    folder = parser.parse_args().folder
    try:
        summary = merge(folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    show(summary, markdown(ablation(summary)), None, folder / "merged")


if __name__ == "__main__":
    main()
