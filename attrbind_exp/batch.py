"""Samples -> heat maps under every variant and seed, a batch at a time: pictures, captions, prompts, passes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from attrbind_exp.data.dataset import Dataset
from attrbind_exp.data.images import read_image
from attrbind_exp.data.masks import decode_mask
from attrbind_exp.segmentation.segmenter import Segmenter
from attrbind_exp.text.caption import Captioner
from attrbind_exp.types import BoundPrompt, Failure, HeatMap, Prompt, RunSettings, Sample, SampleError


@dataclass(frozen=True)
class Loaded:
    """A sample with its picture, its ground truth (H, W) bool where it has one, and its place in the prompt."""

    sample: Sample
    image: Image.Image
    truth: np.ndarray | None
    prompt: Prompt


Heats = list[list[HeatMap]]  # [variant][seed] of one expression


@dataclass(frozen=True)
class Segmented:
    """One image: its expressions with their heat maps, and what failed in it."""

    image_id: str
    items: list[tuple[Loaded, Heats]]
    failures: list[Failure]


def segment_images(
    dataset: Dataset, segmenter: Segmenter, settings: RunSettings, captioner: Captioner | None = None
) -> Iterator[Segmented]:
    """Every image of a dataset, those of a class-wise one without any label included."""
    groups: dict[str, list[Sample]] = {image: [] for image in dataset.scenes}
    for sample in dataset.samples:
        groups.setdefault(sample.image_id, []).append(sample)
    with tqdm(total=len(groups), desc="images", unit="img", disable=None) as progress:
        for batch in batches(groups, settings.batch_size):
            loaded, failures = load_batch([s for image in batch for s in groups[image]], segmenter, captioner)
            heats = segment_batch(loaded, segmenter, settings)
            for image in batch:
                items = [(item, next(heats)) for item in loaded if item.sample.image_id == image]
                yield Segmented(image, items, [failure for sample, failure in failures if sample.image_id == image])
            progress.update(len(batch))


def batches(groups: Mapping[str, Sequence[Sample]], size: int) -> Iterator[list[str]]:
    """Image ids in order, as many at a time as have up to `size` expressions together; one image is never split."""
    batch: list[str] = []
    filled = 0
    for image, samples in groups.items():
        weight = max(1, len(samples))
        if batch and filled + weight > size:
            yield batch
            batch, filled = [], 0
        batch.append(image)
        filled += weight
    if batch:
        yield batch


def load_batch(
    samples: Sequence[Sample], segmenter: Segmenter, captioner: Captioner | None = None
) -> tuple[list[Loaded], list[tuple[Sample, Failure]]]:
    """Pictures, captions, prompts and ground truths; what cannot be read comes back as a failure."""
    failures: list[tuple[Sample, Failure]] = []
    pictures: dict[Path, Image.Image] = {}
    readable: list[tuple[Sample, np.ndarray | None]] = []
    for sample in samples:
        try:
            if sample.image_path not in pictures:
                pictures[sample.image_path] = read_image(sample.image_path, sample.size)
            truth = None if sample.segmentation is None else decode_mask(sample.segmentation, sample.size)
            readable.append((sample, truth))
        except SampleError as error:
            failures.append((sample, Failure(sample.sample_id, error.reason, str(error))))
    captions = _captions([s for s, _ in readable], pictures, captioner)
    prompts = segmenter.text.prepare([s.text for s, _ in readable], [s.category for s, _ in readable], captions)
    loaded = []
    for (sample, truth), prompt, caption in zip(readable, prompts, captions, strict=True):
        if captioner and caption is None:
            message = f"the captioner has none for {sample.text!r} on '{sample.image_path.name}'"
            failures.append((sample, Failure(sample.sample_id, "caption_missing", message)))
        elif not prompt.q:
            message = f"the tokenizer sees nothing in {sample.text!r}"
            failures.append((sample, Failure(sample.sample_id, "empty_expression", message)))
        else:
            loaded.append(Loaded(sample, pictures[sample.image_path], truth, prompt))
    return loaded, failures


def _captions(
    samples: Sequence[Sample], pictures: Mapping[Path, Image.Image], captioner: Captioner | None
) -> list[str | None]:
    if captioner is None or not samples:
        return [None] * len(samples)
    images = [pictures[s.image_path] for s in samples]
    return list(captioner.caption(images, [s.text for s in samples], [s.image_path.name for s in samples]))


def segment_batch(loaded: Sequence[Loaded], segmenter: Segmenter, settings: RunSettings) -> Iterator[Heats]:
    """Heat maps of each item, in order. Images are encoded once; variants with one embedding share a pass, and
    their heat map is the same object."""
    if not loaded:
        return
    seeds, batch_size = settings.seeds, settings.batch_size
    bound = segmenter.text.bind([item.prompt for item in loaded], settings.variants)
    rows = {item.sample.image_path: item.image for item in loaded}
    latents = encode_images(list(rows.values()), segmenter, batch_size)
    row_of = {path: i for i, path in enumerate(rows)}
    passes: dict[tuple[int, int, int], tuple[int, BoundPrompt, int]] = {}
    for i, edits in enumerate(bound):
        for edit in edits:
            for seed in seeds:
                passes.setdefault((i, id(edit), seed), (i, edit, seed))
    maps: dict[tuple[int, int, int], torch.Tensor] = {}
    for seed in seeds:
        wanted = [key for key in passes if key[2] == seed]
        for start in range(0, len(wanted), batch_size):
            part = wanted[start : start + batch_size]
            items = [loaded[i] for i, _, _ in part]
            chosen = latents[[row_of[item.sample.image_path] for item in items]]
            ids = [item.sample.image_id for item in items]
            maps |= zip(part, segmenter.complete(chosen, ids, [passes[key][1] for key in part], seed), strict=True)
    for i, (item, edits) in enumerate(zip(loaded, bound, strict=True)):
        size = (item.image.height, item.image.width)
        distinct = {id(edit) for edit in edits}
        heat = {(k, seed): segmenter.heat_map(maps[i, k, seed], size) for k in distinct for seed in seeds}
        yield [[heat[id(edit), seed] for seed in seeds] for edit in edits]


def encode_images(images: Sequence[Image.Image], segmenter: Segmenter, batch_size: int) -> torch.Tensor:
    """Latents (B, C, h, w), `batch_size` images at a time."""
    parts = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    return torch.cat([segmenter.model.encode_images(part) for part in parts])


def check_finite(heats: Heats) -> None:
    """Half precision can overflow: raises SampleError "not_finite" rather than let such a map become a mask."""
    if not all(np.isfinite(heat.values).all() for row in heats for heat in row):
        raise SampleError("not_finite", "a heat map holds values that are not finite; try model.dtype=bf16 or fp32")
