"""python -m attrbind_exp.merge DIR: one run of its shards, as an unsharded run has it. Needs no model."""

import argparse
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from attrbind_exp import config
from attrbind_exp.commands import command_line
from attrbind_exp.commands.disk import disk_errors
from attrbind_exp.commands.finish import describe_origin, finish, show
from attrbind_exp.commands.own_folder import add_config_dir, use_config_dir
from attrbind_exp.commands.parts import merged_parts
from attrbind_exp.commands.start import as_called
from attrbind_exp.commands.table import SAID_HELP
from attrbind_exp.commands.verbosity import taking_verbosity
from attrbind_exp.data.dataset import by_image
from attrbind_exp.evaluation.finish import Scored
from attrbind_exp.evaluation.unchanged import check_unchanged
from attrbind_exp.evaluation.whole import check_images
from attrbind_exp.reporting.write import write_report
from attrbind_exp.runs.index import write_merged
from attrbind_exp.runs.levels import collect_levels
from attrbind_exp.runs.rows import Row, read_images
from attrbind_exp.runs.store import RunStore, read_failures
from attrbind_exp.runs.summary import Summary, read_summary
from attrbind_exp.tasks.choose import choose_task
from attrbind_exp.types import UserError
from attrbind_exp.work import each


def merge(shards: Mapping[str, Path], target: Path, trusted: Collection[str] = ()) -> Summary:
    """Write the run that `shards` (folders by shard) are parts of into `target` and return its summary. Pictures are
    not drawn. `trusted`: what the configurations may name to be called besides what options name."""
    summary = merge_rows(shards, target, trusted)
    write_report(target)
    return summary


def merge_rows(shards: Mapping[str, Path], target: Path, trusted: Collection[str] = ()) -> Summary:
    """The same without the page."""
    first = next(iter(shards.values()))
    cfg = config.read_config(first, trusted)
    cfg.shard = None
    with config.naming_config(first):
        settings = config.read_settings(cfg)
        dataset = settings.load_dataset()
        task = choose_task(dataset, settings.run)
    parts = merged_parts(shards, settings.key)
    summaries = [read_summary(shard) for shard in shards.values()]
    failures = [failure for shard in shards.values() for failure in read_failures(shard)]
    with RunStore(target, settings.key, settings.yaml) as store:
        store.keep(0)
        store.write_parts(parts)
        store.write_text("config.yaml", settings.yaml)
        images = by_image(dataset)
        found = in_order(list(images), list(shards.values()))
        checked = check_images(found, images, settings.run, failures, target.parent)
        for rows in each(checked, "merging", "images", len(images)):
            check_unchanged(images, dataset.scenes, rows[0].image_id, rows, target.parent)
            store.add_rows(rows)
            task.add_rows(rows)
        store.add_failures(failures)
        if settings.run.save_masks:
            collect_levels(shards.values(), store.folder)
        overrides = [o for o in summaries[0].overrides if not o.startswith("shard=")]
        origin = describe_origin(settings, dataset, summaries[0].captioner, overrides, parts)
        return finish(Scored(task, failures, sum(s.seconds for s in summaries)), settings.run, dataset, origin, store)


def in_order(images: Sequence[str], shards: Sequence[Path]) -> Iterator[list[Row]]:
    """The rows of all shards, image by image in the order of `images`, which each shard keeps for its own ones.

    Raises UserError for a shard that does not, or that has rows of other images.
    """
    readers = [read_images(shard) for shard in shards]
    heads = [next(reader, None) for reader in readers]
    for image in images:
        for number, head in enumerate(heads):
            if head is not None and head[0] == image:
                yield head[1]
                heads[number] = next(readers[number], None)
    for shard, head in zip(shards, heads, strict=True):
        if head is not None:
            wrong = "stand out of order" if head[0] in images else "are of no image in the data"
            raise UserError(f"the rows of image '{head[0]}' in '{shard}' {wrong}; run this shard again")


def shard_sets(folder: Path, trusted: Collection[str] = ()) -> dict[str, dict[str, Path]]:
    """The finished shards below `folder`: {name of a merged run: {shard: its folder}}, a set for every configuration.

    What lies in a run's own folder, such as a rescored shard, is none of them. Raises UserError where shards are
    missing or stand twice.
    """
    sets: dict[str, dict[str, Path]] = {}
    names: dict[str, str] = {}
    for file in sorted(folder.glob("**/summary.json")):
        above = [p for p in file.parent.parents if p.is_relative_to(folder) and p != folder]
        cfg = config.read_config(file.parent, trusted)
        if cfg.get("shard") is None or any((p / "summary.json").is_file() for p in above):
            continue
        config.shard(cfg)
        shard, cfg.shard = str(cfg.shard), None
        with config.naming_config(file.parent):
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


@taking_verbosity()
def main() -> None:
    """Merge and print as a run does."""
    parser = argparse.ArgumentParser(
        epilog=SAID_HELP, prog=as_called("python -m attrbind_exp.merge"), description=as_called(__doc__)
    )
    parser.add_argument("folder", type=Path, help="the folder below which the runs of all shards lie")
    add_config_dir(parser)
    given = parser.parse_args()
    try:
        with use_config_dir(given.config_dir), disk_errors():
            sets = {given.folder / name: shards for name, shards in shard_sets(given.folder).items()}
            for run, shards in sets.items():
                show(merge(shards, run), run)
            write_merged(given.folder, {run: list(shards.values()) for run, shards in sets.items()})
    except command_line.MENDABLE as error:
        command_line.exit_with(error)
