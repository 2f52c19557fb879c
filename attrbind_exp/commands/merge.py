"""python -m attrbind_exp.merge DIR: one run of its shards, as an unsharded run has it. Needs no model."""

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from attrbind_exp import config
from attrbind_exp.commands.run import facts, show, write_figures
from attrbind_exp.evaluation.batching import by_image
from attrbind_exp.evaluation.loop import Row, fail, take
from attrbind_exp.reporting.html.write import write_report
from attrbind_exp.reporting.tables import ablation, markdown
from attrbind_exp.runs.index import write_merged
from attrbind_exp.runs.store import RunStore
from attrbind_exp.scoring.summary import ClassScores, Scores, summarize
from attrbind_exp.types import Failure, UserError


def merge(shards: Mapping[str, Path], target: Path) -> dict[str, Any]:
    """Write the run that `shards` (folders by shard) are parts of into `target` and return its summary. Pictures are
    not drawn."""
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
    store = RunStore(target, config.config_hash(cfg))
    store.keep(0)
    store.write_text("config.yaml", OmegaConf.to_yaml(cfg))
    samples = {s.sample_id: s for s in dataset.samples}
    for image in by_image(dataset):
        parts = list(rows[image].values())
        store.add_rows(row for part in parts for row in part)
        for part in parts:
            take(part, samples, scores)
    lines = [line for shard in shards.values() for line in (shard / "failures.jsonl").read_text("utf-8").splitlines()]
    fail([Failure(**json.loads(line)) for line in lines], scores, store)
    summaries = [json.loads((shard / "summary.json").read_text(encoding="utf-8")) for shard in shards.values()]
    summary = summarize(scores, headline, cfg.threshold.value)
    summary["seconds"] = sum(s["seconds"] for s in summaries)
    kept = [o for o in summaries[0]["overrides"] if not o.startswith("shard=")]
    summary |= {"captioner": summaries[0]["captioner"], "overrides": kept}
    summary |= facts(cfg, dataset)
    write_figures(summary, store)
    store.close()
    write_report(store.folder)
    return summary


def shard_sets(folder: Path) -> dict[str, dict[str, Path]]:
    """The finished shards below `folder`: {name of a merged run: {shard: its folder}}, a set for every configuration.

    Raises UserError where shards are missing or stand twice.
    """
    sets: dict[str, dict[str, Path]] = {}
    names: dict[str, str] = {}
    for file in sorted(folder.glob("**/summary.json")):
        cfg = read_config(file.parent)
        if cfg.get("shard") is None:
            continue
        shard, cfg.shard = str(cfg.shard), None
        key = f"{config.config_hash(cfg)}/{shard.partition('/')[2]}"
        # The folder that the run would have had without the shard in its name.
        inner = re.sub(r",?shard=\d+/\d+", "", str(file.parent.relative_to(folder))).strip(",/")
        names.setdefault(key, f"merged,{inner}" if inner else "merged")
        found = sets.setdefault(key, {})
        if shard in found:
            raise UserError(f"shard {shard} stands twice, in '{found[shard]}' and '{file.parent}'; remove one")
        found[shard] = file.parent
    if not sets:
        raise UserError(f"no finished shard below '{folder}'; run with shard=0/N .. first")
    for key, found in sets.items():
        count = int(key.partition("/")[2])
        if lacking := [f"{k}/{count}" for k in range(count) if f"{k}/{count}" not in found]:
            raise UserError(
                f"no finished run of shard {', '.join(lacking)} beside '{next(iter(found.values()))}'; start it again, "
                "then merge"
            )
    return {
        names[key]: {s: found[s] for s in sorted(found, key=lambda s: int(s.partition("/")[0]))}
        for key, found in sets.items()
    }


def read_config(folder: Path) -> DictConfig:
    """The composed configuration of a run."""
    return OmegaConf.load(folder / "config.yaml")  # type: ignore[return-value]


def main() -> None:
    """Merge and print as a run does."""
    parser = argparse.ArgumentParser(prog="python -m attrbind_exp.merge", description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder below which the runs of all shards lie")
    folder = parser.parse_args().folder
    try:
        sets = {folder / name: shards for name, shards in shard_sets(folder).items()}
        for run, shards in sets.items():
            summary = merge(shards, run)
            show(summary, markdown(ablation(summary)), None, run)
        write_merged(folder, {run: list(shards.values()) for run, shards in sets.items()})
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
