"""Samples -> heat maps under every variant and seed, a batch at a time: pictures, captions, prompts, passes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from attrbind_exp.data.dataset import Dataset
from attrbind_exp.data.images import read_image
from attrbind_exp.data.masks import decode_mask
from attrbind_exp.diffusion.model import VAE_OVERFLOW
from attrbind_exp.segmentation.segmenter import Segmenter
from attrbind_exp.text.caption import Captioner
from attrbind_exp.types import BoundPrompt, Failure, HeatMap, Prompt, RunSettings, Sample, SampleError


@dataclass(frozen=True)
class Loaded:
    """A sample with its picture, the picture's latents (C, h, w), its ground truth (H, W) bool where it has one, and
    its place in the prompt."""

    sample: Sample
    image: Image.Image
    latents: torch.Tensor
    truth: np.ndarray | None
    prompt: Prompt


Heats = list[list[HeatMap]]  # [variant][seed] of one expression


@dataclass(frozen=True)
class Segmented:
    """One image: its expressions with their heat maps, and what failed in it."""

    image_id: str
    items: list[tuple[Loaded, Heats]]
    failures: list[Failure]


Images = Mapping[str, Sequence[Sample]]  # samples by image id


def by_image(dataset: Dataset) -> dict[str, list[Sample]]:
    """The samples of every image. Images of a class-wise dataset without any label are in it, too."""
    groups: dict[str, list[Sample]] = {image: [] for image in dataset.scenes}
    for sample in dataset.samples:
        groups.setdefault(sample.image_id, []).append(sample)
    return groups


def plan(images: Images, size: int) -> list[dict[str, Sequence[Sample]]]:
    """Batches: as many images together as have up to `size` expressions. An image is never split: class-wise scores
    need all its classes."""
    batches: list[dict[str, Sequence[Sample]]] = [{}]
    filled = 0
    for image, samples in images.items():
        weight = max(1, len(samples))
        if batches[-1] and filled + weight > size:
            batches.append({})
            filled = 0
        batches[-1][image] = samples
        filled += weight
    return batches


def segment_images(
    images: Images, segmenter: Segmenter, settings: RunSettings, captioner: Captioner | None = None, done: int = 0
) -> Iterator[Segmented]:
    """Every image in order, the first `done` left out."""
    left = dict(list(images.items())[done:])
    for batch in plan(left, settings.batch_size):
        samples = [sample for group in batch.values() for sample in group]
        loaded, failures = load_batch(samples, segmenter, captioner)
        heats = segment_batch(loaded, segmenter, settings)
        for image in batch:
            items = [(item, next(heats)) for item in loaded if item.sample.image_id == image]
            yield Segmented(image, items, [failure for sample, failure in failures if sample.image_id == image])


def load_batch(
    samples: Sequence[Sample], segmenter: Segmenter, captioner: Captioner | None = None
) -> tuple[list[Loaded], list[tuple[Sample, Failure]]]:
    """Pictures, their latents, captions, prompts and ground truths; what cannot be used comes back as a failure."""
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
    # One by one: a picture's latents do not depend on which others come with it.
    latents = {
        path: segmenter.model.encode_images([pictures[path]])[0]
        for path in dict.fromkeys(s.image_path for s, _ in readable)
    }
    loaded = []
    for (sample, truth), prompt, caption in zip(readable, prompts, captions, strict=True):
        try:
            if captioner and caption is None:
                name = sample.image_path.name
                raise SampleError("caption_missing", f"the captioner has none for {sample.text!r} on '{name}'")
            if not prompt.q:
                raise SampleError("empty_expression", f"the tokenizer sees nothing in {sample.text!r}")
            latent = latents[sample.image_path]
            if not latent.isfinite().all():
                raise SampleError("vae_overflow", f"image '{sample.image_path}': {VAE_OVERFLOW}")
            loaded.append(Loaded(sample, pictures[sample.image_path], latent, truth, prompt))
        except SampleError as error:
            failures.append((sample, Failure(sample.sample_id, error.reason, str(error))))
    return loaded, failures


def _captions(
    samples: Sequence[Sample], pictures: Mapping[Path, Image.Image], captioner: Captioner | None
) -> list[str | None]:
    if captioner is None or not samples:
        return [None] * len(samples)
    images = [pictures[s.image_path] for s in samples]
    return list(captioner.caption(images, [s.text for s in samples], [s.image_path.name for s in samples]))


def segment_batch(loaded: Sequence[Loaded], segmenter: Segmenter, settings: RunSettings) -> Iterator[Heats]:
    """Heat maps of each item, in order. Variants with one embedding share a pass, and their heat map is the same
    object."""
    if not loaded:
        return
    bound = segmenter.text.bind([item.prompt for item in loaded], settings.variants)
    passes: dict[tuple[int, int], tuple[Loaded, BoundPrompt]] = {}
    for i, (item, edits) in enumerate(zip(loaded, bound, strict=True)):
        for edit in edits:
            passes[i, id(edit)] = item, edit
    maps = {seed: _complete(passes, segmenter, seed, settings.batch_size) for seed in settings.seeds}
    for i, (item, edits) in enumerate(zip(loaded, bound, strict=True)):
        size = (item.image.height, item.image.width)
        heat = {
            (key, seed): segmenter.heat_map(maps[seed][i, key], size)
            for key in {id(edit) for edit in edits}
            for seed in settings.seeds
        }
        yield [[heat[id(edit), seed] for seed in settings.seeds] for edit in edits]


def _complete(
    passes: Mapping[tuple[int, int], tuple[Loaded, BoundPrompt]], segmenter: Segmenter, seed: int, batch_size: int
) -> dict[tuple[int, int], torch.Tensor]:
    """Completed maps (h, w) of all passes under one noise seed, `batch_size` at a time."""
    keys = list(passes)
    found: dict[tuple[int, int], torch.Tensor] = {}
    for start in range(0, len(keys), batch_size):
        part = keys[start : start + batch_size]
        items, edits = zip(*(passes[key] for key in part), strict=True)
        latents = torch.stack([item.latents for item in items])
        ids = [item.sample.image_id for item in items]
        found |= zip(part, segmenter.complete(latents, ids, edits, seed, batch_size), strict=True)
    return found


def check_finite(heats: Heats) -> None:
    """Half precision can overflow: raises SampleError "not_finite" rather than let such a map become a mask."""
    if not all(np.isfinite(heat.values).all() for row in heats for heat in row):
        raise SampleError("not_finite", "a heat map holds values that are not finite; try model.dtype=bf16 or fp32")
