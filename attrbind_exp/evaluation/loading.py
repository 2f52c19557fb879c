"""Samples -> pictures, ground truths, prompts and latents, read in threads ahead of the model."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from torch import Tensor

from attrbind_exp.backbones.backbone import Pixels
from attrbind_exp.backbones.tensors import to_host
from attrbind_exp.data.images import read_picture
from attrbind_exp.data.masks import decode_mask
from attrbind_exp.heatmaps.segmenter import VAE_OVERFLOW, Segmenter
from attrbind_exp.language.caption import Captioner
from attrbind_exp.types import Failure, Prompt, Sample, SampleError

WORKERS = min(8, os.cpu_count() or 1)
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class LoadedSample:
    """A sample with its picture, the digest of its file, its latents (c, h, w), the ground truth (H, W) bool where
    there is one, and the sample's place in the prompt."""

    sample: Sample
    image: Image.Image
    digest: str
    latents: Tensor
    truth: np.ndarray | None
    prompt: Prompt


Failed = list[tuple[Sample, Failure]]


@dataclass(frozen=True)
class Files:
    """What the disk gave: samples with their ground truths, their pictures, the digests of these files and what the
    model sees of them by path, and what could not be read."""

    samples: list[tuple[Sample, np.ndarray | None]]
    pictures: dict[Path, Image.Image]
    digests: dict[Path, str]
    pixels: dict[Path, Pixels]
    failures: Failed


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], depth: int) -> Iterator[Result]:
    """`function` of every item, in order, computed by threads up to `depth` items before the caller asks for it."""
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(WORKERS) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def delay_by_one(items: Iterable[Item]) -> Iterator[Item]:
    """Every item, but only after the next one is made: what that one queues on a device goes on meanwhile."""
    kept: deque[Item] = deque()
    for item in items:
        kept.append(item)
        if len(kept) > 1:
            yield kept.popleft()
    yield from kept


def read_files(samples: Sequence[Sample], segmenter: Segmenter | None = None) -> Files:
    """Pictures and ground truths of samples, and what a model sees where there is one. Touches no device: safe in a
    thread."""
    files = Files([], {}, {}, {}, [])
    truths: dict[tuple[str, str], np.ndarray | None] = {}
    for sample in samples:
        try:
            if (path := sample.image_path) not in files.pictures:
                files.pictures[path], files.digests[path] = read_picture(path, sample.size)
                if segmenter is not None:
                    files.pixels[path] = segmenter.backbone.pixels(files.pictures[path])
            # Expressions of one object share its mask.
            key = (sample.image_id, sample.object_id or f"of {sample.sample_id}")
            if key not in truths:
                known = sample.segmentation is not None
                truths[key] = decode_mask(sample.segmentation, sample.size) if known else None
            files.samples.append((sample, truths[key]))
        except SampleError as error:
            files.failures.append((sample, Failure(sample.sample_id, error.reason, str(error))))
    return files


def start_loading(
    files: Files, segmenter: Segmenter, captioner: Captioner | None = None
) -> Callable[[], tuple[list[LoadedSample], Failed]]:
    """Captions, prompts and latents of what was read; what cannot be used comes back as a failure.

    The latents are queued on the device; calling the result waits for them.
    """
    samples = [sample for sample, _ in files.samples]
    captions = _captions(samples, files.pictures, captioner)
    prompts = segmenter.prepare([s.text for s in samples], [s.category for s in samples], captions)
    # One by one: a picture's latents do not depend on which others come with it.
    paths = dict.fromkeys(s.image_path for s in samples)
    latents = {path: segmenter.backbone.encode_pixels(files.pixels[path]) for path in paths}
    finite = {path: to_host(found.isfinite().all()) for path, found in latents.items()}

    def finish() -> tuple[list[LoadedSample], Failed]:
        loaded, failures = [], list(files.failures)
        for (sample, truth), prompt, caption in zip(files.samples, prompts, captions, strict=True):
            path = sample.image_path
            try:
                if captioner and caption is None:
                    raise SampleError("caption_missing", f"the captioner has none for {sample.text!r} on '{path.name}'")
                if not prompt.q:
                    raise SampleError("empty_expression", f"the tokenizer sees nothing in {sample.text!r}")
                if not finite[path]():
                    raise SampleError("vae_overflow", f"image '{path}': {VAE_OVERFLOW}")
                picture, digest = files.pictures[path], files.digests[path]
                loaded.append(LoadedSample(sample, picture, digest, latents[path], truth, prompt))
            except SampleError as error:
                failures.append((sample, Failure(sample.sample_id, error.reason, str(error))))
        return loaded, failures

    return finish


def _captions(
    samples: Sequence[Sample], pictures: dict[Path, Image.Image], captioner: Captioner | None
) -> list[str | None]:
    if captioner is None or not samples:
        return [None] * len(samples)
    images = [pictures[s.image_path] for s in samples]
    return list(captioner.caption(images, [s.text for s in samples], [s.image_path.name for s in samples]))
