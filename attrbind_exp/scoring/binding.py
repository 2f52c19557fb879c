"""Where the heat lies among the objects of an image: binding beyond mIoU. Pure.

A distractor is another object of the target's category; what a word like "white" is for is to tell the two apart.
n expressions, S noise seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from attrbind_exp.scoring.compare import paired_difference
from attrbind_exp.types import Sample

PLACES = ("target", "distractor", "other", "background")
FLOOR = 0.01  # of a mean heat in a ratio: a map may be nothing on an object


@dataclass(frozen=True)
class Sighting:
    """One heat map among the objects of its image: its `peak`, one of PLACES, and its mean on each object by id."""

    peak: str
    heat_on: Mapping[str, float]


def locate(heat: np.ndarray, sample: Sample, masks: Mapping[str, np.ndarray]) -> Sighting:
    """Where the highest value of `heat` (H, W) lies; `masks` (H, W) bool of the objects of the image by their ids;
    one without a mask is left out.

    Where objects overlap, the target comes before distractors and these before others. An object without pixels has no
    mean heat.
    """
    kinds = {o.object_id: "distractor" if o.category == sample.category else "other" for o in sample.others or ()}
    kinds = {sample.object_id: "target"} | kinds
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    kinds = {key: kind for key, kind in kinds.items() if key in masks}
    under = {kind for key, kind in kinds.items() if masks[key][row, column]}
    peak = next((place for place in PLACES if place in under), "background")
    return Sighting(peak, {key: round(float(heat[masks[key]].mean()), 5) for key in kinds if masks[key].any()})


def summarize(samples: Sequence[Sample], sightings: Sequence[Sequence[Sighting]]) -> dict[str, Any]:
    """The binding figures of n expressions under S seeds (`sightings[expression][seed]`), means over seeds.

    `peak`: share in percent of expressions whose peak lies on each of PLACES; `peak_rivals`: the same where there is a
    distractor; `heat_ratio`: geometric mean over these of mean heat on target over mean heat on the hottest distractor;
    `swap`: of all pairs of `swaps`, the share in percent in which each expression heats its own object more than the
    other's. Every figure is {"mean", "low", "high", "n"}, its 95 % interval resampled by image.
    """
    images = [s.image_id for s in samples]
    shares = peak_shares(sightings)
    rows = [i for i, s in enumerate(samples) if has_distractor(s)]
    ratios = {i: r for i in rows if (r := _log_ratio(samples[i], sightings[i])) is not None}
    pairs = swaps(samples)
    follows = [100 * _follows(samples, sightings, a, b) for a, b in pairs]
    ratio = estimate(list(ratios.values()), [images[i] for i in ratios])
    return {
        "peak": {place: estimate(100 * shares[place], images) for place in PLACES},
        "peak_rivals": {p: estimate(100 * shares[p][rows], [images[i] for i in rows]) for p in PLACES},
        "heat_ratio": {k: v if k == "n" or v is None else float(np.exp(v)) for k, v in ratio.items()},
        "swap": estimate(follows, [images[a] for a, _ in pairs]),
    }


def peak_shares(sightings: Sequence[Sequence[Sighting]]) -> dict[str, np.ndarray]:
    """For each of PLACES the share of seeds whose peak lies there, (n,)."""
    return {p: np.array([np.mean([s.peak == p for s in seeds]) for seeds in sightings]) for p in PLACES}


def has_distractor(sample: Sample) -> bool:
    """Is another object of the target's category annotated?"""
    return any(o.category == sample.category for o in sample.others or ())


def estimate(values: Sequence[float] | np.ndarray, clusters: Sequence[str]) -> dict[str, Any]:
    """Mean of values (n,) with its 95 % interval, whole clusters resampled; None where there are none."""
    if len(values) == 0:
        return {"mean": None, "low": None, "high": None, "n": 0}
    found = asdict(paired_difference(np.zeros(len(values)), np.asarray(values, float), clusters))
    return {**{k: found[k] for k in ("mean", "low", "high")}, "n": len(values)}


def swaps(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """Pairs of expressions about two objects of one category in one image that differ in one word: "the white star",
    "the black star". Rows of `samples`."""
    groups: dict[tuple[str, str | None, int], list[int]] = {}
    for i, s in enumerate(samples):
        groups.setdefault((s.image_id, s.category, len(s.text.split())), []).append(i)
    found = []
    for group in groups.values():
        for a, b in combinations(group, 2):
            words = zip(samples[a].text.split(), samples[b].text.split(), strict=True)
            if samples[a].object_id != samples[b].object_id and sum(x != y for x, y in words) == 1:
                found.append((a, b))
    return found


def _follows(samples: Sequence[Sample], sightings: Sequence[Sequence[Sighting]], a: int, b: int) -> float:
    """The share of seeds under which both expressions of a pair heat their own object more than the other's."""
    own, other = samples[a].object_id, samples[b].object_id
    both = [
        _heat(x, own) > _heat(x, other) and _heat(y, other) > _heat(y, own)
        for x, y in zip(sightings[a], sightings[b], strict=True)
    ]
    return float(np.mean(both))


def _heat(sighting: Sighting, key: str) -> float:
    return sighting.heat_on.get(key, 0.0)


def _log_ratio(sample: Sample, seeds: Sequence[Sighting]) -> float | None:
    rivals = [o.object_id for o in sample.others or () if o.category == sample.category]
    found = []
    for sighting in seeds:
        heats = [sighting.heat_on[key] for key in rivals if key in sighting.heat_on]
        if heats and sample.object_id in sighting.heat_on:
            found.append(np.log(max(sighting.heat_on[sample.object_id], FLOOR) / max(*heats, FLOOR)))
    return float(np.mean(found)) if found else None
