"""python -m attrbind_exp.score: masks or heat maps of another system, scored and shown as our own runs are."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from attrbind_exp import __version__, config
from attrbind_exp.commands import command_line
from attrbind_exp.commands.finish import finish, show
from attrbind_exp.commands.parse import read_prompts
from attrbind_exp.commands.parts import add_part
from attrbind_exp.commands.run import check_not_empty, draw, made_again, read_task, write_page
from attrbind_exp.commands.start import loading
from attrbind_exp.config import ScoreSettings
from attrbind_exp.data.dataset import Dataset, by_image
from attrbind_exp.data.digests import digest_dataset
from attrbind_exp.data.predictions import digest_predictions, read_predictions
from attrbind_exp.edits import Variant
from attrbind_exp.evaluation.finish import Origin
from attrbind_exp.log import log
from attrbind_exp.runs.ending import PARTS, Ending, missing, note_made, write_ending
from attrbind_exp.runs.provenance import Identity, Part, check_same, summed
from attrbind_exp.runs.shown import clean
from attrbind_exp.runs.store import RunStore, finished
from attrbind_exp.runs.summary import Summary
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.types import UserError

MASKS_AT = 0.5  # a mask is the same at every threshold above 0
NAMED = 5  # unknown ids in a warning


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="score")
@command_line.task
def main(cfg: DictConfig) -> float | None:
    """One scoring; returns its mIoU in percent. Of a finished one what its end lacks is made; nothing is scored."""
    settings = config.score_settings(cfg)
    folder = Path(HydraConfig.get().runtime.output_dir)
    summary = finished(folder, settings.key)
    if summary is not None and summary.identity is not None and settings.predictions.exists():
        now = summary.identity.with_weights(digest_predictions(settings.predictions))
        check_same(summary.identity, now, f"the run in '{folder}' was finished with other predictions")
    left = PARTS if summary is None else missing(folder, (settings.gallery, 0))
    said = [] if summary is None else [f"this run was finished before: {made_again(left)}"]
    if summary is None or set(left) - {"page"}:
        summary = score(settings, folder, summary)
    if "page" in left:
        write_page(folder)
    show(summary, folder, said)
    if summary.n_failed and summary.n_scored + summary.n_unscored == 0:
        raise UserError(f"none of the {summary.n_failed} {summary.scored} could be scored: see {folder}/failures.jsonl")
    return summary.mIoU


def score(settings: ScoreSettings, folder: Path, before: Summary | None) -> Summary:
    """Score the predictions and draw some; `before`: the summary of a run that was finished, of which only the pictures
    are made."""
    dataset = settings.load_dataset()
    check_not_empty(dataset)
    if dataset.classes:
        raise UserError(f"{dataset.name} is scored class by class; score takes expressions: another dataset=")
    predictions = read_predictions(settings.predictions, settings.variant)
    with loading():
        from attrbind_exp.evaluation.loop import score_images
        from attrbind_exp.evaluation.predicted import match, segment_predicted
    matched = match(predictions, dataset)
    check_matched(matched.by_sample, matched.unknown, dataset, settings)
    run = run_settings(settings, predictions.masks)
    prompts = partial(read_prompts, settings=settings.text)
    segment = partial(segment_predicted, matched=matched, prompts=prompts, missing=settings.missing)
    with RunStore(folder, settings.key, settings.yaml) as store:
        if before is None:
            parts = begin_part(settings, dataset, store)
            store.write_text("config.yaml", settings.yaml)
            scored = score_images(dataset, lambda images, done: segment(images, done=done), run, store)
            write_ending(folder, Ending())  # before the summary: from then on the run is finished
            origin = describe_origin(settings, dataset, len(dataset.samples) - len(matched.by_sample), parts)
            task, summary = scored.task, finish(scored, run, dataset, origin, store)
        else:
            task, summary = read_task(run, dataset, folder), before
        draw(task, summary, run, lambda images, _: segment(images), store)
    note_made(folder, tracked=True)  # a scoring tells no tracker
    return summary


def run_settings(settings: ScoreSettings, masks: bool) -> RunSettings:
    """What the loop and the task need to know: the system is the only variant."""
    return RunSettings(
        [Variant(settings.system, system=settings.system)],
        headline=0,
        threshold=MASKS_AT if masks else settings.threshold,
        gallery=settings.gallery,
        changed=0,
        metrics=settings.metrics,
        peaks=not masks,
    )


def check_matched(
    found: Mapping[str, object], unknown: Sequence[str], dataset: Dataset, settings: ScoreSettings
) -> None:
    """Warn of predictions that name no expression. Raises UserError where none names any."""
    named = clean(", ".join(unknown[:NAMED]), 500) + (
        f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
    )
    if not found:
        first = dataset.samples[0].sample_id if dataset.samples else "none"
        raise UserError(
            f"no prediction in '{settings.predictions}' names an expression of {dataset.name}: there are "
            f"{named or 'none'}; an id here is {first}; give the dataset and split that they were made on"
        )
    if unknown:
        log.warning(
            f"WARNING: {len(unknown)} of {len(unknown) + len(found)} predictions name no expression of {dataset.name}, "
            f"so they are left out: {named}"
        )


def begin_part(settings: ScoreSettings, dataset: Dataset, store: RunStore) -> list[Part]:
    """All parts of the run, the one that begins now last; the digest of the predictions stands for the weights. Raises
    UserError where rows of an earlier part were made of something else."""
    import torch

    from attrbind_exp.evaluation.provenance import this_part

    identity = Identity(
        configuration=settings.key,
        weights=digest_predictions(settings.predictions),
        data=digest_dataset(by_image(dataset), dataset.scenes),
        version=__version__,
    )
    return add_part(this_part(identity, torch.device("cpu")), dataset, store)


def describe_origin(settings: ScoreSettings, dataset: Dataset, lacking: int, parts: Sequence[Part]) -> Origin:
    """What the summary says of how the run was made; `lacking`: how many expressions have no prediction."""
    identity, provenance = summed(parts)
    of = f"{lacking} of {len(dataset.samples)} expressions have no prediction"
    how = {
        "fail": "they failed, and figures are over the others (missing=empty scores them as empty masks)",
        "empty": "they are scored as empty masks (missing=fail leaves them out)",
    }
    note = f"{settings.system}: {of}; {how[settings.missing]}" if lacking else None
    return Origin(
        dataset=dataset.name,
        split=settings.split,
        model=str(settings.predictions),
        model_name=settings.system,
        captioner="none",
        note="; ".join(filter(None, [dataset.note, note])) or None,
        overrides=command_line.as_typed(HydraConfig.get().overrides.task),
        config_hash=settings.key,
        version=__version__,
        identity=identity,
        provenance=provenance,
    )


def start() -> None:
    """python -m attrbind_exp.score"""
    command_line.run_main(main, "score")
