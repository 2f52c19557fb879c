"""How often 95 % intervals hold the truth, by how many images there are, on differences that were measured.

    python -m attrbind_exp.run text_processor=binding_study "alpha.value=[0.1,0.9]" dataset.split=test hydra.run.dir=RUN
    python benchmarks/coverage.py RUN [--images 8 12 20] [--repeats 5000]

The images of a finished run are the population; the truth is its mean difference over expressions. Each repeat draws m
of these images with replacement, makes an interval as if they were all there is, and looks whether it holds the truth.
Differences are those of every variant to the first, each at its own threshold: skewed, heavy-tailed, many zeros. Each
stands twice: with the images as they are, and made "uneven", where some lost expressions and others were joined, so that
an image has 1 to 29, as in RefCOCO.

Where RUN is class-wise (dataset=shapes_classes text_processor.gate=false: a bare class name has nothing to bind), what is
built is tried on mIoU over pooled pixels, 1,000 times.

Printed are the lowest, the middle and the highest coverage over all differences, for each method; for the chosen one
that of each difference. The last line is one JSON object.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from scipy import stats

from attrbind_exp.reporting.paper_tables import Run, expression_scores
from attrbind_exp.runs.rows import ImageRow
from attrbind_exp.runs.summary import read_summary
from attrbind_exp.scoring.compare import class_difference
from attrbind_exp.scoring.intervals import FEW, drawn_weights, means_and_errors, width

IMAGES = (8, 12, 20, 30, 50, 100, 200, 300, 1000)
BLOCK = 500  # repeats in memory at once
CHOSEN = "as built"

Population = tuple[np.ndarray, np.ndarray]  # of every image: the sum of its differences, how many expressions it has
Bounds = tuple[np.ndarray, np.ndarray]  # (R,) each
Method = Callable[[np.ndarray, np.ndarray, np.ndarray], Bounds]  # sums (R, m), sizes (R, m), weights (B, m)


def percentile(sums: np.ndarray, sizes: np.ndarray, weights: np.ndarray) -> Bounds:
    """Percentiles of the bootstrap's means."""
    low, high = np.quantile((sums @ weights.T) / (sizes @ weights.T), (0.025, 0.975), axis=1)
    return low, high


def t_robust(sums: np.ndarray, sizes: np.ndarray, weights: np.ndarray) -> Bounds:
    """t with m - 1 degrees of freedom and the robust standard error CR3."""
    means, errors = means_and_errors(sums, sizes)
    half = stats.t.ppf(0.975, sums.shape[1] - 1) * errors
    return means - half, means + half


def wild(sums: np.ndarray, sizes: np.ndarray, weights: np.ndarray) -> Bounds:
    """Wild bootstrap-t: residuals of images times Webb's six numbers; the 95 % quantile of |t|."""
    means = sums.sum(1) / sizes.sum(1)
    six = np.array([-(1.5**0.5), -1, -(0.5**0.5), 0.5**0.5, 1, 1.5**0.5])
    signs = np.random.default_rng(0).choice(six, weights.shape)  # (B, m)
    residuals = sums - means[:, None] * sizes
    sum_of_all = sizes.sum(1, keepdims=True)
    off = residuals @ signs.T / sum_of_all
    crossed, squares = (residuals * sizes) @ signs.T, residuals**2 @ (signs**2).T
    spread = squares - 2 * off * crossed + off**2 * (sizes**2).sum(1, keepdims=True)
    t = np.abs(off) * sum_of_all / np.sqrt(np.maximum(spread, 1e-12))
    half = np.quantile(t, 0.95, axis=1) * np.sqrt((residuals**2).sum(1)) / sum_of_all[:, 0]
    return means - half, means + half


def bca(sums: np.ndarray, sizes: np.ndarray, weights: np.ndarray) -> Bounds:
    """Percentiles moved for bias and skew (BCa)."""
    n, means = sizes.sum(1), sums.sum(1) / sizes.sum(1)
    drawn = np.sort((sums @ weights.T) / (sizes @ weights.T), axis=1)
    below = np.clip((drawn < means[:, None]).mean(1), 1 / drawn.shape[1], 1 - 1 / drawn.shape[1])
    changes = (sums - means[:, None] * sizes) / (n[:, None] - sizes)
    changes -= changes.mean(1, keepdims=True)
    skew = (changes**3).sum(1) / np.maximum(6 * (changes**2).sum(1) ** 1.5, 1e-300)
    bias = stats.norm.ppf(below)

    def bound(z: float) -> np.ndarray:
        share = stats.norm.cdf(bias + (bias + z) / (1 - skew * (bias + z)))
        return np.take_along_axis(drawn, (share * (drawn.shape[1] - 1)).astype(int)[:, None], 1)[:, 0]

    return bound(-1.96), bound(1.96)


def as_built(sums: np.ndarray, sizes: np.ndarray, weights: np.ndarray) -> Bounds:
    """What attrbind_exp.scoring.intervals makes."""
    if weights.shape[1] >= FEW:
        return percentile(sums, sizes, weights)
    means, half = sums.sum(1) / sizes.sum(1), width(sums, sizes, weights)
    return means - half, means + half


METHODS: Mapping[str, Method] = {
    "percentile": percentile,
    "BCa": bca,
    "wild bootstrap-t": wild,
    "t, CR3": t_robust,
    CHOSEN: as_built,
}


def populations(run: Run) -> Iterator[tuple[str, Population]]:
    """Every difference of a run to its first variant, in points of IoU, with images as they are and uneven."""
    scores = expression_scores(run)
    base, *others = (
        scores[scores.label == v.label].set_index("sample_id").assign(iou=lambda s, v=v: 100 * s[f"{v.threshold:.2f}"])
        for v in run.summary.variants
    )
    images = base.groupby("image_id").ngroup().to_numpy()
    groups = [np.flatnonzero(images == i) for i in range(images.max() + 1)]
    for kind, parts in (("", groups), (", uneven", uneven(groups))):
        for other in others:
            change = (other.iou - base.iou).to_numpy()
            sums = np.array([change[part].sum() for part in parts])
            yield other.label.iloc[0] + kind, (sums, np.array([float(len(part)) for part in parts]))


def uneven(groups: Sequence[np.ndarray], seed: int = 0) -> list[np.ndarray]:
    """The expressions of images, of which three in five lose some and the others are joined by up to five."""
    rng = np.random.default_rng(seed)
    left, made = [groups[i] for i in rng.permutation(len(groups))], []
    while left:
        if rng.random() < 0.6:
            whole = left.pop()
            made.append(whole[: rng.integers(1, len(whole) + 1)])
        else:
            several = min(int(rng.choice([1, 2, 3, 5])), len(left))
            made.append(np.concatenate([left.pop() for _ in range(several)]))
    return made


def coverage(population: Population, m: int, repeats: int, methods: Sequence[str], seed: int = 1) -> dict[str, float]:
    """The share of repeats whose interval holds the population's mean, by method."""
    sums, sizes = population
    truth, weights, rng = sums.sum() / sizes.sum(), drawn_weights(m), np.random.default_rng(seed)
    held = dict.fromkeys(methods, 0)
    for start in range(0, repeats, BLOCK):
        drawn = rng.integers(0, len(sums), (min(BLOCK, repeats - start), m))
        for name in methods:
            low, high = METHODS[name](sums[drawn], sizes[drawn], weights)
            held[name] += int(((low <= truth) & (truth <= high)).sum())
    return {name: count / repeats for name, count in held.items()}


def class_populations(run: Run) -> Iterator[tuple[str, Sequence[np.ndarray]]]:
    """Of a class-wise run: intersection and union of every image (n, 2, C), under the first variant and another one."""
    rows = [row for row in run.rows() if isinstance(row, ImageRow)]
    classes = 1 + max(max(row.classes) for row in rows)
    tables = []
    for variant in run.summary.variants:
        mine = [row for row in rows if (row.text_processor, row.alpha) == (variant.text_processor, variant.alpha)]
        at, table = round(100 * (variant.threshold or 0)), np.zeros((len(mine), 2, classes))
        for image, row in zip(table, mine, strict=True):
            hit, predicted = np.array(row.hit)[:, at], np.array(row.predicted)[:, at]
            image[:, list(row.classes)] = hit, np.array(row.truth) + predicted - hit
        tables.append(table)
        if len(tables) > 1:
            yield f"class-wise: {variant.label}", (tables[0], table)


def class_coverage(tables: Sequence[np.ndarray], m: int, repeats: int, seed: int = 1) -> float:
    """The share of repeats whose interval, as built, holds the difference over all images."""
    rng, truth, held = np.random.default_rng(seed), class_difference(*tables, resamples=2).mean, 0
    for drawn in rng.integers(0, len(tables[0]), (repeats, m)):
        found = class_difference(*(table[drawn] for table in tables))
        held += found.low is not None and found.high is not None and found.low <= truth <= found.high
    return held / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, nargs="*", default=IMAGES)
    parser.add_argument("--repeats", type=int, default=5000)
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
    args = parser.parse_args()
    started, run = time.perf_counter(), Run(args.run, read_summary(args.run))
    if run.summary.scored == "images":
        for name, tables in class_populations(run):
            print(f"{name:52}", *(f"{m}: {class_coverage(tables, m, 1000):.3f}" for m in args.images if m < FEW))
        return
    known = dict(populations(run))
    for name, (sums, sizes) in known.items():
        means = sums / sizes
        print(f"{name:40} {len(sums)} images of {sizes.min():.0f} to {sizes.max():.0f}; skew {stats.skew(means):+.1f}")
    print(f"{'images':>6} {'method':18} lowest  middle  highest")
    found: dict[str, dict[int, dict[str, float]]] = {}
    for m in args.images:
        each = {name: coverage(population, m, args.repeats, args.methods) for name, population in known.items()}
        for method in args.methods:
            shares = {name: shares[method] for name, shares in each.items()}
            found.setdefault(method, {})[m] = shares
            low, middle, high = np.quantile(list(shares.values()), (0, 0.5, 1))
            print(f"{m:6} {method:18} {low:6.3f}  {middle:6.3f}  {high:6.3f}", flush=True)
    for name in known if CHOSEN in found else ():
        print(f"{name:40}", *(f"{found[CHOSEN][m][name]:.3f}" for m in args.images))
    print(json.dumps({"repeats": args.repeats, "seconds": time.perf_counter() - started, "coverage": found}))


if __name__ == "__main__":
    main()
