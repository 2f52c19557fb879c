"""Counting on a device against counting on the host: the same numbers. The device is the CPU's own torch here; what is
counted where, and how few passes are made, in the loop."""

from contextlib import contextmanager
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from attrbind_exp.backbones import tensors
from attrbind_exp.config import PACKAGE
from attrbind_exp.data.coco import load_coco
from attrbind_exp.data.dataset import by_image
from attrbind_exp.data.refer import load_refer
from attrbind_exp.edits import Averaging, NounChunk, TextBlind, Variant, chain
from attrbind_exp.evaluation import heat
from attrbind_exp.evaluation.batching import segment_images
from attrbind_exp.evaluation.loop import count_image
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.runs.rows import encode_rows
from attrbind_exp.scoring import metrics, on_device
from attrbind_exp.scoring.classes import count_classes
from attrbind_exp.scoring.counting import count_maps, is_finite
from attrbind_exp.tasks.choose import choose_task
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.types import IGNORED
from tests.conftest import make_segmenter

SIZE = (31, 47)
VARIANTS = [
    Variant("baseline"),
    Variant("ours", (NounChunk(), Averaging(0.9)), 0.9),
    Variant("text_blind", (TextBlind(),)),
]
NAMES = ("classes", "truth", "predicted", "hit")


def hard_heats():
    """Heat maps (M, H, W): drawn; thresholds and their neighbours alone; many peaks; nothing; all of it."""
    rng = np.random.default_rng(0)
    near = [metrics.THRESHOLDS, np.nextafter(metrics.THRESHOLDS, 0), np.nextafter(metrics.THRESHOLDS, 2).clip(0, 1)]
    edges = rng.choice(np.concatenate(near).astype(np.float32), SIZE)
    drawn = rng.random((2, *SIZE), np.float32)
    return np.stack([*drawn, edges, drawn[0].round(1), np.zeros(SIZE, np.float32), np.ones(SIZE, np.float32)])


def hard_masks():
    rng = np.random.default_rng(1)
    corner = np.zeros(SIZE, bool)
    corner[-1, -1] = True
    strided = (rng.random(SIZE[::-1]) < 0.3).T  # not contiguous
    return [rng.random(SIZE) < 0.2, strided, corner, np.zeros(SIZE, bool), np.ones(SIZE, bool)]


@pytest.mark.parametrize("pieces", [None, 1000])
def test_a_device_counts_what_the_host_counts(monkeypatch, pieces):
    if pieces:  # more pixels than float32 can count go piece by piece
        monkeypatch.setattr(on_device, "EXACT", pieces)
    heats, masks = hard_heats(), hard_masks()
    wide = torch.from_numpy(np.repeat(heats, 2, axis=2))[:, :, ::2]
    assert not wide.is_contiguous()
    for first in range(len(masks)):  # each of them as the target
        turned = masks[first:] + masks[:first]
        host = count_maps(heats, turned)
        for given in (torch.from_numpy(heats), wide):
            for mine, theirs in zip(count_maps(given, turned), host, strict=True):
                assert mine.intersection.dtype == mine.union.dtype == np.int64
                assert np.array_equal(mine.intersection, theirs.intersection)
                assert np.array_equal(mine.union, theirs.union)
                assert mine.under.tolist() == theirs.under.tolist()
                np.testing.assert_allclose(mine.means, theirs.means, rtol=0, atol=1e-6)


def test_both_count_what_is_counted_one_threshold_at_a_time():
    heats, masks = hard_heats(), hard_masks()
    for given in (heats, torch.from_numpy(heats)):
        for heat_map, found in zip(heats, count_maps(given, masks), strict=True):
            passed = heat_map[None] >= metrics.THRESHOLDS[:, None, None]
            assert np.array_equal(found.intersection, (passed & masks[0]).sum((1, 2)))
            assert np.array_equal(found.union, (passed | masks[0]).sum((1, 2)))
            row, column = np.argwhere(heat_map == heat_map.max())[0]
            assert found.under.tolist() == [mask[row, column] for mask in masks]
            assert found.means[4] == pytest.approx(heat_map.mean(dtype=float), abs=1e-6) and np.isnan(found.means[3])


def test_levels_of_a_device_are_those_of_a_search():
    values = hard_heats()[2].ravel()
    wanted = np.searchsorted(metrics.THRESHOLDS, values, side="right") - 1
    assert on_device.find_level(torch.from_numpy(values)).tolist() == wanted.tolist()


def test_a_map_that_is_not_finite_has_no_counts_and_spoils_no_other():
    heats, masks = hard_heats(), hard_masks()
    plain = count_maps(heats, masks)
    for value, given in product((np.nan, np.inf, -np.inf), (np.asarray, torch.from_numpy)):
        spoilt = heats.copy()
        spoilt[1, 3, 4] = value
        found = count_maps(given(spoilt), masks)
        assert found[1] is None and np.array_equal(found[2].union, plain[2].union)
        assert not is_finite(given(spoilt)) and is_finite(given(heats))
    for given in (heats, torch.from_numpy(heats)):
        with pytest.raises(ValueError, match=r"\(31, 47\).*\(47, 31\)"):
            count_maps(given, [masks[0].T])


def test_classes_are_counted_alike_where_they_tie_and_where_pixels_are_ignored():
    heats, rng = hard_heats(), np.random.default_rng(2)
    truth = rng.integers(0, 6, SIZE).astype(np.uint8)
    truth[rng.random(SIZE) < 0.2] = IGNORED
    for labels, real in product(([1], [3, 2], [7, 1, 4, 2], []), (truth, np.full(SIZE, IGNORED, np.uint8))):
        # Rounded to tenths, so that the first of several classes must win.
        of = {label: heats[i].round(1) for i, label in enumerate(labels)}
        host, device = (count_classes(x, real) for x in (of, {k: torch.from_numpy(v) for k, v in of.items()}))
        for name in NAMES:
            assert np.array_equal(getattr(host, name), getattr(device, name)), (labels, name)
            assert getattr(device, name).dtype == np.int64


def shapes():
    """The first twenty images of the bundled benchmark."""
    return first_images(load_refer(str(PACKAGE / "assets"), "shapes", "made", "val"), 20)


def first_images(dataset, count):
    names = list(by_image(dataset))[:count]
    samples = [s for s in dataset.samples if s.image_id in names]
    return replace(dataset, samples=samples, scenes={k: v for k, v in dataset.scenes.items() if k in names})


def rows_of(model, dataset, **settings):
    """All rows of a dataset, and how many rows of passes they took."""
    given, passes = RunSettings(VARIANTS, batch_size=16, **settings), []
    segmenter, task, images = make_segmenter(model), choose_task(dataset, given), by_image(dataset)
    complete = segmenter.complete
    segmenter.complete = lambda *a: passes.append(len(a[2])) or complete(*a)
    counted = [count_image(task, given, dataset, images, image) for image in segment_images(images, segmenter, given)]
    assert not [failure for image in counted for failure in image.failures]
    return [row for image in counted for row in image.rows], sum(passes)


@pytest.fixture
def counting_there(monkeypatch):
    """The CPU counts as a device does; what comes to the host whole is a fault."""
    monkeypatch.setattr(heat, "counts_there", lambda _: True)
    monkeypatch.setattr(Segmenter, "start_heat_maps", lambda *_: pytest.fail("a whole map came to the host"))


@pytest.fixture(scope="module")
def on_host(model):
    """Rows of both datasets as the CPU counts them, and how many rows of passes they took."""
    return {dataset: rows_of(model, dataset()) for dataset in (shapes, scenes)}


def test_rows_counted_on_a_device_are_those_counted_on_the_host(model, on_host, counting_there):
    host, (there, _) = on_host[shapes][0], rows_of(model, shapes())
    assert len(host) == 3 * len(shapes().samples)
    for mine, theirs in zip(there, host, strict=True):
        assert mine.heat_on == pytest.approx(theirs.heat_on, abs=1.1e-5)  # rounded to five digits both
        assert encode_rows([replaced(mine, theirs)]) == encode_rows([theirs])


def replaced(row, other):
    """The row with the means of another one."""
    return type(row)(**{name: getattr(other if name == "heat_on" else row, name) for name in row.__struct_fields__})


def scenes():
    """Classes looked for in the first six pictures of the bundled benchmark."""
    root = PACKAGE / "assets" / "shapes"
    return load_coco(str(root), "all", annotations=str(root / "instances.json"), images=str(root / "images"), limit=6)


def test_class_counts_of_a_device_are_those_of_the_host(model, on_host, counting_there):
    host, (there, _) = on_host[scenes][0], rows_of(model, scenes())
    assert encode_rows(there) == encode_rows(host) and len(host) == 6 * 3


@pytest.mark.parametrize("asked", [{"save_masks": "npz"}, {"metrics": {"mean": None}}])
def test_whole_maps_come_to_the_host_where_something_asks_for_them(model, monkeypatch, asked):
    monkeypatch.setattr(heat, "counts_there", lambda _: True)
    images = by_image(first_images(shapes(), 1))
    segmenter = make_segmenter(model)
    (there,) = segment_images(images, segmenter, RunSettings(VARIANTS))
    (host,) = segment_images(images, segmenter, RunSettings(VARIANTS, **asked))
    assert all(item.make is not None for item in there.items) and all(item.make is None for item in host.items)
    for mine, theirs in zip(there.items, host.items, strict=True):  # one that is looked at comes, too
        assert np.array_equal(mine.heats[0].values, theirs.heats[0].values)


@pytest.mark.parametrize("dataset", [shapes, scenes])
def test_equal_rows_of_an_image_are_one_row_of_a_pass_and_change_nothing(model, on_host, monkeypatch, dataset):
    data, (shared, few) = dataset(), on_host[dataset]
    segmenter = make_segmenter(model)
    prompts = segmenter.prepare([s.text for s in data.samples], [s.category for s in data.samples])
    edited = segmenter.edit(prompts, VARIANTS)
    pairs = list(zip([s.image_id for s in data.samples], prompts, edited, strict=True))
    blind = {(image, prompt.read) for image, prompt, _ in pairs}
    others = {(image, prompt, key) for image, prompt, edits in pairs for key in set(edits.index[:2])}
    assert few == len(blind) + len(others) and len(blind) < len(pairs)
    part = first_images(data, 4)
    monkeypatch.setattr(chain, "embedding_key", lambda *_: object())
    apart, many = rows_of(model, part)
    assert many == sum(len(edits.embeddings) for edits in edited[: len(part.samples)])
    assert encode_rows(shared[: len(apart)]) == encode_rows(apart)


def test_what_is_blind_on_one_side_alone_is_not_shared(segmenter):
    prompts = segmenter.prepare(["the white star", "a red heart", "the white star"])
    for where, alike in (("both", True), ("keys", False)):
        edited = segmenter.edit(prompts, [Variant("blind", (TextBlind(where=where),))])
        keys = [e.keys[0] for e in edited]
        assert (keys[0] == keys[1]) is alike and keys[0] == keys[2]
        assert torch.equal(edited[0].embedding(0).keys, edited[1].embedding(0).keys)


def test_counting_beside_the_passes_waits_for_what_is_queued_before_alone(monkeypatch):
    """CUDA's answers faked: a stream of its own, which waits for an event that was recorded when it was asked for."""
    said = []

    class Stream:
        def __init__(self, *_, **given):
            said.append(("stream", given))

        def wait_event(self, event):
            said.append(("wait", event.number))

    class Event:
        number = 0

        def record(self, stream):
            Event.number += 1
            self.number = Event.number
            said.append(("record", stream))

    @contextmanager
    def stream(_):
        said.append("in")
        yield
        said.append("out")

    fakes = {"Stream": Stream, "Event": Event, "stream": stream, "current_stream": lambda _: "passes"}
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    tensors._second_stream.cache_clear()
    first, second = (tensors.beside(torch.device("cuda", 0)) for _ in range(2))
    for enter in (first, second):
        with enter():
            said.append("count")
    tensors._second_stream.cache_clear()
    assert said == [
        *[("record", "passes")] * 2,
        ("stream", {"priority": -1}),
        *(("wait", 1), "in", "count", "out"),
        *(("wait", 2), "in", "count", "out"),
    ]
    with tensors.beside(torch.device("cpu"))():
        pass
