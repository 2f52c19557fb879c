"""python -m attrbind_exp.rescore RUN attention_layers=half ..: other layers, weights or thresholds, without a model, of
a run that kept its maps (keep_maps=true).

    python -m attrbind_exp.rescore RUN threshold=0.5
    python -m attrbind_exp.rescore RUN attention_layers=grid
    python -m attrbind_exp.rescore RUN "attention_layers.weights={8: 0.2, 4: 0.6, 2: 0.1, 1: 0.1}" --out FOLDER
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from attrbind_exp import config
from attrbind_exp.backbones.backbone import Layer
from attrbind_exp.backbones.reading import Reading
from attrbind_exp.commands import command_line
from attrbind_exp.commands.finish import describe_origin, finish, show
from attrbind_exp.commands.merge import read_config
from attrbind_exp.data.dataset import by_image
from attrbind_exp.evaluation.finish import Scored
from attrbind_exp.heatmaps import score_map
from attrbind_exp.heatmaps.method import HeatMapMethod
from attrbind_exp.heatmaps.plan import MadeBy, Plan
from attrbind_exp.runs.maps import KeptMaps, read_maps
from attrbind_exp.runs.rows import read_images
from attrbind_exp.runs.store import RunStore, read_failures
from attrbind_exp.runs.summary import Summary, read_summary
from attrbind_exp.tasks.choose import choose_task
from attrbind_exp.types import MapSettings, Sample, UserError, Variant

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


def rescore(source: Path, cfg: DictConfig, target: Path) -> Summary:
    """Write the run that `source` would have been under `cfg` into `target` and return its summary. Pictures are not
    drawn."""
    started = time.perf_counter()
    before = read_summary(source)
    settings = config.read_settings(cfg)
    dataset = settings.load_dataset()
    task = choose_task(dataset, settings.run)
    known = by_image(dataset)
    methods, reading = settings.segmenter.make_methods(), config.reading_of(cfg)
    failures = read_failures(source)
    with RunStore(target, settings.key) as store:
        store.keep(0)
        store.write_text("config.yaml", settings.yaml)
        for image, rows in read_images(source):
            if image in known:
                made = task.recount(rows, KeptHeat(source, image, methods, settings.segmenter.maps, reading))
                store.add_rows(made)
                task.add_rows(made)
        store.add_failures(failures)
        origin = describe_origin(settings, dataset, before.captioner, before.overrides)
        seconds = time.perf_counter() - started
        return finish(Scored(task, failures, seconds), settings.run.headline, origin, store)


class KeptHeat:
    """Heat maps of one image from its kept maps, by sample, variant and number of the noise seed. The maps are read
    when the first heat map is asked for: an image in which no class was looked for has none."""

    def __init__(
        self, source: Path, image_id: str, methods: Mapping[str, HeatMapMethod], settings: MapSettings, reading: Reading
    ):
        self.source, self.image_id = source, image_id
        self.methods, self.settings, self.reading = methods, settings, reading

    @cached_property
    def kept(self) -> KeptMaps:
        """The completed maps of the image."""
        return read_maps(self.source, self.image_id)

    @cached_property
    def plan(self) -> Plan:
        """Which of the kept maps every reading sums."""
        layers = [Layer(*parts) for parts in self.kept.layers]
        return Plan(self.methods, self.settings, layers, self.reading)

    def __call__(self, sample: Sample, variant: Variant, seed: int) -> np.ndarray:
        """(H, W) float32 in [0, 1]."""
        completed = torch.from_numpy(self.kept.find(sample.sample_id, variant, seed))
        weights = find_weights(self.plan.weights(variant.heatmap, variant.layers), self.kept.columns)
        return score_map.heat_map(score_map.combine(completed[None], weights), sample.size)[0].numpy()


def find_weights(wanted: Mapping[MadeBy, float], kept: Sequence[MadeBy]) -> torch.Tensor:
    """Weights (1, C) of the kept columns. Raises UserError where a column was not kept."""
    if missing := [column for made, weight in wanted.items() if weight and made not in kept for column in made[1:]]:
        raise UserError(
            f"the run kept no map of ratio {missing[0].ratio} from {'+'.join(missing[0].blocks)} alone; run it with "
            "keep_maps=true attention_layers=grid"
        )
    return torch.tensor([[wanted.get(made, 0.0) for made in kept]])


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
        show(rescore(args.run, cfg, target), target)
    except (UserError, OmegaConfBaseException) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
