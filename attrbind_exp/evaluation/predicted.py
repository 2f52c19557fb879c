"""Another system's predictions in the place of a model's heat maps: the same images, expressions and ground truths."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import unquote

import numpy as np

from attrbind_exp.data.dataset import Dataset
from attrbind_exp.data.predictions import Predictions, Read
from attrbind_exp.evaluation.batching import Images, split_into_groups
from attrbind_exp.evaluation.heat import HeatMaps
from attrbind_exp.evaluation.loading import Files, map_ahead, read_files
from attrbind_exp.runs.levels import file_name
from attrbind_exp.tasks.task import Segmented, SegmentedImage
from attrbind_exp.types import Failure, HeatMap, Missing, Prompt, Sample, SampleError

TOGETHER = 64  # expressions that are read and parsed at once

Prompts = Callable[[Sequence[Sample]], Sequence[Prompt]]  # how their words are read


@dataclass(frozen=True)
class Matched:
    """What reads each expression's prediction, by sample id, and the ids of predictions that name no expression."""

    by_sample: Mapping[str, Read]
    unknown: Sequence[str]


def match(predictions: Predictions, dataset: Dataset) -> Matched:
    """Find the prediction of every expression: under its id, under that as save_masks writes it into a file's name or,
    of data in REFER's layout, under the number of its sentence, where no other has it."""
    sentences = [sample.sample_id.rpartition(":")[2] if dataset.category_ids else "" for sample in dataset.samples]
    counts = Counter(sentences)
    left, found = dict(predictions.by_id), {}
    for sample, sentence in zip(dataset.samples, sentences, strict=True):
        names = [sample.sample_id, unquote(file_name(sample.sample_id))]
        names += [sentence] if sentence and counts[sentence] == 1 else []
        for name in names:
            if name in predictions.by_id:
                found[sample.sample_id] = predictions.by_id[name]
                left.pop(name, None)
                break
    return Matched(found, list(left))


def segment_predicted(
    images: Images, matched: Matched, prompts: Prompts, missing: Missing, done: int = 0
) -> Iterator[SegmentedImage]:
    """Every image in order, the first `done` left out, with predictions as heat maps. Each is read when it is asked
    for, and not kept: then SampleError is raised for one that is missing or cannot be used."""
    groups = split_into_groups(dict(list(images.items())[done:]), TOGETHER)
    samples = [[sample for group in part.values() for sample in group] for part in groups]
    for group, files in zip(groups, map_ahead(read_files, samples, depth=2), strict=True):
        read = dict(zip((s.sample_id for s, _ in files.samples), prompts([s for s, _ in files.samples])))
        for image in group:
            failures = [failure for sample, failure in files.failures if sample.image_id == image]
            yield _image(image, files, read, failures, partial(_predict, matched.by_sample, missing))


def _image(
    image: str,
    files: Files,
    prompts: Mapping[str, Prompt],
    failures: Sequence[Failure],
    predict: Callable[[Sample], HeatMap],
) -> SegmentedImage:
    """One image with those of its expressions whose picture and ground truth were read."""
    items = [
        Segmented(
            sample, files.pictures[sample.image_path], truth, prompts[sample.sample_id], _lazily(predict, sample), [[0]]
        )
        for sample, truth in files.samples
        if sample.image_id == image
    ]
    digest = files.digests[items[0].sample.image_path] if items else ""
    return SegmentedImage(image, items, failures, digest)


def _lazily(predict: Callable[[Sample], HeatMap], sample: Sample) -> HeatMaps:
    """One heat map, made whenever it is asked for."""
    return HeatMaps(lambda _: lambda: [predict(sample)], count=1, ahead=0)


def _predict(by_sample: Mapping[str, Read], missing: Missing, sample: Sample) -> HeatMap:
    read = by_sample.get(sample.sample_id)
    if read is not None:
        return HeatMap(read(sample.size))
    if missing == "fail":
        raise SampleError("no_prediction", f"the predictions have none for {sample.text!r}")
    return HeatMap(np.zeros(sample.size, np.float32))
