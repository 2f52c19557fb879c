"""What was read from the files: images, expressions, masks, and the metric on them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from attrbind_exp.commands.doctor.finding import Finding, by_reason
from attrbind_exp.data.dataset import Dataset
from attrbind_exp.data.images import read_image
from attrbind_exp.data.masks import decode_mask
from attrbind_exp.edits import Variant
from attrbind_exp.scoring import metrics
from attrbind_exp.scoring.expressions import ExpressionScores
from attrbind_exp.types import Failure, Sample, SampleError
from attrbind_exp.work import each


def check_images(paths: Iterable[Path], searched: Sequence[Path], mend: str) -> Finding:
    """Is there a file for every image? Only looked for, not opened. `mend` says how to get those that are not there."""
    unique = dict.fromkeys(paths)
    missing = [path for path in each(unique, "looking for", "images") if not path.is_file()]
    if not missing:
        return Finding("ok", "images", f"all {len(unique):,} image files are there")
    names, where = ", ".join(path.name for path in missing[:3]), ", ".join(map(str, searched))
    text = f"{len(missing):,} of {len(unique):,} are missing, first {names}; looked in {where}; {mend}"
    return Finding("MISSING", "images", text)


def check_text(dataset: Dataset) -> Finding:
    """Count the expressions: empty ones, long ones, ids that come twice, and what the reader gave up."""
    samples, failures = dataset.samples, dataset.failures
    seen = f"{len(samples):,} expressions"
    if not samples:
        why = by_reason(failures) if failures else "the split is empty"
        return Finding("MISSING", "text", f"{seen} that can be scored: {why}")
    longest = max(samples, key=lambda s: len(s.text.split()))
    seen += f", longest {len(longest.text.split())} words ({longest.sample_id})"
    empty = sum(not s.text.strip() for s in samples)
    twice = len(samples) - len({s.sample_id for s in samples})
    wrong = [f"{empty} are empty"] * (empty > 0) + [f"{twice} ids come twice"] * (twice > 0)
    if failures:
        wrong.append(f"{len(failures)} cannot be scored: {by_reason(failures)}")
    if wrong:
        return Finding("WARN", "text", f"{seen}; {'; '.join(wrong)}; expected none; mend the annotations")
    return Finding("ok", "text", f"{seen}; none empty, no id twice")


def check_masks(samples: Sequence[Sample], count: int, seed: int) -> Iterator[Finding]:
    """Open images and masks of `count` samples drawn by `seed`, then score their ground truth as the prediction."""
    drawn = np.random.default_rng(seed).choice(len(samples), min(count, len(samples)), replace=False)
    masks, failures = [], []
    for sample in (samples[i] for i in sorted(drawn)):
        try:
            if sample.segmentation is not None:
                masks.append(decode_mask(sample.segmentation, sample.size))
            read_image(sample.image_path, sample.size)  # second, so that masks are scored where images are missing
        except SampleError as error:
            failures.append(Failure(sample.sample_id, error.reason, str(error)))
    if failures:
        text = f"{len(failures)} of {len(drawn)} drawn samples fail: {by_reason(failures)}; get these files again"
        yield Finding("WARN" if len(failures) < len(drawn) else "MISSING", "sample", text)
    else:
        text = f"{len(drawn)} images and {len(masks)} masks drawn by seed {seed}: readable, of the annotated size"
        yield Finding("ok", "sample", f"{text}, no mask empty")
    if masks:
        yield check_metric(masks)


def check_metric(masks: Sequence[np.ndarray]) -> Finding:
    """Score (H, W) bool masks as predictions of themselves; beside it an all-ones mask and the masks' filled boxes."""
    predictions: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "ground truth": np.copy,
        "an all-ones mask": np.ones_like,
        "the bounding box": fill_box,
    }
    words, exact = [], False
    for name, predict in predictions.items():
        pairs = [metrics.count_overlap(predict(mask).astype(np.float32), mask) for mask in masks]
        hit, union = np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])
        scores = ExpressionScores([Variant(name)], seeds=1, threshold=0.5)
        for pair in pairs:
            scores.add(*(counts[None, None] for counts in pair))
        score = scores.figures(0)
        words.append(f"{name} {score.mIoU:.2f} mIoU / {score.oIoU:.2f} oIoU")
        if name == "ground truth":
            # Threshold 0 takes every pixel of any map; every other one must give the truth back.
            exact = np.array_equal(hit[:, 1:], union[:, 1:]) and score.mIoU == score.oIoU == 100
    text = f"scored as the prediction: {', '.join(words)}"
    if exact:
        return Finding("ok", "metric", text)
    return Finding("MISSING", "metric", f"{text}; ground truth must score exactly 100.00: no figure can be trusted")


def fill_box(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: the bounding box of a mask that is not empty, filled."""
    filled = np.zeros_like(mask)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    filled[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return filled
