"""What large runs need: memory that follows what is looked at, not what there is."""

import tracemalloc
import weakref
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from attrbind_exp.config import PACKAGE
from attrbind_exp.data.dataset import Dataset, by_image
from attrbind_exp.data.refer import load_refer
from attrbind_exp.edits import Variant
from attrbind_exp.evaluation import batching, heat
from attrbind_exp.evaluation.batching import load_images, segment, segment_images
from attrbind_exp.evaluation.heat import TOGETHER, HeatMaps
from attrbind_exp.runs.rows import encode_rows, read_rows
from attrbind_exp.tasks.expressions import ExpressionTask
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.tasks.task import Segmented, SegmentedImage
from attrbind_exp.types import HeatMap
from tests.conftest import make_segmenter, make_variant
from tests.test_tasks import SIZE, half, prompt, sample

MANY = RunSettings([Variant(f"v{n}") for n in range(90)], threshold=0.5)
PAIR = RunSettings([Variant("baseline"), make_variant("ours", replace=True, alpha=0.9)], batch_size=4)


def drawn(number):
    return HeatMap(np.random.default_rng(number).random(SIZE, np.float32))


def image_of(heats):
    one = Segmented(
        sample("white", "a"), None, half("left") > 0, prompt("the white star"), heats, [[n] for n in range(90)]
    )
    return SegmentedImage("7", [one], [])


@pytest.mark.parametrize("ahead", [0, 20, 200])
def test_of_ninety_variants_a_few_heat_maps_are_alive_at_once(ahead):
    alive, most = weakref.WeakSet(), []

    class Watched(HeatMap):
        __hash__ = object.__hash__

    def start(part):
        made = [Watched(drawn(number).values) for number in part]
        alive.update(made)
        most.append(len(alive))
        return lambda: made

    task = ExpressionTask(Dataset("made", [sample("white", "a")], []), MANY)
    heats = HeatMaps(start, 90, ahead).wait()
    rows, failures = task.count(image_of(heats))
    plain, _ = task.count(image_of([drawn(number) for number in range(90)]))
    assert encode_rows(rows) == encode_rows(plain) and not failures
    assert max(most) <= min(90, ahead + 2 * TOGETHER), "the last ones may go only when the next ones are made"
    assert [len(heats), len(list(heats)), len(heats[3:7])] == [90, 90, 4]
    assert np.array_equal(heats[-1].values, drawn(89).values)


@pytest.fixture(scope="module")
def scenes():
    return by_image(load_refer(str(PACKAGE / "assets"), "shapes", "made", "val", limit=9))


def test_a_run_is_the_same_to_the_last_bit_however_much_of_it_is_made_ahead(model, scenes, monkeypatch):
    def found():
        images = list(segment_images(scenes, make_segmenter(model), PAIR))
        task = ExpressionTask(Dataset("shapes", [s for group in scenes.values() for s in group], []), PAIR)
        return b"".join(encode_rows(task.count(image)[0]) for image in images)

    whole = found()
    assert whole.count(b"\n") == 2 * 9
    monkeypatch.setattr(heat, "AHEAD", 0)
    monkeypatch.setattr(heat, "TOGETHER", 1)
    monkeypatch.setattr(batching, "EDITED", 2)
    assert found() == whole


def test_embeddings_are_let_go_once_their_pass_is_made(model, scenes):
    segmenter, seen = make_segmenter(model), []

    def watched():
        for image in load_images(scenes, segmenter, PAIR, None):
            seen.append(image)
            yield image

    assert [image.image_id for image in segment(watched(), segmenter, PAIR)] == list(scenes)
    rows = [row for image in seen for row in image.rows]
    assert len(rows) >= 9 and all(not row.embeddings and row.maps for row in rows)


def test_figures_keep_less_than_two_kilobytes_of_an_expression():
    """Eleven variants: 10 thresholds x 11 x 8 bytes, one peak and one ratio each, and the names of the expression."""
    settings = RunSettings(MANY.variants[:11])
    samples = [sample(f"{n}", "a", others=[("b", "star", None)], image=str(n)) for n in range(300)]
    task = ExpressionTask(Dataset("made", samples, []), settings)
    heats = [drawn(number) for number in range(11)]
    one = Segmented(samples[0], None, half("left") > 0, prompt("the star"), heats, [[n] for n in range(11)])
    (rows, _) = task.count(SegmentedImage("0", [one], []))
    lines = encode_rows(rows)

    seen = {"peak": "target", "heat_on": {"a": 0.5, "b": 0.25}}

    def add(some):
        for s in some:
            read = [row for row, _ in read_rows(BytesIO(lines), Path("made"))]
            task.add_rows([replace(row, sample_id=s.sample_id, image_id=s.image_id, **seen) for row in read])

    add(samples[:100])
    tracemalloc.start()
    add(samples[100:])
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept / 200 < 2048
    ratio = task.figures()[3].binding.heat_ratio
    assert (ratio.n, round(ratio.mean, 9)) == (300, 2.0)
