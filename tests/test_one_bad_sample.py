"""A ref, a picture or a cell that cannot be used is counted by its reason, and the rest is scored."""

import io
import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from attrbind_exp.data import images
from attrbind_exp.data.coco import load_coco
from attrbind_exp.data.folder import load_folder
from attrbind_exp.data.images import read_image
from attrbind_exp.data.refer import load_refer
from attrbind_exp.evaluation import loop
from attrbind_exp.types import SampleError, UserError
from tests.conftest import picture
from tests.test_nothing_lost import run, segment_without_a_model


@pytest.fixture
def modelless(monkeypatch):
    monkeypatch.setattr(loop, "segment_images", segment_without_a_model)


def refer_with(folder, change):
    refs = json.loads((folder / "refs(made).json").read_text())
    change(refs)
    (folder / "refs(made).json").write_text(json.dumps(refs))
    return load_refer(str(folder.parent), folder.name, "made", "test")


def put(number, **change):
    return lambda refs: refs[number].update(change)


def say(number, sentence):
    return lambda refs: refs[number]["sentences"].__setitem__(0, sentence)


# Refs 1 (two sentences), 2 and 3 (two): five in all.
@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        (put(0, ann_id=[[1]]), ["id_malformed"] * 2),
        (put(0, ann_id={"id": 1}), ["id_malformed"] * 2),
        (put(0, ann_id=[1, [2]]), ["id_malformed"] * 2),
        (put(0, ann_id=[1, 99]), ["annotation_missing"] * 2),
        (put(0, ann_id=[1, None]), ["annotation_missing"] * 2),
        (put(0, ann_id=True), ["id_malformed"] * 2),
        (put(1, image_id=[1]), ["id_malformed"]),
        (put(1, image_id={}), ["id_malformed"]),
        (put(1, image_id=None), ["id_malformed"]),
        (put(2, ref_id=[3]), ["id_malformed"] * 2),
        (put(2, ref_id=None), ["id_malformed"] * 2),
        (put(1, sentences=None), ["text_malformed"]),
        (put(1, sentences="a red heart"), ["text_malformed"]),
        (put(1, sentences=7), ["text_malformed"]),
        (put(1, sentences={"sent": "a red heart"}), ["text_malformed"]),
        (say(1, None), ["text_malformed"]),
        (say(1, "a red heart"), ["text_malformed"]),
        (say(1, ["a red heart"]), ["text_malformed"]),
        (say(1, {}), ["id_malformed"]),
        (say(1, {"sent": "a red heart"}), ["id_malformed"]),
        (say(1, {"sent": "a red heart", "sent_id": [2]}), ["id_malformed"]),
        (say(1, {"sent_id": 2}), ["empty_expression"]),
        (say(1, {"sent_id": 2, "sent": None}), ["empty_expression"]),
        (say(1, {"sent_id": 2, "sent": "\n"}), ["empty_expression"]),
        (say(1, {"sent_id": 2, "sent": 7}), ["text_malformed"]),
        (say(1, {"sent_id": 2, "sent": ["a", "heart"]}), ["text_malformed"]),
        (say(1, {"sent_id": 2, "sent": {"raw": "a heart"}}), ["text_malformed"]),
        (put(0, no_target=True), ["no_target"] * 2),
        (put(0, ann_id=[]), ["no_target"] * 2),
        (put(0, ann_id=[-1], category_id=[-1], no_target=True), ["no_target"] * 2),
    ],
)
def test_a_ref_that_cannot_be_used_does_not_stop_the_others(refer_folder, change, reasons):
    data = refer_with(refer_folder, change)
    assert [f.reason for f in data.failures] == reasons
    assert len(data.samples) == 5 - len(reasons)
    assert all(len(f.message) < 200 and "\n" not in f.message for f in data.failures)


@pytest.mark.parametrize("category", [[1], [1, 1], [1, 2], [], None, {}, [[1]], "star"])
def test_a_category_of_any_kind_is_known_or_not(refer_folder, category):
    (sample,) = [
        s for s in refer_with(refer_folder, put(1, category_id=category)).samples if s.sample_id.startswith("2:")
    ]
    assert sample.category == ("star" if category in ([1], [1, 1]) else None)


def test_slices_of_any_kind_are_labels_or_not(refer_folder):
    given = {"pair": "rare", "count": 2, "colours": ["red", "blue"], "deep": {"a": 1}, "mixed": [1], "none": None}
    for slices in (given, None, ["rare"], "rare"):
        change = say(1, {"sent_id": 2, "sent": "a red heart", "slices": slices})
        (sample,) = [s for s in refer_with(refer_folder, change).samples if s.sample_id == "2:2"]
        assert sample.slices == ({"pair": "rare", "count": "2", "colours": ["red", "blue"]} if slices is given else {})


def test_refs_to_several_objects_and_to_none_are_said_in_one_line(refer_folder):
    assert refer_with(refer_folder, put(0, ann_id=[1])).note is None
    data = refer_with(
        refer_folder, lambda refs: (put(0, ann_id=[1, 2])(refs), put(1, no_target=True, ann_id=[-1])(refs))
    )
    assert data.note == (
        "as in gRefCOCO, 1 of 3 refs name several objects (the union of their masks is scored) and 1 name none (counted "
        "as no_target); gRefCOCO's own measures are not made"
    )
    assert len(data.samples) == 4 and len(data.samples[0].segmentation["union"]) == 2


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("annotations", {"id": [1]}, "annotations, entry number 1"),
        ("annotations", {"image_id": [1]}, "annotations, entry number 1"),
        ("annotations", {"category_id": {}}, "annotations, entry number 1"),
        ("images", {"id": [1]}, "images, entry number 1"),
        ("images", {"file_name": None}, "images, entry number 1"),
        ("images", {"file_name": ["1.png"]}, "images, entry number 1"),
    ],
)
def test_an_annotation_that_cannot_be_used_does_not_stop_the_others(refer_folder, kind, change, words):
    file = refer_folder / "instances.json"
    instances = json.loads(file.read_text())
    instances[kind][0] |= change
    file.write_text(json.dumps(instances))
    data = load_refer(str(refer_folder.parent), refer_folder.name, "made", "test")
    assert [f.reason for f in data.failures] == (
        ["annotation_missing"] * 2 if kind == "annotations" else ["image_missing"] * 3
    )
    scenes = load_coco(str(refer_folder), annotations=str(file), images=str(refer_folder / "images"))
    assert (scenes.failures[0].sample_id, scenes.failures[0].reason) == (words, "id_malformed")
    assert len(scenes.scenes) == 2 - (kind == "images")


@pytest.mark.parametrize(
    ("kind", "entry"), [("annotations", None), ("images", [1]), ("categories", {"id": [1], "name": "star"}), ("categories", {"id": 1, "name": 7})]
)  # fmt: skip
def test_an_annotation_file_of_another_form_is_one_line(refer_folder, kind, entry):
    file = refer_folder / "instances.json"
    instances = json.loads(file.read_text())
    instances[kind][0] = entry
    file.write_text(json.dumps(instances))
    with pytest.raises(UserError, match=f"{kind}.*number 1|number 1 of {kind}"):
        load_refer(str(refer_folder.parent), refer_folder.name, "made", "test")


@pytest.mark.parametrize("area", [None, "big", [1], float("nan")])
def test_an_area_that_is_no_number_is_the_same_as_none(refer_folder, area):
    file = refer_folder / "instances.json"
    instances = json.loads(file.read_text())
    instances["annotations"][0]["area"] = area
    file.write_text(json.dumps(instances))
    data = load_refer(str(refer_folder.parent), refer_folder.name, "made", "test")
    assert data.failures == [] and "area" not in data.samples[0].slices


def make_pipe(path):
    os.mkfifo(path)


def make_link(path):
    os.mkfifo(path.with_suffix(".pipe"))
    path.symlink_to(path.with_suffix(".pipe"))


def make_picture(form, **given):
    def save(path):
        picture(40, 60).save(path, form, **given)

    return save


def make_thin(*size):
    return lambda path: Image.new("RGB", size).save(path)


def make_huge(path):
    path.touch()
    os.truncate(path, 2**40)  # of holes


# What lies in place of a picture; PIL reads most of these formats, not all of them safely.
ODD = [
    (make_pipe, "image_unreadable", "pipe"),
    (make_link, "image_unreadable", "pipe"),
    (Path.mkdir, "image_unreadable", "Is a directory"),
    (lambda path: path.symlink_to("/dev/zero"), "image_unreadable", "device"),
    (lambda path: path.symlink_to(path), "image_unreadable", "cannot be decoded"),
    (lambda path: path.symlink_to("nowhere"), "image_missing", "does not exist"),
    (lambda path: path.write_bytes(b""), "image_unreadable", "no picture"),
    (make_huge, "image_unreadable", "bytes, more than"),
    (make_picture("DDS"), "image_unreadable", "it is DDS"),
    (make_picture("JPEG2000"), "image_unreadable", "it is JPEG2000"),
    (make_picture("ICO"), "image_unreadable", "it is ICO"),
    (make_picture("PCX"), "image_unreadable", "it is PCX"),
    (make_picture("SGI"), "image_unreadable", "it is SGI"),
    (make_picture("EPS"), "image_unreadable", "it is EPS"),
    (lambda path: path.write_bytes(b"DDS " + bytes(200)), "image_unreadable", "it is DDS"),
    (lambda path: path.write_bytes(b"8BPS" + bytes(200)), "image_unreadable", "it is PSD"),
    (lambda path: path.write_bytes(b"\0\0\0\x1cftypavif" + bytes(200)), "image_unreadable", "it is AVIF"),
    (lambda path: path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(200)), "image_unreadable", "it is HEIF"),
    (lambda path: path.write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "image_unreadable", "it is SVG"),
    (make_thin(30_000, 1), "image_shape", "(1, 30000) (height, width)"),
    (make_thin(1, 30_000), "image_shape", "(30000, 1) (height, width)"),
    (make_thin(101, 1), "image_shape", "more than 100 times"),
]


@pytest.mark.parametrize(("make", "reason", "words"), ODD)
def test_what_is_no_picture_to_score_is_counted_and_the_rest_is_scored(
    tmp_path, refer_folder, modelless, make, reason, words
):
    path = refer_folder / "images" / "1.png"
    path.unlink()
    make(path)
    data = load_refer(str(refer_folder.parent), refer_folder.name, "made", "test")
    scored = run(data, tmp_path / "run")
    assert [f.reason for f in scored.failures] == [reason] * 3 and scored.task.tally().n_scored == 2
    assert words in scored.failures[0].message and "\n" not in scored.failures[0].message
    (refer_folder / "t.jsonl").write_text(
        "".join(json.dumps({"image": f"images/{n}.png", "expression": "star"}) + "\n" for n in (1, 2))
    )
    own = load_folder(str(refer_folder))
    assert [f.reason for f in own.failures] == [reason] and words in own.failures[0].message
    assert [s.sample_id for s in own.samples] == ["line 2"]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "MPO"])
def test_the_formats_of_data_sets_are_read(tmp_path, form):
    path = tmp_path / "picture.png"  # the name says nothing
    picture(40, 60).save(path, form)
    assert read_image(path, (40, 60)).size == (60, 40)


def test_a_long_thin_picture_is_still_read(tmp_path):
    make_thin(100, 1)(tmp_path / "thin.png")
    assert read_image(tmp_path / "thin.png").size == (100, 1)


@pytest.mark.parametrize("change", [lambda file: file.truncate(500), lambda file: file.write(b"more"), lambda file: (file.seek(0), file.write(b"!"))])  # fmt: skip
def test_a_picture_that_changes_while_it_is_read_is_counted(tmp_path, monkeypatch, change):
    path = tmp_path / "picture.bmp"  # PIL maps it into memory where it can: cut, it would end the process
    picture(400, 600).save(path)
    look = os.fstat
    seen = []

    def fstat(number):
        about = look(number)
        if not seen:
            with path.open("r+b") as file:
                file.seek(0, os.SEEK_END)
                change(file)
            os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns + 1))
        seen.append(number)
        return about

    monkeypatch.setattr(images.os, "fstat", fstat)
    with pytest.raises(SampleError) as error:
        read_image(path)
    assert error.value.reason == "image_changed" and len(seen) == 2


def test_damaged_pictures_are_read_or_counted(tmp_path):
    rng = random.Random(0)
    made = []
    for form in images.FORMATS:
        stream = io.BytesIO()
        picture(40, 60).save(stream, form)
        made.append(stream.getvalue())
    found = Counter()
    for number in range(700):
        damaged = bytearray(made[number % len(made)])
        for _ in range(rng.choice([1, 1, 5, 20])):
            damaged[rng.randrange(min(len(damaged), rng.choice([30, 200, 10**6])))] = rng.randrange(256)
        cut = rng.choice([None, None, rng.randrange(len(damaged))])
        (tmp_path / "picture").write_bytes(damaged[:cut])
        try:
            found[read_image(tmp_path / "picture").mode] += 1
        except SampleError as error:
            found[error.reason] += 1
    assert set(found) <= {"RGB", "image_unreadable", "image_shape"} and found["RGB"] > 50


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"mask": DEEP}, "mask_malformed"),
        ({"mask": '{"a":' * 100_000}, "mask_malformed"),
        ({"expression": ["a", "star"]}, "text_malformed"),
        ({"expression": {"raw": "a star"}}, "text_malformed"),
        ({"expression": True}, "text_malformed"),
        ({"image": ["a.png"]}, "image_missing"),
        ({"image": 7}, "image_missing"),
    ],
)
def test_cells_of_another_kind_are_counted(tmp_path, cells, reason):
    picture(40, 60).save(tmp_path / "a.png")
    good = {"image": "a.png", "expression": "star"}
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (good, good | cells, good)))
    data = load_folder(str(tmp_path))
    assert [s.sample_id for s in data.samples] == ["line 1", "line 3"]
    assert [f.reason for f in data.failures] == [reason] and len(data.failures[0].message) < 300


def test_what_is_nested_without_end_is_one_line(tmp_path, refer_folder):
    (tmp_path / "t.jsonl").write_text(f'{{"image": "a.png", "expression": "star"}}\n{{"image": {DEEP}}}\n')
    with pytest.raises(UserError, match=r"t\.jsonl' line 2: nested too deeply"):
        load_folder(str(tmp_path))
    for name in ("refs(made).json", "instances.json"):
        (refer_folder / name).write_text(DEEP)
        with pytest.raises(UserError, match="nested too deeply"):
            load_refer(str(refer_folder.parent), refer_folder.name, "made", "test")


def test_a_pipe_or_a_folder_in_place_of_a_table_is_named(tmp_path, refer_folder):
    for make, words in ((make_pipe, "is a pipe"), (Path.mkdir, "cannot be read")):
        folder = tmp_path / words
        folder.mkdir()
        make(folder / "t.csv")
        with pytest.raises(UserError, match=words):
            load_folder(str(folder))
    for make in (make_pipe, Path.mkdir):
        (refer_folder / "instances.json").rename(refer_folder / f"before {make.__name__}")
        make(refer_folder / "instances.json")
        with pytest.raises(UserError, match="is no file"):
            load_refer(str(refer_folder.parent), refer_folder.name, "made", "test")


def test_columns_of_many_values_are_no_slices(tmp_path):
    picture(40, 60).save(tmp_path / "a.png")
    rows = [
        {"image": "a.png", "expression": f"star {n}", "twenty": n % 20, "every": n}
        | {f"note {k}": f"{n} of {k}" for k in range(40)}
        | {"late": n if n > 30 else ""}
        for n in range(60)
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for given in ({}, {"limit": 3}):  # over the table, however much of it is scored
        data = load_folder(str(tmp_path), note="mine", **given)
        assert [dict(s.slices) for s in data.samples[:2]] == [{"twenty": "0"}, {"twenty": "1"}]
        assert data.note == (
            "mine; no slices by columns of more than 20 values: every, note 0, note 1, note 2, note 3 and 37 more"
        )
