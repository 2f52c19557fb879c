"""Own data: tables of both kinds, masks of every mode, and what can be wrong with them."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from attrbind_exp import config
from attrbind_exp.config import load_dataset
from attrbind_exp.data.folder import load_folder
from attrbind_exp.data.images import read_image
from attrbind_exp.data.masks import decode_mask, encode_mask
from attrbind_exp.edits import Variant
from attrbind_exp.evaluation.loop import score
from attrbind_exp.runs.store import RunStore
from attrbind_exp.scoring import metrics
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.types import SampleError, UserError
from tests.conftest import picture
from tests.test_command import composed

TRUTH = np.zeros((40, 60), bool)
TRUTH[5:20, 10:45] = True


@pytest.fixture
def own(tmp_path):
    """Two pictures, one of them in a subfolder, and a mask."""
    for name in ("a.png", "sub/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(40, 60, len(name)).save(tmp_path / name)
    Image.fromarray(TRUTH).save(tmp_path / "mask.png")
    return tmp_path


def write(folder, rows, name="table.jsonl"):
    """The same rows as JSON lines or as CSV, by the name's ending."""
    with (folder / name).open("w", newline="") as stream:
        if name.endswith(".jsonl"):
            stream.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(stream, list(dict.fromkeys(k for row in rows for k in row)))
            writer.writeheader()
            writer.writerows({k: json.dumps(v) if isinstance(v, dict) else v for k, v in row.items()} for row in rows)


ROWS = [
    {"image": "a.png", "expression": "the white star, left", "mask": "mask.png", "category": "star", "id": "first", "light": "day"},
    {"image": "./sub/b.jpg", "expression": "a red heart", "mask": encode_mask(TRUTH), "light": "night", "shot": 3},
    {"image": "a.png", "expression": " star "},
]  # fmt: skip


@pytest.mark.parametrize("name", ["table.jsonl", "table.csv"])
def test_both_tables_say_the_same(own, name):
    write(own, ROWS, name)
    data = load_folder(str(own), note="mine")
    assert (data.name, data.note, data.failures) == (own.name, "mine", [])
    one, two, three = data.samples
    assert (one.sample_id, one.image_id, one.text, one.category) == ("first", "a.png", "the white star, left", "star")
    assert (one.segmentation, one.size, dict(one.slices)) == (
        {"png": str(own / "mask.png")},
        (40, 60),
        {"light": "day"},
    )
    assert (two.image_id, two.image_path, two.category) == ("sub/b.jpg", own / "sub" / "b.jpg", None)
    assert (two.segmentation, dict(two.slices)) == (encode_mask(TRUTH), {"light": "night", "shot": "3"})
    assert (three.text, three.segmentation, dict(three.slices)) == ("star", None, {})
    assert [s.sample_id for s in data.samples[1:]] == [f"line {n + (name == 'table.csv')}" for n in (2, 3)]
    assert [s.sample_id for s in load_folder(str(own), limit=2).samples] == [one.sample_id, two.sample_id]


def test_ground_truth_fed_back_scores_one_at_every_threshold_above_zero(own):
    write(own, ROWS[:2])
    for sample in load_folder(str(own)).samples:
        truth = decode_mask(sample.segmentation, sample.size)
        assert np.array_equal(truth, TRUTH)
        iou = metrics.iou(*metrics.count_overlap(truth.astype(np.float32), truth))
        assert (iou[1:] == 1).all() and iou[0] == pytest.approx(TRUTH.mean())


def test_a_folder_is_scored_like_any_dataset(own, tmp_path, segmenter):
    write(own, [*ROWS[:2], {"image": "gone.png", "expression": "star", "mask": "mask.png"}])
    data = load_dataset(composed("dataset=folder", f"dataset.root={own}"))
    store = RunStore(tmp_path / "run", "key")
    scored = score(data, segmenter, RunSettings([Variant("baseline")]), store)
    store.close()
    rows = (tmp_path / "run" / "expressions.jsonl").read_text().splitlines()
    assert [json.loads(row)["sample_id"] for row in rows] == ["first", "line 2"] and scored.task.tally().n_scored == 2
    assert [f.reason for f in scored.failures] == ["image_missing"]


def test_a_byte_order_mark_blank_lines_and_spaces_do_no_harm(own):
    (own / "t.csv").write_bytes(b'\xef\xbb\xbfimage, expression\r\n\r\na.png, "star"\r\n')
    assert [s.sample_id for s in load_folder(str(own)).samples] == ["line 3"]
    (own / "t.csv").unlink()
    (own / "t.jsonl").write_bytes(b'\xef\xbb\xbf{"image": "a.png", "expression": "star"}\n\n')
    assert [s.text for s in load_folder(str(own)).samples] == ["star"]


def test_absolute_paths_are_taken_as_they_are(own, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "c.png"
    picture(40, 60).save(elsewhere)
    rows = [{"image": str(p), "expression": "star", "mask": str(own / "mask.png")} for p in (elsewhere, own / "a.png")]
    write(own, rows)
    outer, inner = load_folder(str(own)).samples
    assert (outer.image_path, outer.image_id, inner.image_id) == (elsewhere, elsewhere.as_posix(), "a.png")
    assert decode_mask(outer.segmentation, outer.size).sum() == TRUTH.sum()


@pytest.mark.parametrize(
    ("row", "reason", "words"),
    [
        ({"image": "a.png", "expression": "  "}, "empty_expression", "line 2"),
        ({"image": "a.png", "expression": None}, "empty_expression", "line 2"),
        ({"image": "none.png", "expression": "star"}, "image_missing", "none.png' does not exist"),
        ({"image": "", "expression": "star"}, "image_missing", "no image is named"),
        ({"image": "sub", "expression": "star"}, "image_unreadable", "Is a directory"),
        ({"image": "table.jsonl", "expression": "star"}, "image_unreadable", "cannot be decoded"),
        ({"image": "x" * 300 + ".png", "expression": "star"}, "image_unreadable", "name too long"),
        ({"image": "a.png", "expression": "star", "id": 7}, "duplicate_id", "the id '7'"),
        ({"image": "a.png", "expression": "star", "mask": '{"counts": '}, "mask_malformed", "not whole JSON"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_rows_that_cannot_be_used_are_counted_with_their_line(own, row, reason, words):
    good = {"image": "a.png", "expression": "star"}
    write(own, [good | {"id": 7}, row, good])
    data = load_folder(str(own))
    assert [s.sample_id for s in data.samples] == ["7", "line 3"]
    assert [f.reason for f in data.failures] == [reason]
    assert data.failures[0].message.startswith("table.jsonl, line 2: ") and words in data.failures[0].message


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.jsonl", '{"image": "a.png", "expression": "star"}\n{"image": "a.png", "expr', ["line 2", "not whole JSON"]),
        ("t.jsonl", '["a.png", "star"]', ["line 1", "no JSON object"]),
        ("t.jsonl", '{"image": "a.png", "text": "star"}', ["line 1", "no column 'expression', only image, text"]),
        ("t.csv", "picture,expression\na.png,star", ["line 2", "no column 'image', only picture, expression"]),
        ("t.csv", "image;expression\na.png;star", ["no column 'image', only image;expression"]),
        ("t.csv", "image,expression\na.png,star, left", ["line 2", "1 cells more than columns"]),
        ("t.csv", 'image,expression\na.png,"star', ["line 2", "comma-separated"]),
        ("t.csv", "image,expression\n", ["no rows"]),
        ("t.jsonl", "\n", ["no rows"]),
    ],
)
def test_tables_that_cannot_be_read_are_refused_by_line(own, name, text, words):
    (own / name).write_text(text)
    with pytest.raises(UserError) as error:
        load_folder(str(own))
    assert all(w in str(error.value) for w in [str(own / name), *words]), error.value


def test_other_encodings_are_refused(own):
    (own / "t.csv").write_bytes("image,expression\na.png,caf\xe9".encode("latin-1"))
    with pytest.raises(UserError, match="is not UTF-8"):
        load_folder(str(own))


def test_which_table_is_meant_must_be_clear(own):
    with pytest.raises(UserError, match=r"holds no \*\.jsonl or \*\.csv"):
        load_folder(str(own))
    write(own, ROWS[:1], "one.jsonl")
    write(own, ROWS, "two.csv")
    with pytest.raises(UserError, match=r"holds one\.jsonl, two\.csv; it needs one .* dataset\.file=NAME"):
        load_folder(str(own))
    assert len(load_folder(str(own), file="two.csv").samples) == 3
    for wrong in ("three.csv", "a.png"):
        with pytest.raises(UserError, match=f"dataset.file='{wrong}': .*one.jsonl, two.csv"):
            load_folder(str(own), file=wrong)
    with pytest.raises(UserError, match=r"no folder '.*nowhere'; set dataset\.root=DIR"):
        load_folder(str(own / "nowhere"))


def turned(path, orientation, size=(40, 60)):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(*size).save(path, exif=exif)


@pytest.mark.parametrize(("orientation", "size"), [(1, (40, 60)), (6, (60, 40)), (8, (60, 40))])
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_size_is_that_of_the_picture_as_displayed(own, orientation, size, ending):
    turned(own / f"turned.{ending}", orientation)
    write(own, [{"image": f"turned.{ending}", "expression": "star"}])
    sample = load_folder(str(own)).samples[0]
    shown, upright = read_image(sample.image_path, sample.size), read_image(sample.image_path)
    assert sample.size == size == (shown.height, shown.width)
    assert np.array_equal(np.asarray(shown), np.asarray(upright))


@pytest.mark.parametrize(("orientation", "size"), [(3, (40, 60)), (2, (40, 60)), (6, (50, 50))])
def test_a_turn_that_the_size_does_not_show_is_counted_not_ignored(own, orientation, size):
    turned(own / "turned.jpg", orientation, size)
    write(own, [{"image": "turned.jpg", "expression": "star"}])
    assert [f.reason for f in load_folder(str(own)).failures] == ["image_turned"]


def palette():
    image = Image.fromarray(TRUTH.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 0, 0, 128])
    return image


def transparent():
    pixels = np.full((40, 60, 4), 255, np.uint8)
    pixels[~TRUTH, 3] = 0  # white, but not to be seen
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    "drawn",
    [
        Image.fromarray(TRUTH), Image.fromarray(TRUTH * np.uint8(1)), Image.fromarray(TRUTH * np.uint8(255)), palette(),
        Image.fromarray(TRUTH * np.uint16(1)), Image.fromarray(np.stack([TRUTH * np.uint8(0)] * 2 + [TRUTH * np.uint8(1)], -1)),
        Image.fromarray(TRUTH * np.uint8(200)).convert("RGBA"), Image.fromarray(TRUTH * np.uint8(9)).convert("LA"), transparent(),
    ],
    ids=["1", "L", "L255", "P", "16", "RGB", "RGBA", "LA", "alpha"],
)  # fmt: skip
def test_masks_of_every_mode_agree(tmp_path, drawn):
    drawn.save(tmp_path / "m.png")
    assert np.array_equal(decode_mask({"png": str(tmp_path / "m.png")}, (40, 60)), TRUTH)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("none.png", "mask_missing"), ("small.png", "mask_size"), ("black.png", "empty_mask"), ("mask.jpg", "mask_malformed"),
     ("torn.png", "mask_malformed"), ("x" * 300, "mask_malformed"), (".", "mask_malformed")],
)  # fmt: skip
def test_masks_that_cannot_be_scored_have_a_reason(tmp_path, name, reason):
    drawn = Image.fromarray(TRUTH * np.uint8(255))
    drawn.resize((30, 20)).save(tmp_path / "small.png")
    Image.new("RGB", (60, 40)).save(tmp_path / "black.png")
    drawn.save(tmp_path / "mask.jpg")
    picture(40, 60).save(tmp_path / "torn.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "torn.png").read_bytes()[:600])
    with pytest.raises(SampleError, match="mask '") as error:
        decode_mask({"png": str(tmp_path / name)}, (40, 60))
    assert error.value.reason == reason


def test_a_table_that_was_edited_is_another_configuration(tmp_path):
    """A run may not go on, or be taken for finished, once its table says something else."""
    picture(40, 60).save(tmp_path / "a.png")
    for name, given in (("one.csv", ["dataset.file=one.csv"]), ("one.csv", [])):
        (tmp_path / name).write_text("image,expression\na.png,the white star\n")
        cfg = composed("dataset=folder", f"dataset.root={tmp_path}", *given)
        before = config.config_hash(cfg)
        assert config.config_hash(cfg) == before
        (tmp_path / name).write_text("image,expression\na.png,the black star\n")
        assert config.config_hash(cfg) != before
