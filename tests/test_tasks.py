"""What a task makes of heat maps and of rows, against answers made by hand; metrics of one's own; merging in order."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from attrbind_exp.commands.merge import in_order
from attrbind_exp.data.dataset import Dataset
from attrbind_exp.edits import Variant
from attrbind_exp.runs.rows import ExpressionRow, encode_rows, group_by_image, read_images
from attrbind_exp.scoring.figures import Estimate
from attrbind_exp.tasks.choose import choose_task
from attrbind_exp.tasks.classes import ClassTask
from attrbind_exp.tasks.expressions import ExpressionTask
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.tasks.task import Segmented, SegmentedImage
from attrbind_exp.types import HeatMap, Other, Parse, Prompt, Region, Sample, Scene, UserError
from tests.made_runs import expression_row

SIZE = (4, 4)
LEFT, RIGHT = [[0, 0, 2, 0, 2, 4, 0, 4]], [[2, 0, 4, 0, 4, 4, 2, 4]]  # halves of a picture
BROKEN = {"counts": "nonsense", "size": [9, 9]}
BASELINE, OURS = Variant("baseline"), Variant("ours", alpha=0.9)
TWO = RunSettings([BASELINE, OURS], threshold=0.5, seeds=(0, 1))


def half(side):
    heat = np.zeros(SIZE, np.float32)
    heat[:, slice(0, 2) if side == "left" else slice(2, 4)] = 1
    return heat


def prompt(text):
    parse = Parse(text, (0, 3), (0, len(text)), True, modifiers=("colour",))
    return Prompt(f"a photograph of {text}", parse, (1,), (1,), (1,), bind=True, fallbacks=("override",))


def sample(name, own, others=None, image="7", category="star"):
    known = None if others is None else tuple(Other(*o) for o in others)
    text = f"the {name} star"
    return Sample(f"{image}:{name}", image, None, text, category, LEFT, SIZE, {"pair": "rare"}, own, known)


def segmented(one, *sides, index=None, truth="left"):
    """One expression with the heat maps of some sides, the first of them under every variant and seed by default."""
    heats = [HeatMap(half(side)) for side in sides]
    mask = half(truth) > 0 if truth else None
    return Segmented(one, None, mask, prompt(one.text), heats, index or [[0, 0], [0, 0]])


def image(*items, name="7"):
    return SegmentedImage(name, items, [])


def test_the_kind_of_a_dataset_chooses_its_task():
    assert isinstance(choose_task(Dataset("d", [], []), TWO), ExpressionTask)
    scene = Scene("7", SIZE, (Region(1, LEFT, 8.0),))
    task = choose_task(Dataset("d", [], [], scenes={"7": scene}, classes=("background", "star")), TWO)
    assert isinstance(task, ClassTask)


def test_rows_of_an_expression_by_variant_and_seed():
    one = sample("white", "a")
    task = ExpressionTask(Dataset("d", [one], []), TWO)
    rows, failed = task.count(image(segmented(one, "left", "right", index=[[0, 0], [0, 1]])))
    assert not failed
    names = [(r.text_processor, r.alpha, r.seed) for r in rows]
    assert names == [("baseline", None, 0), ("baseline", None, 1), ("ours", 0.9, 0), ("ours", 0.9, 1)]
    assert [r.iou_at["0.50"] for r in rows] == [1, 1, 1, 0]
    first = rows[0]
    assert (first.expression, first.target, first.chunk, first.bound) == (
        "the white star",
        "the",
        "the white star",
        True,
    )
    assert first.slices == {"pair": "rare", "modifier": ["colour"]} and first.fallbacks == ["override"]
    assert (first.intersection[50], first.union[50], first.union[0]) == (8, 8, 16)
    assert first.peak is None and first.heat_on is None
    task.add_rows(rows)
    plain, ours = task.figures()
    assert (plain.mIoU, ours.mIoU, ours.mIoU_by_seed, plain.n) == (100, 50, [100, 0], 1)
    assert ours.oIoU == pytest.approx(100 * 8 / 24)  # 8 and 0 pixels hit of unions 8 and 16
    assert (ours.difference.mean, ours.difference.worse) == (-50, 1) and plain.difference is None
    assert ours.slices["modifier"]["colour"].mIoU == 50 and ours.binding is None
    tally = task.tally()
    assert (tally.n_scored, tally.n_unscored, tally.n_bound, tally.fallbacks) == (1, 0, 1, {"override": 1})


def test_an_expression_without_ground_truth_is_counted_and_has_no_figures():
    one = replace(sample("white", "a"), segmentation=None)
    task = ExpressionTask(Dataset("d", [one], []), TWO)
    rows, _ = task.count(image(segmented(one, "left", truth=None)))
    assert {r.intersection for r in rows} == {r.iou_at for r in rows} == {None}
    task.add_rows(rows)
    assert (task.tally().n_scored, task.tally().n_unscored) == (0, 1)
    assert [(f.mIoU, f.n, f.threshold) for f in task.figures()] == [(None, 0, 0.5)] * 2


def test_figures_of_rows_read_back_know_which_objects_had_a_mask():
    """In the first image the other star has no usable mask: it is no distractor, before and after the disk."""
    broken = [sample("white", "a", [("b", "star", BROKEN)]), sample("pale", "a", [("b", "star", BROKEN)])]
    whole = sample("white", "a", [("b", "star", RIGHT)], image="8")
    task, again = (ExpressionTask(Dataset("d", [*broken, whole], []), TWO) for _ in range(2))
    for made in (image(*(segmented(one, "left") for one in broken)), image(segmented(whole, "right"), name="8")):
        rows, failed = task.count(made)
        assert not failed
        task.add_rows(rows)
        again.add_rows([msgspec.json.decode(line, type=ExpressionRow) for line in encode_rows(rows).splitlines()])
    assert task.figures() == again.figures()
    found = task.figures()[0].binding
    assert found.peak["target"].mean == pytest.approx(200 / 3) and found.peak["target"].n == 3
    assert found.peak_rivals["distractor"] == Estimate(100, None, None, 1)
    assert found.heat_ratio == Estimate(pytest.approx(0.01), *[None] * 2, 1)  # 0 raised to 0.01, over 1


def test_counting_again_under_the_same_heat_maps_changes_nothing():
    one, two = sample("white", "a", [("b", "star", RIGHT)]), sample("pale", "a", [("b", "star", RIGHT)])
    task = ExpressionTask(Dataset("d", [one, two], []), TWO)
    rows, _ = task.count(image(segmented(one, "left"), segmented(two, "right")))
    sides = {one.sample_id: "left", two.sample_id: "right"}
    assert task.recount(rows, lambda s, *_: half(sides[s.sample_id])) == rows
    turned = task.recount(rows, lambda s, *_: half("right"))
    assert [r.iou_at["0.50"] for r in turned] == [0] * 8 and turned[0].slices == rows[0].slices


class Mean:
    """Mean heat where it is right."""

    def measure(self, heat, truth):
        return heat[truth].mean()


class Undefined:
    """Known where the picture's left half is hot."""

    def measure(self, heat, truth):
        return 7.0 if heat[0, 0] else float("nan")


def test_metrics_of_ones_own_stand_beside_the_figures():
    names = ["white", "pale", "red"]
    samples = [sample(name, "a", image=name) for name in names]
    settings = replace(TWO, metrics={"mean heat": Mean(), "odd": Undefined()})
    task = ExpressionTask(Dataset("d", samples, []), settings)
    for one, sides in zip(samples, (("left", "right"), ("left", "left"), ("right", "right")), strict=True):
        rows, _ = task.count(image(segmented(one, *sides, index=[[0, 0], [0, 1]]), name=one.image_id))
        task.add_rows([msgspec.json.decode(line, type=ExpressionRow) for line in encode_rows(rows).splitlines()])
    plain, ours = task.figures()
    assert plain.metrics["mean heat"].mean == pytest.approx(2 / 3) and plain.metrics["mean heat"].n == 3
    assert ours.metrics["mean heat"].mean == pytest.approx((0.5 + 1 + 0) / 3)  # over seeds, then expressions
    assert (plain.metrics["odd"].mean, plain.metrics["odd"].n) == (7, 2)
    assert (ours.metrics["odd"].mean, ours.metrics["odd"].n) == (7, 1)


def test_class_wise_rows_are_counted_and_pooled():
    scenes = {"7": Scene("7", SIZE, (Region(1, LEFT, 8.0),)), "8": Scene("8", SIZE, ())}
    one = sample("white", "", image="7")
    dataset = Dataset("d", [one], [], scenes=scenes, classes=("background", "star"))
    task = ClassTask(dataset, TWO)
    rows, failed = task.count(image(segmented(one, "left", "right", index=[[0, 0], [0, 1]])))
    empty, _ = task.count(image(name="8"))
    assert not failed and len(rows) == len(empty) == 4 and empty[0].looked_for == {}
    assert rows[0].looked_for["star"].fallbacks == ["override"] and rows[0].classes == [0, 1]
    assert task.recount(rows, lambda s, v, seed: half("right" if (v, seed) == (OURS, 1) else "left")) == rows
    task.add_rows(rows)
    task.add_rows(empty)
    plain, ours = task.figures()
    assert plain.mIoU == 100 and plain.n == 2 and plain.slices["class"]["star"].n == 1
    # The second seed calls the wrong half: of the background 16 of 32 pixels are right, of the star none.
    assert ours.mIoU_by_seed == pytest.approx([100, 100 * (16 / 32 + 0) / 2])
    assert ours.difference.worse == 1 and ours.difference.same == 1


def test_rows_of_another_run_are_refused():
    one = sample("white", "a")
    task = ExpressionTask(Dataset("d", [one], []), TWO)
    rows, _ = task.count(image(segmented(one, "left")))
    with pytest.raises(UserError, match=r"'7:white' are 3, not one for each of 2 variants and 2 seeds"):
        task.add_rows(rows[:3])


def rows_of(name):
    return [
        msgspec.structs.replace(expression_row(("baseline", None), f"{name}:{i}", 0.5), image_id=name) for i in (1, 2)
    ]


def write_shard(folder, *names):
    folder.mkdir()
    (folder / "expressions.jsonl").write_bytes(encode_rows(row for name in names for row in rows_of(name)))
    return folder


def test_shards_are_read_image_by_image_in_the_order_of_the_whole(tmp_path):
    shards = [write_shard(tmp_path / "0", "a", "c", "e"), write_shard(tmp_path / "1", "b"), tmp_path / "2"]
    write_shard(shards[2])  # all of its images failed
    found = list(in_order(["a", "b", "c", "d", "e"], shards))
    assert [encode_rows(rows) for rows in found] == [encode_rows(rows_of(name)) for name in "abce"]
    with pytest.raises(UserError, match=f"image 'c' in '{shards[0]}' stand out of order"):
        list(in_order(["c", "e", "a"], shards[:1]))
    with pytest.raises(UserError, match=f"image 'e' in '{shards[0]}' are of no image in the data"):
        list(in_order(["a", "c"], shards[:1]))


def test_a_torn_line_ends_the_rows_and_a_broken_one_is_named(tmp_path):
    folder = write_shard(tmp_path / "0", "a", "b")
    file = folder / "expressions.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    assert [(name, len(rows)) for name, rows in read_images(folder)] == [("a", 2), ("b", 1)]
    file.write_bytes(whole.replace(b'"sample_id":"b:1"', b'"sample_id":7'))
    with pytest.raises(UserError, match=f"'{file}' line 3 is no row .*sample_id"):
        list(read_images(folder))
    with pytest.raises(UserError, match="cannot read the rows of the run at"):
        list(read_images(tmp_path / "nowhere"))


def test_groups_end_where_their_last_row_does():
    rows = [*rows_of("a"), *rows_of("b")]
    assert [
        (name, len(found), end) for name, found, end in group_by_image(zip(rows, (10, 20, 30, 40), strict=True))
    ] == [
        ("a", 2, 20),
        ("b", 2, 40),
    ]


def test_better_worse_same_are_counted_at_the_first_variants_threshold():
    """Best for the baseline is 0.30, for ours 0.75. The first expression has equal maps, whose IoU rises with the
    threshold; the second is worse at 0.30 alone, the third equal there and better above."""
    rising, falling = list(range(101)), list(range(100, -1, -1))
    curves = {"1": (rising, rising), "2": (falling, rising), "3": ([30] * 101, [max(30, t) for t in rising])}
    samples = [sample(name, name, image=name) for name in curves]
    task = ExpressionTask(Dataset("d", samples, []), RunSettings([BASELINE, OURS]))
    for one, pair in zip(samples, curves.values(), strict=True):
        names = (("baseline", None), ("ours", 0.9))
        rows = [
            expression_row(name, one.sample_id, 0.0, image_id=one.image_id, intersection=curve)
            for name, curve in zip(names, pair, strict=True)
        ]
        task.add_rows(rows)
    base, ours = task.figures()
    assert (base.threshold, ours.threshold) == (0.3, 0.75)
    # At their own thresholds: 30, 70, 30 against 75, 75, 75.
    assert ours.difference.mean == pytest.approx(95 / 3) and ours.mIoU - base.mIoU == pytest.approx(95 / 3)
    assert (ours.difference.better, ours.difference.worse, ours.difference.same) == (0, 1, 2)
