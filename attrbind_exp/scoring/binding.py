"""Where the heat lies among the objects of an image: binding beyond mIoU. Pure.

A distractor is another object of the target's category; what a word like "white" is for is to tell the two apart. Only
objects with a usable mask count as annotated. n expressions, V variants, S noise seeds.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isnan

import numpy as np

from attrbind_exp.scoring.compare import PERCENT, estimates
from attrbind_exp.scoring.counting import MapCounts
from attrbind_exp.scoring.figures import Binding, Estimate
from attrbind_exp.types import Sample

PLACES = ("target", "distractor", "other", "background")
NUMBERS = {place: number for number, place in enumerate(PLACES)}
FLOOR = 0.01  # of a mean heat in a ratio: a map may be nothing on an object


@dataclass(frozen=True)
class Sighting:
    """One heat map among the objects of its image: its `peak`, one of PLACES, and its mean on each object by id."""

    peak: str
    heat_on: Mapping[str, float]


def locate(sample: Sample, names: Sequence[str], counts: MapCounts) -> Sighting:
    """Where a heat map's peak lies, and its mean on every object; `names`: the ids of the objects whose masks it was
    counted under. An object without a mask is left out.

    Where objects overlap, the target comes before distractors and these before others. An object without pixels has no
    mean heat.
    """
    kinds = {o.object_id: "distractor" if o.category == sample.category else "other" for o in sample.others or ()}
    kinds = {sample.object_id: "target"} | kinds
    number = {name: i for i, name in enumerate(names)}
    kinds = {key: kind for key, kind in kinds.items() if key in number}
    under, mean = counts.under.tolist(), counts.means.tolist()
    found = {kind for key, kind in kinds.items() if under[number[key]]}
    peak = next((place for place in PLACES if place in found), "background")
    means = {key: mean[number[key]] for key in kinds}
    return Sighting(peak, {key: round(mean, 5) for key, mean in means.items() if not isnan(mean)})


class BindingScores:
    """What binding figures need of every heat map, in small arrays: where its peak lies, its log ratio of heat on the
    target and on the hottest distractor, and its heat on the objects of swap pairs.

    `samples`: all of the dataset, which say whose objects can stand in a swap pair.
    """

    def __init__(self, samples: Sequence[Sample]):
        self.samples: list[Sample] = []
        self._partners: dict[str, set[str]] = {}
        for a, b in swaps(samples):
            self._partners.setdefault(samples[a].sample_id, set()).add(samples[b].object_id)
            self._partners.setdefault(samples[b].sample_id, set()).add(samples[a].object_id)
        self._shape = (0, 0)  # V, S
        # Flat arrays that grow: a run may have a hundred thousand expressions.
        self._peaks = bytearray()  # (n, V, S) numbers of PLACES
        self._has_distractor = bytearray()  # (n,)
        self._with_ratio = array("q")  # which expressions have a log ratio, (m,)
        self._log_ratios = array("d")  # (m, V)
        self._heats: dict[int, dict[str, np.ndarray]] = {}  # (V, S) by object, of the n-th expression

    def add(self, sample: Sample, sightings: Sequence[Sequence[Sighting]]) -> None:
        """Add one expression: `sightings[variant][seed]`. The objects that they hold are those with a mask."""
        seen = sightings[0][0].heat_on
        rivals = [o.object_id for o in sample.others or () if o.category == sample.category and o.object_id in seen]
        partners = self._partners.get(sample.sample_id, set()) & set(seen)
        own = sample.object_id
        wanted = list({own, *rivals, *partners} & set(seen))
        read = np.array([[[s.heat_on[key] for s in seeds] for seeds in sightings] for key in wanted])  # (keys, V, S)
        heats = dict(zip(wanted, read, strict=True))
        number = len(self.samples)
        if partners and own in heats:
            self._heats[number] = {key: heats[key] for key in (own, *partners)}
        if rivals and own in heats:
            self._with_ratio.append(number)
            self._log_ratios.frombytes(_log_ratio(heats[own], [heats[key] for key in rivals]).tobytes())
        self._has_distractor.append(bool(rivals))
        self._peaks.extend(NUMBERS[s.peak] for seeds in sightings for s in seeds)
        self._shape = (len(sightings), len(sightings[0]))
        self.samples.append(sample)

    def peak_shares(self, variant: int) -> np.ndarray:
        """The share of seeds whose peak lies on each of PLACES, (places, n)."""
        peaks = np.frombuffer(bytes(self._peaks), np.int8).reshape(-1, *self._shape)[:, variant]  # (n, S)
        return np.stack([(peaks == place).mean(-1) for place in range(len(PLACES))])

    def figures(self) -> list[Binding]:
        """The binding figures of every variant, means over seeds, each with its 95 % interval over images."""
        images = np.array([s.image_id for s in self.samples])
        everywhere, rivals = np.arange(len(images)), np.flatnonzero(np.array(self._has_distractor))
        known = np.array(self._with_ratio)
        ratios = np.array(np.asarray(self._log_ratios).reshape(-1, self._shape[0]).T, order="C")  # (V, known)
        shifts, pair_images = self._shifts()
        moved = 100 * (shifts > 0).mean(-1)
        peak, peak_rivals = (self._peak(rows, images[rows]) for rows in (everywhere, rivals))
        heat_ratio = [_exp(e) for e in estimates(ratios, images[known])]
        shares, ratios_moved = estimates(moved, pair_images, PERCENT), estimates(shifts.mean(-1), pair_images)
        found = zip(peak, peak_rivals, heat_ratio, shares, ratios_moved, strict=True)
        return [Binding(*figures) for figures in found]

    def _peak(self, rows: np.ndarray, images: np.ndarray) -> list[dict[str, Estimate]]:
        """By place for every variant: the share in percent of some of the expressions whose peak lies there."""
        variants = range(self._shape[0])
        found = estimates((100 * share[rows] for v in variants for share in self.peak_shares(v)), images, PERCENT)
        width = len(PLACES)
        return [dict(zip(PLACES, found[i : i + width], strict=True)) for i in range(0, len(found), width)]

    def _shifts(self) -> tuple[np.ndarray, list[str]]:
        """How far each swap pair moves the heat the right way, (V, pairs, S), and the pair's image.

        For expressions a, b about objects A, B that is log(heat of a on A / on B) - log(heat of b on A / on B): above 0
        where a has more of its heat on A than b has. A pair counts where both objects have a mask.
        """
        found, images = [], []
        for a, b in swaps(self.samples):
            own, other = self.samples[a].object_id, self.samples[b].object_id
            first, second = self._heats.get(a, {}), self._heats.get(b, {})
            if other in first and own in second:
                found.append(_log(first[own], first[other]) - _log(second[own], second[other]))
                images.append(self.samples[a].image_id)
        return np.stack(found, 1) if found else np.zeros((self._shape[0], 0, self._shape[1])), images


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


def _exp(estimate: Estimate) -> Estimate:
    mean, low, high = (None if x is None else float(np.exp(x)) for x in (estimate.mean, estimate.low, estimate.high))
    return Estimate(mean, low, high, estimate.n)


def _log_ratio(own: np.ndarray, rivals: Sequence[np.ndarray]) -> np.ndarray:
    """log(heat on the target / heat on the hottest distractor) from heats (V, S), mean over seeds (V,)."""
    return np.asarray(_log(own, np.max(rivals, axis=0)).mean(-1))


def _log(heat: np.ndarray, other: np.ndarray) -> np.ndarray:
    """log(heat / other), no heat below FLOOR."""
    return np.asarray(np.log(np.maximum(FLOOR, heat) / np.maximum(FLOOR, other)))
