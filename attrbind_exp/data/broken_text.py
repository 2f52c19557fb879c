"""Text that is no Unicode: half of a surrogate pair, which no file and no tokenizer can hold."""

from collections.abc import Iterator
from dataclasses import replace

from attrbind_exp.data.dataset import Dataset
from attrbind_exp.types import Failure, Sample


def without_broken_text(dataset: Dataset) -> Dataset:
    """The dataset without samples whose texts hold half a surrogate pair; each is a failure "broken_text"."""
    samples, failures = [], list(dataset.failures)
    for sample in dataset.samples:
        if broken := next(filter(None, map(_find_half, _texts(sample))), None):
            failures.append(Failure(sample.sample_id, "broken_text", broken))
        else:
            samples.append(sample)
    return dataset if len(samples) == len(dataset.samples) else replace(dataset, samples=samples, failures=failures)


def _texts(sample: Sample) -> Iterator[str]:
    yield from (sample.text, sample.sample_id, sample.image_id, sample.category or "", sample.object_id)
    for name, value in sample.slices.items():
        yield name
        yield from [value] if isinstance(value, str) else value


def _find_half(text: str) -> str | None:
    """What is wrong with a text, None where nothing is."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"{text[:100]!r} holds half a surrogate pair at character {error.start + 1}; write whole characters"
    return None
