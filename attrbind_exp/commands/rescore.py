"""python -m attrbind_exp.rescore RUN attention_layers=half ..: other layers, weights or thresholds, without a model, of
a run that kept its maps (keep_maps=true).

    python -m attrbind_exp.rescore RUN threshold=0.5
    python -m attrbind_exp.rescore RUN attention_layers=grid
    python -m attrbind_exp.rescore RUN "attention_layers.weights={8: 0.2, 4: 0.6, 2: 0.1, 1: 0.1}" --out FOLDER
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from attrbind_exp import config
from attrbind_exp.commands import command_line
from attrbind_exp.commands.merge import read_config
from attrbind_exp.commands.run import facts, show, write_figures
from attrbind_exp.data.coco import label_scene
from attrbind_exp.data.dataset import Dataset
from attrbind_exp.data.masks import decode_mask
from attrbind_exp.evaluation.batching import by_image
from attrbind_exp.evaluation.loop import Decoded, Row, count, fail, object_masks, take, variant_columns
from attrbind_exp.heatmaps import score_map
from attrbind_exp.heatmaps.layers import find_columns
from attrbind_exp.reporting.html.write import write_report
from attrbind_exp.reporting.tables import ablation, markdown
from attrbind_exp.runs.maps import KeptMaps, read_maps
from attrbind_exp.runs.store import RunStore
from attrbind_exp.scoring import classes
from attrbind_exp.scoring.summary import ClassScores, Scores, summarize
from attrbind_exp.types import Failure, MapSettings, Sample, UserError, Variant

KEYS = ("attention_layers", "threshold")


def change(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration of a run with other layers, weights or thresholds. Raises UserError for anything else."""
    for argument in overrides:
        key, _, value = argument.partition("=")
        if key.split(".")[0] not in KEYS or not value:
            raise UserError(
                f"'{argument}' cannot be rescored; give attention_layers=, attention_layers.KEY= or threshold="
            )
        if key == "attention_layers":
            command_line.rewrite_arguments([argument])  # names the choices of an unknown one
            cfg.attention_layers = config.load_layers(value)
        elif key == "threshold" and value != "grid":
            cfg.threshold = {"value": OmegaConf.create(f"x: {value}").x}
        elif key == "threshold":
            cfg.threshold = {"value": None}
        else:
            cfg = OmegaConf.merge(cfg, OmegaConf.from_dotlist([argument]))  # type: ignore[assignment]
    config.check(cfg)
    return cfg


def rescore(source: Path, cfg: DictConfig, target: Path) -> dict[str, Any]:
    """Write the run that `source` would have been under `cfg` into `target` and return its summary. Pictures are not
    drawn."""
    started = time.perf_counter()
    before = json.loads((source / "summary.json").read_text(encoding="utf-8"))
    dataset = config.load_dataset(cfg)
    found, headline = config.variants(cfg)
    seeds = range(cfg.seed, cfg.seed + cfg.seeds)
    scores: Scores | ClassScores
    scores = ClassScores(found, seeds, dataset.classes) if dataset.classes else Scores(found)
    rows: dict[str, list[Row]] = defaultdict(list)
    for line in (source / "expressions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows[row["image_id"]].append(row)
    store = RunStore(target, config.config_hash(cfg))
    store.keep(0)
    store.write_text("config.yaml", OmegaConf.to_yaml(cfg))
    samples = {s.sample_id: s for s in dataset.samples}
    for image in (x for x in by_image(dataset) if x in rows):
        kept = read_maps(source, image) if _has_maps(rows[image]) else None
        for part in _rescore_image(rows[image], kept, dataset, samples, config.map_settings(cfg), found, seeds):
            store.add_rows(part)
            take(part, samples, scores)
    lines = (source / "failures.jsonl").read_text("utf-8").splitlines()
    fail([Failure(**json.loads(line)) for line in lines], scores, store)
    summary = summarize(scores, headline, cfg.threshold.value)
    summary["seconds"] = round(time.perf_counter() - started, 3)
    summary |= {"captioner": before["captioner"], "overrides": before["overrides"]}
    summary |= facts(cfg, dataset)
    write_figures(summary, store)
    store.close()
    write_report(store.folder)
    return summary


def _has_maps(rows: Sequence[Row]) -> bool:
    """An image in which no class was looked for has rows, but no maps."""
    return rows[0].get("looked_for") != {}


def _rescore_image(
    rows: Sequence[Row],
    kept: KeptMaps | None,
    dataset: Dataset,
    samples: Mapping[str, Sample],
    settings: MapSettings,
    variants: Sequence[Variant],
    seeds: Sequence[int],
) -> list[list[dict[str, Any]]]:
    """New rows of one image, by expression or all in one list: what was read of the words stays, the counts change."""
    weights = {v.layers: _weights(settings, v.layers, kept) for v in variants}
    cells = [(v, s, seed) for v in variants for s, seed in enumerate(seeds)]
    read: dict[str | None, Row] = {r.get("sample_id"): r for r in rows}  # words are read alike under every variant

    def heat(sample: Sample, variant: Variant, s: int) -> Any:
        assert kept is not None
        score = score_map.combine(kept.find(sample.sample_id, variant, s)[None], weights[variant.layers])
        return score_map.heat_map(score, sample.size)[0].numpy()

    def describe(sample: str | None, variant: Variant, seed: int) -> dict[str, Any]:
        return {k: v for k, v in read[sample].items() if k != "attention_layers"} | variant_columns(variant, seed)

    if not dataset.classes:
        parts = []
        decoded: Decoded = {}
        for name in dict.fromkeys(r["sample_id"] for r in rows):
            sample = samples[name]
            truth = None if sample.segmentation is None else decode_mask(sample.segmentation, sample.size)
            masks = object_masks(sample, truth, decoded)
            parts.append([describe(name, v, seed) | count(heat(sample, v, s), sample, masks) for v, s, seed in cells])
        return parts
    image = rows[0]["image_id"]
    truth = label_scene(dataset.scenes[image])
    looked_for = {dataset.classes.index(x.category or ""): x for x in samples.values() if x.image_id == image}
    part = []
    for v, s, seed in cells:
        counts = classes.count_classes({n: heat(sample, v, s) for n, sample in looked_for.items()}, truth)
        part.append(describe(None, v, seed) | {name: values.tolist() for name, values in vars(counts).items()})
    return [part]


def _weights(settings: MapSettings, name: str | None, kept: KeptMaps | None) -> torch.Tensor:
    """Weights (1, C) of the kept columns for a choice of layers. Raises UserError where a column was not kept."""
    if kept is None:
        return torch.zeros(1, 0)
    choice = settings.choice if name is None else settings.grid[name]
    available: dict[int, list[str]] = {}
    for column in kept.columns:
        available[column.ratio] = list(dict.fromkeys([*available.get(column.ratio, []), *column.blocks]))
    wanted = {column: weight for column, weight in find_columns(choice, available).items() if weight}
    if missing := [column for column in wanted if column not in kept.columns]:
        raise UserError(
            f"the run kept no map of ratio {missing[0].ratio} from {'+'.join(missing[0].blocks)} alone; run it with "
            "keep_maps=true attention_layers=grid"
        )
    return torch.tensor([[wanted.get(column, 0.0) for column in kept.columns]])


def main() -> None:
    """Rescore and print as a run does."""
    parser = argparse.ArgumentParser(
        prog="python -m attrbind_exp.rescore", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run that kept its maps")
    parser.add_argument(
        "overrides", nargs="*", help="attention_layers=NAME, attention_layers.KEY=VALUE, threshold=NUMBER"
    )
    parser.add_argument("--out", type=Path, help="the new run's folder (RUN/rescored/OVERRIDES)")
    args = parser.parse_args()
    try:
        if not (args.run / "summary.json").is_file():
            raise UserError(f"no finished run at '{args.run}'; give the folder that a run with keep_maps=true printed")
        cfg = change(read_config(args.run), args.overrides)
        name = ",".join(args.overrides).replace("/", "_") or "same"
        target = args.out or args.run / "rescored" / name
        summary = rescore(args.run, cfg, target)
        show(summary, markdown(ablation(summary)), None, target)
    except (UserError, OmegaConfBaseException) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
