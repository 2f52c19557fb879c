"""Whatever happens to a run or to a sample: it is counted, it is named, and the rest goes on."""

import io
import json
import os
import random
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attrbind_exp.commands import rescore
from attrbind_exp.data import images
from attrbind_exp.data.coco import load_coco
from attrbind_exp.data.folder import load_folder
from attrbind_exp.data.images import read_image
from attrbind_exp.data.masks import decode_mask
from attrbind_exp.data.refer import load_refer
from attrbind_exp.edits import Variant
from attrbind_exp.evaluation import loop
from attrbind_exp.evaluation.loop import score
from attrbind_exp.runs import store as runs_store
from attrbind_exp.runs.store import RunStore
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.tasks.task import Segmented, SegmentedImage
from attrbind_exp.types import Failure, HeatMap, Parse, Prompt, SampleError, UserError
from tests.conftest import make_variant, picture, write_refer
from tests.test_command import command

VARIANTS = [Variant("baseline"), make_variant("ours", replace=True, alpha=0.9)]
SETTINGS = RunSettings(VARIANTS, batch_size=1, seeds=(0, 1))


def segment_without_a_model(samples_of, segmenter, settings, captioner=None, done=0):
    """Every image with heat maps that depend on the sample alone; what cannot be read fails as in a run."""
    for image, samples in list(samples_of.items())[done:]:
        items, failures = [], []
        for sample in samples:
            try:
                photo = read_image(sample.image_path, sample.size)
                truth = decode_mask(sample.segmentation, sample.size)
            except SampleError as error:
                failures.append(Failure(sample.sample_id, error.reason, str(error)))
                continue
            rng = np.random.default_rng([*sample.sample_id.encode()])
            prompt = Prompt(sample.text, Parse(sample.text, (0, 3), (0, 3), False), (1,), (1,), (1,), False)
            heats = [HeatMap(rng.random(sample.size, np.float32)) for _ in range(4)]
            items.append(Segmented(sample, photo, truth, prompt, heats, [[0, 1], [2, 3]]))
        yield SegmentedImage(image, items, failures)


@pytest.fixture
def modelless(monkeypatch):
    monkeypatch.setattr(loop, "segment_images", segment_without_a_model)


@pytest.fixture
def spoilt_data(refer_folder):
    """Three images: of the first one of three expressions fails, and one stands twice; all of the second; none of the
    last."""
    instances, refs = (json.loads((refer_folder / name).read_text()) for name in ("instances.json", "refs(made).json"))
    instances["images"].append({"id": 3, "file_name": "3.png", "height": 40, "width": 60})
    shutil.copy(refer_folder / "images" / "1.png", refer_folder / "images" / "3.png")
    (refer_folder / "images" / "2.png").unlink()
    instances["annotations"][1]["segmentation"] = []
    instances["annotations"].append(instances["annotations"][0] | {"id": 4, "image_id": 3})
    sentences = [{"sent_id": 9, "sent": "a star"}, {"sent_id": 10, "sent": "the star"}]
    refs.append(refs[0] | {"ref_id": 4, "ann_id": 4, "image_id": 3, "sentences": sentences})
    write_refer(refer_folder, instances, [*refs, refs[0]])
    return load_refer(str(refer_folder.parent), refer_folder.name, "made", "test")


REASONS = ["duplicate_id"] * 2 + ["empty_mask"] + ["image_missing"] * 2


def left(folder):
    """What a run leaves: its rows, and its failures in any order."""
    return (folder / "expressions.jsonl").read_bytes(), sorted((folder / "failures.jsonl").read_text().splitlines())


def run(dataset, folder, settings=SETTINGS):
    with RunStore(folder, "key") as store:
        return score(dataset, None, settings, store)


def told(scored):
    return scored.task.figures(), scored.task.tally(), sorted(map(str, scored.failures))


def stop_after(lines, dataset, folder):
    """Start a run and stop it before the n-th line of code of its store; False where it ended before."""
    left_over = lines

    def trace(frame, event, argument):
        nonlocal left_over
        if not frame.f_code.co_filename.endswith(("runs/store.py", "evaluation/resume.py")):
            return None
        if event == "line":
            left_over -= 1
            if left_over == 0:
                raise KeyboardInterrupt
        return trace

    store = None
    sys.settrace(trace)
    try:
        store = RunStore(folder, "key")
        score(dataset, None, SETTINGS, store)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
        if store:
            store.close()
    return False


def test_a_stop_at_any_line_of_the_store_loses_no_failure(tmp_path, modelless, spoilt_data):
    whole = told(run(spoilt_data, tmp_path / "whole"))
    assert sorted(json.loads(line)["reason"] for line in left(tmp_path / "whole")[1]) == REASONS
    first = tmp_path / "first"
    with RunStore(first, "key") as store:  # an earlier start that was cut after the last image
        score(spoilt_data, None, SETTINGS, store)
    stops = 0
    for lines in range(30, 3000, 3):
        folder = tmp_path / str(lines)
        shutil.copytree(first, folder)
        if not stop_after(lines, spoilt_data, folder):
            break
        stops += 1
        if stops % 2:
            stop_after(lines // 2, spoilt_data, folder)  # and once more
        assert told(run(spoilt_data, folder)) == whole, lines
        assert left(folder) == left(tmp_path / "whole"), lines
        shutil.rmtree(folder)
    assert stops > 20


def test_what_an_earlier_start_lost_is_made_again(tmp_path, modelless, spoilt_data):
    """Failures that were forgotten, rows that were cut out: the images that they are of are done again."""
    whole = told(run(spoilt_data, tmp_path / "whole"))
    for spoil in ("failures", "rows"):
        folder = tmp_path / spoil
        shutil.copytree(tmp_path / "whole", folder)
        if spoil == "failures":
            (folder / "failures.jsonl").write_text("")
        else:
            lines = (folder / "expressions.jsonl").read_bytes().splitlines(keepends=True)
            (folder / "expressions.jsonl").write_bytes(b"".join(lines[4:]))  # one expression of the first image
        assert told(run(spoilt_data, folder)) == whole
        assert left(folder) == left(tmp_path / "whole")


def test_seconds_add_up_over_the_parts_of_a_run(tmp_path, modelless, spoilt_data, monkeypatch):
    now = iter(range(0, 10_000, 10))
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(now)))
    assert run(spoilt_data, tmp_path / "run").seconds == 40.0  # three images and the end, 10 s each
    assert (tmp_path / "run" / "seconds.txt").read_text() == f"{40:020.3f}\n"
    assert run(spoilt_data, tmp_path / "run").seconds == 40.0 + 20.0  # the last image and the end
    (tmp_path / "run" / "seconds.txt").write_text("nan")
    with pytest.raises(UserError, match=r"seconds\.txt' holds no number; remove that file"):
        run(spoilt_data, tmp_path / "run")


def swap(rows, one, other):
    rows[one], rows[other] = rows[other], rows[one]


def edit_row(number, **change):
    def change_row(rows):
        rows[number] = json.dumps(json.loads(rows[number]) | change, separators=(",", ":")).encode() + b"\n"

    return change_row


# Rows of images 1 (two expressions) and 3 (two), under two variants and two seeds.
@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (lambda rows: rows.__setitem__(5, b"\x00" * 40 + b"\n"), "line 6 is no row"),
        (lambda rows: rows.__setitem__(2, rows[2][:50] + b"\n"), "line 3 is no row"),
        (lambda rows: rows.insert(8, b"\n"), "line 9 is no row"),
        (lambda rows: rows.insert(8, b"[" * 100_000 + b"\n"), "line 9 is no row"),
        (lambda rows: rows.insert(8, rows[8]), "line 10 is no row"),
        (lambda rows: rows.pop(1), "line 2 is no row"),
        (lambda rows: swap(rows, 0, 2), "line 1 is no row"),
        (lambda rows: swap(rows, 3, 4), "line 4 is no row"),
        (edit_row(9, sample_id="7:7"), "line 10 is no row"),
        (edit_row(9, image_id="x"), "line 10 is no row"),
        (edit_row(1, text_processor="theirs"), "line 2 is no row"),
        (edit_row(1, alpha=0.5), "line 2 is no row"),
        (edit_row(1, seed=7), "line 2 is no row"),
        (edit_row(1, union="many"), "line 2 is no row"),
        (edit_row(1, union=[1, 2]), "lines 1 to 8 are not what this run writes"),
    ],
)
def test_rows_that_were_spoilt_are_named_and_nothing_is_mixed(tmp_path, modelless, spoilt_data, spoil, where):
    run(spoilt_data, tmp_path)
    file = tmp_path / "expressions.jsonl"
    rows = file.read_bytes().splitlines(keepends=True)
    assert len(rows) == 16
    spoil(rows)
    file.write_bytes(b"".join(rows))
    with pytest.raises(UserError) as error:
        run(spoilt_data, tmp_path)
    message = str(error.value)
    assert str(file) in message and where in message and "remove the folder" in message and "\n" not in message
    assert file.read_bytes() == b"".join(rows)  # nothing was written beside them


@pytest.mark.parametrize("line", [b"\x00\x00\n", b"{}\n", b'{"sample_id": 7}\n', b"[" * 100_000 + b"\n"])
def test_failures_that_were_spoilt_are_named(tmp_path, modelless, spoilt_data, line):
    run(spoilt_data, tmp_path)
    file = tmp_path / "failures.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], line, *lines[1:]]))
    with pytest.raises(UserError, match=r"failures\.jsonl' line 2 is no failure"):
        run(spoilt_data, tmp_path)


def test_a_failure_whose_id_is_no_unicode_is_written(tmp_path):
    for _ in range(2):
        with RunStore(tmp_path, "key") as store:
            store.keep(0, [Failure("half \ud800 a pair", "reason", "message")])
    assert runs_store.read_failures(tmp_path) == [Failure("half ? a pair", "reason", "message")]


def test_a_start_deletes_only_pictures_of_its_own_galleries(tmp_path):
    ours = [f"{name}_{n}.png" for name in ("gallery", "improved", "harmed") for n in ("000", "011", "1000")]
    theirs = [
        "holiday_001.png",
        "gallery_my_001.png",
        "gallery_001.jpg",
        "gallery_01.png",
        "001.png",
        "my_gallery_001.png",
    ]
    folder = tmp_path / "gallery"
    folder.mkdir()
    for name in (*ours, *theirs):
        (folder / name).write_text(name)
    (folder / "harmed_005.png").mkdir()
    RunStore(tmp_path, "key").close()
    assert {f.name for f in folder.iterdir()} == {*theirs, "harmed_005.png"}


SMALL = ("tracker=none", "gallery=0", "changed=0", "dataset.limit=2", "text_processor=baseline")


def everything(folder):
    return {f.relative_to(folder): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_rescoring_replaces_no_other_run(tmp_path):
    kept, other = tmp_path / "kept", tmp_path / "other"
    for folder in (kept, other):
        assert command(*SMALL, "keep_maps=true", f"hydra.run.dir={folder}")[0] == 0
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    before = everything(tmp_path)
    for arguments, out in (((), kept), ((), other), (("threshold=0.5",), other), ((), tmp_path / "sweep")):
        code, _, err = command(str(kept), *arguments, "--out", str(out), module="rescore")
        assert (code, err.count("\n")) == (2, 1)
        assert f"'{out}' holds another run" in err and "give another --out" in err
    assert everything(tmp_path) == before
    again = tmp_path / "again"
    for _ in range(2):  # what the same command made before is made again
        assert command(str(kept), "threshold=0.5", "--out", str(again), module="rescore")[0] == 0
        assert command(str(kept), "threshold=0.5", module="rescore")[0] == 0
    code, _, err = command(str(other), "threshold=0.5", "--out", str(again), module="rescore")
    assert code == 2 and "holds what was rescored from '../kept'" in err


def test_a_rescoring_that_was_stopped_anywhere_goes_on(tmp_path, monkeypatch):
    source, target = tmp_path / "kept", tmp_path / "again"
    assert command(*SMALL, "keep_maps=true", f"hydra.run.dir={source}")[0] == 0
    cfg = rescore.change(rescore.read_config(source), ["threshold=0.5"])
    moments = [(RunStore, "_claim"), (RunStore, "keep"), (RunStore, "add_rows"), (rescore, "finish")]
    for place, name in moments:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, stop)
            with pytest.raises(KeyboardInterrupt):
                rescore.rescore_rows(source, cfg, target)
    rescore.rescore_rows(source, cfg, target)
    assert len((target / "expressions.jsonl").read_bytes().splitlines()) == 2


def stop(*_):
    raise KeyboardInterrupt


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


# What lies in place of a picture; PIL reads most of these formats, not all of them safely.
ODD = [
    (make_pipe, "image_unreadable", "pipe"),
    (make_link, "image_unreadable", "pipe"),
    (Path.mkdir, "image_unreadable", "Is a directory"),
    (lambda path: path.symlink_to("/dev/zero"), "image_unreadable", "device"),
    (lambda path: path.symlink_to(path), "image_unreadable", "cannot be decoded"),
    (lambda path: path.symlink_to("nowhere"), "image_missing", "does not exist"),
    (lambda path: path.write_bytes(b""), "image_unreadable", "no picture"),
    (lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 2**40), "image_unreadable", "bytes, more than"),
    (make_picture("AVIF"), "image_unreadable", "it is AVIF"),
    (make_picture("DDS"), "image_unreadable", "it is DDS"),
    (make_picture("JPEG2000"), "image_unreadable", "it is JPEG2000"),
    (make_picture("ICO"), "image_unreadable", "it is ICO"),
    (make_picture("PCX"), "image_unreadable", "it is PCX"),
    (make_picture("SGI"), "image_unreadable", "it is SGI"),
    (make_picture("EPS"), "image_unreadable", "it is EPS"),
    (lambda path: path.write_bytes(b"DDS " + bytes(200)), "image_unreadable", "it is DDS"),
    (lambda path: path.write_bytes(b"8BPS" + bytes(200)), "image_unreadable", "it is PSD"),
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
