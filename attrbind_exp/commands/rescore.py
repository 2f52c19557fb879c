"""python -m attrbind_exp.rescore RUN attention_layers=half ..: other layers, weights or thresholds, without a model, of
a run that kept its maps (keep_maps=true).

    python -m attrbind_exp.rescore RUN threshold=0.5
    python -m attrbind_exp.rescore RUN attention_layers=grid
    python -m attrbind_exp.rescore RUN "attention_layers.weights={8: 0.2, 4: 0.6, 2: 0.1, 1: 0.1}" --out FOLDER
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

from attrbind_exp import config
from attrbind_exp.commands import command_line
from attrbind_exp.commands.disk import disk_errors
from attrbind_exp.commands.finish import describe_origin, finish, show
from attrbind_exp.commands.own_folder import add_config_dir, use_config_dir
from attrbind_exp.commands.parts import rescored_parts
from attrbind_exp.commands.start import as_called
from attrbind_exp.commands.table import SAID_HELP
from attrbind_exp.commands.verbosity import taking_verbosity
from attrbind_exp.data.dataset import by_image
from attrbind_exp.evaluation.finish import Scored
from attrbind_exp.evaluation.unchanged import check_unchanged
from attrbind_exp.evaluation.whole import check_images
from attrbind_exp.reporting.write import write_report
from attrbind_exp.runs.levels import write_levels
from attrbind_exp.runs.rows import read_images
from attrbind_exp.runs.store import RunStore, picture_folder, read_failures, write_text
from attrbind_exp.runs.summary import Summary, read_summary
from attrbind_exp.tasks.choose import choose_task
from attrbind_exp.tasks.levels import encode_heat
from attrbind_exp.types import UserError
from attrbind_exp.work import each

KEYS = ("attention_layers", "threshold")
ORIGIN = "rescored_from"  # names the run that a rescored one was made of, as seen from its folder
OF_A_RUN = ("summary.json", "expressions.jsonl", "config_hash", "config.yaml", "sweep.json")


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
            cfg.threshold = {"value": parse(argument).threshold}
        elif key == "threshold":
            cfg.threshold = {"value": None}
        else:
            cfg = OmegaConf.merge(cfg, parse(argument))  # type: ignore[assignment]
    config.check(cfg)
    return cfg


def parse(argument: str) -> DictConfig:
    """KEY=VALUE as a configuration. Raises UserError where the value is none."""
    try:
        return OmegaConf.from_dotlist([argument])
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"'{argument[:200]}' cannot be read ({' '.join(str(error).split())[:200]})") from error


def check_target(source: Path, target: Path) -> None:
    """Raise UserError where `target` holds a run or a sweep that was not made by rescoring `source`."""
    if not any(os.path.lexists(target / name) for name in OF_A_RUN):
        return
    try:
        origin = (target / ORIGIN).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        origin = None
    if origin == origin_of(source, target):
        return
    if origin is None and target.resolve().is_relative_to((source / "rescored").resolve()):
        return  # by an earlier version, which wrote no origin
    what = "another run" if origin is None else f"what was rescored from '{origin}'"
    raise UserError(f"'{target}' holds {what}, which would be lost; give another --out, or remove that folder")


def origin_of(source: Path, target: Path) -> str:
    """What ORIGIN says in `target`: the path from there to `source`, so that both can be moved together."""
    return os.path.relpath(source.resolve(), target.resolve())


def told(before: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """What would have been typed for a run that was told `before` to be the rescored one: the page's commands are made
    of it."""
    changed = [argument.partition("=")[0] for argument in overrides]
    kept = [o for o in before if not any(f"{o.partition('=')[0]}.".startswith(f"{key}.") for key in changed)]
    return [*kept, *overrides]


def rescore(source: Path, cfg: DictConfig, target: Path, overrides: Sequence[str] = ()) -> Summary:
    """Write the run that `source` would have been under `cfg`, which `overrides` made of its own, into `target` and
    return its summary. Pictures are not drawn."""
    summary = rescore_rows(source, cfg, target, overrides)
    write_report(target)
    return summary


def rescore_rows(source: Path, cfg: DictConfig, target: Path, overrides: Sequence[str] = ()) -> Summary:
    """The same without the page."""
    from attrbind_exp.evaluation.kept import KeptHeat  # torch loads when there is something to do

    started = time.perf_counter()
    check_target(source, target)
    before = read_summary(source)
    with config.naming_config(source):
        settings = config.read_settings(cfg)
        dataset = settings.load_dataset()
        if settings.run.refinement:
            settings.run.refinement.check()
        task = choose_task(dataset, settings.run)
        methods, reading = settings.segmenter.make_methods(), config.reading_of(cfg)
        scored = config.read_settings(config.read_config(source)).run
    images = by_image(dataset, scored.shard)
    failures = read_failures(source)
    # Before there is a run in the folder: after a kill at any moment the same command goes on.
    write_text(picture_folder(target) / ORIGIN, origin_of(source, target) + "\n")
    parts = rescored_parts(source, settings, dataset)
    with RunStore(target, settings.key, settings.yaml) as store:
        store.keep(0)
        store.write_parts(parts)
        store.write_text("config.yaml", settings.yaml)
        found = (rows for _, rows in read_images(source))
        checked = check_images(found, images, scored, failures, source)
        for rows in each(checked, "rescoring", "images", len(images)):
            image = rows[0].image_id
            check_unchanged(images, dataset.scenes, image, rows, source)
            heat = KeptHeat(source, image, methods, settings.segmenter.maps, reading, settings.run.refinement)
            made = task.recount(rows, heat)
            if settings.run.save_masks:
                for name, content in encode_heat(task, settings.run, made, heat).items():
                    write_levels(target, name, content)
            store.add_rows(made)
            task.add_rows(made)
        store.add_failures(failures)
        origin = describe_origin(settings, dataset, before.captioner, told(before.overrides, overrides), parts)
        seconds = time.perf_counter() - started
        return finish(Scored(task, failures, seconds), settings.run, dataset, origin, store)


@taking_verbosity()
def main() -> None:
    """Rescore and print as a run does."""
    parser = argparse.ArgumentParser(
        epilog=SAID_HELP,
        prog=as_called("python -m attrbind_exp.rescore"),
        description=as_called(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run that kept its maps")
    parser.add_argument(
        "overrides", nargs="*", help="attention_layers=NAME, attention_layers.KEY=VALUE, threshold=NUMBER"
    )
    parser.add_argument("--out", type=Path, help="the new run's folder (RUN/rescored/OVERRIDES)")
    add_config_dir(parser)
    args = parser.parse_args()
    try:
        if not (args.run / "summary.json").is_file():
            raise UserError(f"no finished run at '{args.run}'; give the folder that a run with keep_maps=true printed")
        if read_summary(args.run).command == "score":
            raise UserError(
                f"'{args.run}' holds another system's masks, scored; score them again with what is to differ"
            )
        with use_config_dir(args.config_dir), disk_errors():
            cfg = config.read_config(args.run)
            with config.naming_config(args.run):
                cfg = change(cfg, args.overrides)
            name = ",".join(args.overrides).replace("/", "_") or "same"
            target = args.out or args.run / "rescored" / name
            show(rescore(args.run, cfg, target, args.overrides), target)
    except command_line.MENDABLE as error:
        command_line.exit_with(error)
