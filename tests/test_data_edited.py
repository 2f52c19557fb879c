"""Data that are edited between two starts of a run, or before it is merged or rescored, are noticed and refused."""

import json
import os
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from attrbind_exp.data.dataset import by_image
from attrbind_exp.data.digests import digest_annotations
from attrbind_exp.data.refer import load_refer
from attrbind_exp.evaluation.unchanged import check_unchanged
from attrbind_exp.runs.rows import read_images
from attrbind_exp.types import Region, Scene, UserError
from tests.conftest import picture
from tests.test_nothing_lost import modelless, run  # noqa: F401

MOVED = [[12, 10, 32, 10, 32, 30, 12, 30]]


def load(folder):
    return load_refer(str(folder.parent), folder.name, "made", "test")


def edit(folder, name, change):
    """Rewrite one of a dataset's files."""
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def annotation(number, **change):
    return lambda folder: edit(folder, "instances.json", lambda x: x["annotations"][number].update(change))


def sentence(**change):
    return lambda folder: edit(folder, "refs(made).json", lambda x: x[0]["sentences"][0].update(change))


def repaint(folder, age=0.0):
    file = folder / "images" / "1.png"
    picture(40, 60, seed=9).save(file)
    os.utime(file, (time.time() - age,) * 2)


def take_out_an_object(folder):
    edit(folder, "instances.json", lambda x: x["annotations"].pop(1))
    edit(folder, "refs(made).json", lambda x: x.pop(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (repaint, r"the picture '.*1\.png' was edited or removed"),
        (lambda folder: repaint(folder, age=10 * 365 * 86400), "the picture .* was edited"),  # as unpacked again
        (lambda folder: (folder / "images" / "1.png").unlink(), "the picture .* was edited or removed"),
        (annotation(0, segmentation=MOVED), "the annotations of image '1' were edited"),
        (annotation(1, segmentation=MOVED), "the annotations of image '1' were edited"),
        (annotation(0, category_id=2), "the annotations of image '1' were edited"),
        (sentence(sent="the black star"), "the annotations of image '1' were edited"),
        (take_out_an_object, "the annotations of image '1' were edited"),
        (lambda folder: edit(folder, "refs(made).json", lambda x: x.pop(2)), "image '2' was taken out of the data"),
    ],
)
def test_what_was_edited_after_it_was_scored_is_refused(tmp_path, modelless, refer_folder, change, message):  # noqa: F811
    edit(refer_folder, "instances.json", lambda x: x["categories"].append({"id": 2, "name": "heart"}))
    run(load(refer_folder), tmp_path / "run")
    before = (tmp_path / "run" / "expressions.jsonl").read_bytes()
    change(refer_folder)
    changed = load(refer_folder)
    with pytest.raises(UserError, match=message) as error:
        list(check_all(changed, tmp_path / "run"))
    assert str(tmp_path / "run") in str(error.value) and "remove the folder and run again" in str(error.value)
    with pytest.raises(UserError):
        run(changed, tmp_path / "run")
    assert (tmp_path / "run" / "expressions.jsonl").read_bytes() == before


def check_all(dataset, folder, since=0.0):
    images = by_image(dataset)
    for image, rows in read_images(folder):
        yield check_unchanged(images, dataset.scenes, image, rows, folder, since)


def test_what_was_touched_or_moved_is_the_same(tmp_path, modelless, refer_folder):  # noqa: F811
    whole = run(load(refer_folder), tmp_path / "run")
    for file in (refer_folder / "images").iterdir():
        os.utime(file)
        shutil.copy(file, tmp_path / "copy.png")
        os.replace(tmp_path / "copy.png", file)
    edit(refer_folder, "instances.json", lambda x: x["images"].reverse())
    assert run(load(refer_folder), tmp_path / "run").task.figures() == whole.task.figures()


def test_pictures_older_than_the_run_are_not_read(tmp_path, modelless, refer_folder, monkeypatch):  # noqa: F811
    run(load(refer_folder), tmp_path / "run")
    hashed = []
    monkeypatch.setattr("attrbind_exp.evaluation.unchanged.digest_file", hashed.append)
    list(check_all(load(refer_folder), tmp_path / "run", since=time.time() + 2 * 3600))
    list(check_all(load(refer_folder), tmp_path / "run", since=None))
    assert not hashed
    with pytest.raises(UserError, match="edited"):  # clocks of machines differ: what is nearly as old is read
        list(check_all(load(refer_folder), tmp_path / "run", since=time.time() + 1800))
    assert [file.name for file in hashed] == ["1.png"]


def test_a_run_remembers_when_it_was_begun(tmp_path, modelless, refer_folder):  # noqa: F811
    run(load(refer_folder), tmp_path / "run")
    begun = (tmp_path / "run" / "begun.txt").read_text()
    assert abs(float(begun) - time.time()) < 60
    (tmp_path / "run" / "begun.txt").write_text("1000\n")
    run(load(refer_folder), tmp_path / "run")
    assert (tmp_path / "run" / "begun.txt").read_text() == "1000\n"
    (tmp_path / "run" / "begun.txt").unlink()  # it cannot be known any more, so everything is read
    run(load(refer_folder), tmp_path / "run")
    assert not (tmp_path / "run" / "begun.txt").exists()
    repaint(refer_folder)
    with pytest.raises(UserError, match="the picture"):
        run(load(refer_folder), tmp_path / "run")


def test_a_mask_drawn_in_a_file_counts_by_its_content(tmp_path, refer_folder):
    drawn = np.zeros((40, 60), np.uint8)
    drawn[10:20] = 255
    Image.fromarray(drawn).save(tmp_path / "mask.png")
    annotation(0, segmentation={"union": [{"png": str(tmp_path / "mask.png")}]})(refer_folder)
    samples = by_image(load(refer_folder))["1"]
    before = digest_annotations(samples)
    Image.fromarray(drawn).save(tmp_path / "mask.png")
    assert digest_annotations(samples) == before
    drawn[20] = 255
    Image.fromarray(drawn).save(tmp_path / "mask.png")
    assert digest_annotations(samples) != before


def test_the_regions_of_a_scene_count():
    scenes = [Scene("1", (4, 4), (Region(1, {"counts": [0, n], "size": [4, 4]}, n),)) for n in (3, 3, 5)]
    one, same, other = (digest_annotations([], scene) for scene in scenes)
    assert one == same != other


def test_shards_and_kept_maps_are_not_mixed_with_other_masks(tmp_path, modelless, refer_folder):  # noqa: F811
    """merge and rescore ask the same; pictures they do not need."""
    run(load(refer_folder), tmp_path / "run")
    shutil.rmtree(refer_folder / "images")
    list(check_all(load(refer_folder), tmp_path / "run", since=None))
    annotation(2, segmentation=MOVED)(refer_folder)
    with pytest.raises(UserError, match="the annotations of image '2' were edited"):
        list(check_all(load(refer_folder), tmp_path / "run", since=None))
