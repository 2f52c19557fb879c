"""One run: data -> segmentation -> scoring -> store."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from attrbind_exp.data.images import read_image
from attrbind_exp.data.masks import decode_mask
from attrbind_exp.data.refer import Dataset
from attrbind_exp.runs import figures
from attrbind_exp.runs.store import RunStore
from attrbind_exp.runs.tracker import Tracker
from attrbind_exp.scoring import metrics
from attrbind_exp.scoring.summary import Scores, summarize
from attrbind_exp.segmentation.segmenter import BASELINE, Segmenter
from attrbind_exp.types import BoundPrompt, Failure, HeatMap, Prompt, Sample, SampleError, UserError, Variant


@dataclass(frozen=True)
class RunSettings:
    """variants: what is compared; headline: the one that heads the summary; threshold: None = best of the grid;
    batch_size: passes at once; gallery: how many expressions become pictures."""

    variants: Sequence[Variant]
    headline: int = -1
    threshold: float | None = None
    batch_size: int = 64
    gallery: int = 12


@dataclass(frozen=True)
class Loaded:
    """A sample with its picture, its ground truth (H, W) bool and its place in the prompt."""

    sample: Sample
    image: Image.Image
    truth: np.ndarray
    prompt: Prompt


def run_experiment(
    dataset: Dataset, segmenter: Segmenter, settings: RunSettings, store: RunStore, tracker: Tracker
) -> dict[str, Any]:
    """Score every expression under every variant, write rows as they come, then summary and pictures.

    Returns the summary. Raises UserError when the split is empty or nothing in it could be scored.
    """
    if not dataset.samples and not dataset.failures:
        raise UserError(f"no expressions in this split of {dataset.name}")
    started = time.perf_counter()
    scores = score(dataset, segmenter, settings, store)
    summary = summarize(scores, settings.variants, settings.headline, settings.threshold)
    summary["seconds"] = round(time.perf_counter() - started, 3)
    pictures = draw_gallery(scores, segmenter, settings, store)
    curves = {v.label: 100 * metrics.iou(*scores.counts(i)).mean(0) for i, v in enumerate(settings.variants)}
    if scores.samples:
        figures.threshold_curve(curves, store.folder / "threshold_curve.png")
    report(scores, summary, curves, pictures, settings, tracker)
    return summary


def score(dataset: Dataset, segmenter: Segmenter, settings: RunSettings, store: RunStore) -> Scores:
    """The evaluation loop. A bad sample is counted and named; it never stops the run."""
    variants = settings.variants
    scores = Scores([], [], [[] for _ in variants], [[] for _ in variants], [])
    for failure in dataset.failures:
        fail(failure, scores, store)
    order = _by_image(dataset.samples)
    with tqdm(total=len(order), desc="expressions", unit="expr", disable=None) as progress:
        for start in range(0, len(order), settings.batch_size):
            samples = order[start : start + settings.batch_size]
            loaded = load_batch(samples, segmenter, scores, store)
            for item, heats in zip(
                loaded, segment_batch(loaded, segmenter, variants, settings.batch_size), strict=True
            ):
                record_scores(item, heats, variants, scores, store)
            progress.update(len(samples))
    return scores


def _by_image(samples: Sequence[Sample]) -> list[Sample]:
    """Samples with those of one image together, images in order of first appearance."""
    first = {image: i for i, image in reversed(list(enumerate(s.image_id for s in samples)))}
    return sorted(samples, key=lambda s: first[s.image_id])


def fail(failure: Failure, scores: Scores, store: RunStore) -> None:
    """Count and name one sample that cannot be scored."""
    scores.failures.append(failure)
    store.add_failure(failure)


def load_batch(samples: Sequence[Sample], segmenter: Segmenter, scores: Scores, store: RunStore) -> list[Loaded]:
    """Pictures, ground truths and prompts of a batch; what cannot be read becomes a failure."""
    prompts = segmenter.text.prepare([s.text for s in samples], [s.category for s in samples])
    pictures: dict[Path, Image.Image] = {}
    loaded = []
    for sample, prompt in zip(samples, prompts, strict=True):
        try:
            if not prompt.q:
                raise SampleError("empty_expression", f"the tokenizer sees nothing in {sample.text!r}")
            if sample.image_path not in pictures:
                pictures[sample.image_path] = read_image(sample.image_path, sample.size)
            truth = decode_mask(sample.segmentation, sample.size)
            loaded.append(Loaded(sample, pictures[sample.image_path], truth, prompt))
        except SampleError as error:
            fail(Failure(sample.sample_id, error.reason, str(error)), scores, store)
    return loaded


def segment_batch(
    loaded: Sequence[Loaded], segmenter: Segmenter, variants: Sequence[Variant], batch_size: int
) -> Iterator[list[HeatMap]]:
    """Heat maps of each item, one a variant. Images are encoded once; variants with one embedding share a pass."""
    if not loaded:
        return
    bound = segmenter.text.bind([item.prompt for item in loaded], variants)
    rows = {item.sample.image_path: item.image for item in loaded}
    latents = segmenter.model.encode_images(list(rows.values()))
    row_of = {path: i for i, path in enumerate(rows)}
    passes: dict[tuple[int, int], tuple[int, BoundPrompt]] = {}
    for i, edits in enumerate(bound):
        for edit in edits:
            passes.setdefault((i, id(edit)), (i, edit))
    wanted = list(passes.values())
    maps = []
    for start in range(0, len(wanted), batch_size):
        part = wanted[start : start + batch_size]
        items = [loaded[i] for i, _ in part]
        chosen = latents[[row_of[item.sample.image_path] for item in items]]
        maps += list(segmenter.complete(chosen, [item.sample.image_id for item in items], [edit for _, edit in part]))
    done = dict(zip(passes, maps, strict=True))
    for i, (item, edits) in enumerate(zip(loaded, bound, strict=True)):
        heat = {k: segmenter.heat_map(done[i, k], item.truth.shape) for k in {id(edit) for edit in edits}}
        yield [heat[id(edit)] for edit in edits]


def record_scores(
    item: Loaded, heats: Sequence[HeatMap], variants: Sequence[Variant], scores: Scores, store: RunStore
) -> None:
    """Count one expression under every variant and write its rows. A heat map that is not finite (half precision can
    overflow) makes a failure, not a mask."""
    if not all(np.isfinite(heat.values).all() for heat in heats):
        message = "a heat map holds values that are not finite; try model.dtype=bf16 or fp32"
        fail(Failure(item.sample.sample_id, "not_finite", message), scores, store)
        return
    scores.samples.append(item.sample)
    scores.prompts.append(item.prompt)
    for v, (variant, heat) in enumerate(zip(variants, heats, strict=True)):
        intersection, union = metrics.count_overlap(heat.values, item.truth)
        scores.intersection[v].append(intersection)
        scores.union[v].append(union)
        each = metrics.iou(intersection, union)
        store.add_row({
            "sample_id": item.sample.sample_id,
            "image_id": item.sample.image_id,
            "text_processor": variant.name,
            "alpha": variant.alpha,
            "expression": item.sample.text,
            "target": item.prompt.parse.target_text,
            "chunk": item.prompt.parse.chunk_text,
            "bound": item.prompt.bind,
            "fallbacks": list(item.prompt.fallbacks),
            "slices": dict(item.sample.slices),
            "iou_at": {metrics.key(k): round(float(each[k]), 6) for k in metrics.GRID},
            "intersection": intersection.tolist(),
            "union": union.tolist(),
        })  # fmt: skip


def draw_gallery(scores: Scores, segmenter: Segmenter, settings: RunSettings, store: RunStore) -> dict[str, Path]:
    """Image | ground truth | baseline | ours for expressions spread evenly over the run; paths by caption. All variants
    of a run are shown where they are few, else the one that heads the summary."""
    count = min(settings.gallery, len(scores.samples))
    many = len(settings.variants) > 5
    ours = [settings.variants[settings.headline]] if many else settings.variants
    shown = [BASELINE, *(v for v in ours if v != BASELINE)]
    pictures = {}
    for number, row in enumerate(np.linspace(0, len(scores.samples) - 1, count).astype(int)):
        sample, prompt = scores.samples[row], scores.prompts[row]
        item = Loaded(
            sample, read_image(sample.image_path, sample.size), decode_mask(sample.segmentation, sample.size), prompt
        )
        heats = next(segment_batch([item], segmenter, shown, len(shown)))
        image = np.asarray(item.image)
        panels = {"image": image, "ground truth": figures.outline(image, item.truth)}
        panels |= {v.label: figures.overlay(image, h.values) for v, h in zip(shown, heats, strict=True)}
        pictures[f"{sample.sample_id} {sample.text}"] = figures.panels(panels, sample.text, store.gallery_path(number))
    figures.sheet(list(pictures.values()), store.folder / "gallery.png")
    return pictures


def report(
    scores: Scores, summary: Mapping[str, Any], curves: Mapping[str, np.ndarray], pictures: Mapping[str, Path],
    settings: RunSettings, tracker: Tracker,
) -> None:  # fmt: skip
    """Everything that a tracker shows."""
    tracker.summary({k: v for k, v in summary.items() if k != "variants"})
    lines = {label: curve.tolist() for label, curve in curves.items()}
    tracker.curve("threshold_curve", "threshold", "mIoU", metrics.THRESHOLDS.tolist(), lines)
    labels = [v.label for v in settings.variants]
    tracker.table("variants", ["variant", "mIoU", "threshold", "oIoU"],
                  [[v["label"], v["mIoU"], v["threshold"], v["oIoU"]] for v in summary["variants"]])  # fmt: skip
    at = [round((v["threshold"] or 0) * 100) for v in summary["variants"]]
    each = [metrics.iou(*scores.counts(i))[:, at[i]] for i in range(len(labels))]
    rows = [
        [s.sample_id, s.image_id, s.text, p.parse.target_text, p.parse.chunk_text, ", ".join(p.fallbacks),
         ", ".join(f"{k}={v}" for k, v in s.slices.items()), *(float(e[i]) for e in each)]
        for i, (s, p) in enumerate(zip(scores.samples, scores.prompts, strict=True))
    ]  # fmt: skip
    columns = ["sample", "image", "expression", "target", "chunk", "fallbacks", "slices"]
    tracker.table("expressions", [*columns, *(f"IoU {label}" for label in labels)], rows)
    tracker.images("gallery", pictures)
