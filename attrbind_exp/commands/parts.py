"""The parts of a run: each is written down before it scores anything, and compared with what came before."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import to_builtins
from msgspec.structs import replace

from attrbind_exp import __version__
from attrbind_exp.backbones.weights import HALF
from attrbind_exp.backbones.weights_digest import loras_digest, weights_digest
from attrbind_exp.config import Settings
from attrbind_exp.data.dataset import Dataset, by_image
from attrbind_exp.data.digests import digest_dataset
from attrbind_exp.evaluation.source import source_digest
from attrbind_exp.evaluation.unchanged import check_unchanged
from attrbind_exp.log import log
from attrbind_exp.paths import own_folder
from attrbind_exp.runs.provenance import ROWS, Identity, Part, check_same, differences, read_parts, summed
from attrbind_exp.runs.rows import read_images
from attrbind_exp.runs.shown import clean, shell_word
from attrbind_exp.runs.store import RunStore
from attrbind_exp.runs.summary import Summary
from attrbind_exp.types import UserError

if TYPE_CHECKING:
    from attrbind_exp.heatmaps.segmenter import Segmenter


def begin_part(settings: Settings, dataset: Dataset, segmenter: "Segmenter", store: RunStore) -> list[Part]:
    """All parts of a run, the one that begins now last.

    Raises UserError where rows of an earlier part were made of something else, saying in what that differs. What they
    were made with may differ: a warning says so.
    """
    from attrbind_exp.backbones.headers import stored_types  # loads torch, which merge does without
    from attrbind_exp.evaluation.provenance import dtype_name, this_part

    backbone = segmenter.backbone
    data = digest_dataset(by_image(dataset), dataset.scenes)
    dtype = dtype_name(backbone.dtype)
    identity = Identity(configuration=settings.key, data=data, dtype=dtype, version=__version__)
    stored = stored_types(settings.segmenter.model.path, dtype == HALF)
    return add_part(this_part(with_model(identity, settings), backbone.device, stored), dataset, store)


def add_part(now: Part, dataset: Dataset, store: RunStore) -> list[Part]:
    """The parts of a run and the one that begins `now`, written down. Raises UserError as `begin_part` does."""
    before = read_parts(store.folder) if store.has_rows() else []  # where nothing is scored, nothing can be mixed
    if before:
        check_goes_on(before[-1], now, dataset, store.folder)
    store.write_parts([*before, now])
    return [*before, now]


def check_goes_on(before: Part, now: Part, dataset: Dataset, folder: Path) -> None:
    """Raise UserError where the identities of two parts differ; warn where they were not made with the same."""
    if before.identity.data != now.identity.data:  # of an image that was scored, that can be said more exactly
        images = by_image(dataset)
        for image, rows in read_images(folder):
            check_unchanged(images, dataset.scenes, image, rows, folder)
    check_same(before.identity, now.identity, f"the run in '{folder}' cannot go on")
    if found := differences(before.provenance, now.provenance):
        said = clean(", ".join(found), 2000)
        log.warning(
            f"WARNING: this run goes on, made with something else from here: {said} (before / now); provenance.jsonl "
            "has every part"
        )


def check_finished(summary: Summary, settings: Settings, folder: Path) -> None:
    """Raise UserError where a finished run was made by other weights than those that lie at model.path now. Warn where
    it was made by another source: a class that was edited since, the user's or ours, does nothing for it."""
    if summary.identity is not None:
        now = with_model(summary.identity, settings)
        check_same(summary.identity, now, f"the run in '{folder}' was finished with another model")
    then, source = summary.provenance[-1].source if summary.provenance else None, source_digest(own_folder())
    if then not in (None, source):
        log.warning(
            f"WARNING: nothing is scored anew: this run was finished before with another source {then} / {source} "
            "(before / now), and its figures are those of then; give another hydra.run.dir (hydra.sweep.dir), or "
            f"remove {clean(shell_word(str(folder)), 5000)}, to score with the source as it is now"
        )


def merged_parts(shards: Mapping[str, Path], key: str) -> list[Part]:
    """The parts of all shards as those of one run under `key`. Raises UserError where they were made of something
    else, saying in what that differs."""
    parts = {shard: read_parts(folder) for shard, folder in shards.items()}
    lasts = [(shards[shard], found[-1].identity) for shard, found in parts.items() if found]
    for folder, identity in lasts[1:]:
        first, one = lasts[0]
        if found := differences(one, replace(identity, configuration=one.configuration)):
            raise UserError(
                f"the shards in '{first}' and '{folder}' are no parts of one run: {', '.join(found)} (first / second); "
                "run one of them again as the other was run, then merge"
            )
    every = [part for found in parts.values() for part in found]
    return [replace(part, identity=replace(part.identity, configuration=key)) for part in every]


def rescored_parts(source: Path, settings: Settings, dataset: Dataset) -> list[Part]:
    """The parts of a run that kept its maps, and the one that counts them again here, on the CPU."""
    import torch

    from attrbind_exp.evaluation.provenance import this_part

    before = read_parts(source)
    made = before[-1].identity if before else Identity(configuration=settings.key, version=__version__)
    data = digest_dataset(by_image(dataset), dataset.scenes)
    now = replace(made, configuration=settings.key, data=data, rows=ROWS, version=__version__)
    return [*before, this_part(now, torch.device("cpu"))]


def with_model(identity: Identity, settings: Settings) -> Identity:
    """An identity with the digests of the model's files and LoRAs as they lie there now. Which of two sets of weights
    counts is a matter of its precision."""
    model, cache = settings.segmenter.model, settings.segmenter.cache_folder
    weights = weights_digest(model.path, cache, half=identity.dtype == HALF)
    return replace(identity, weights=weights, lora=loras_digest(model.loras, cache))


def tracked_parts(of: Summary | Sequence[Part]) -> dict[str, object]:
    """What a tracker keeps of a run's parts, or of its summary: the identity, what the last part was made with and,
    where earlier ones were made with something else, with what."""
    identity, provenance = (of.identity, of.provenance) if isinstance(of, Summary) else summed(of)
    if identity is None or not provenance:
        return {}
    *earlier, last = to_builtins(list(provenance))
    return {"identity": to_builtins(identity), "provenance": last} | ({"earlier_parts": earlier} if earlier else {})
