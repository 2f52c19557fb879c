"""REFER's layout and everything that can be wrong with it; pictures of every mode; masks of every form."""

import io
import json
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from attrbind_exp.config import PACKAGE
from attrbind_exp.data.coco import label_scene, load_coco
from attrbind_exp.data.images import read_image, to_rgb
from attrbind_exp.data.masks import decode_mask, encode_mask
from attrbind_exp.data.pickles import read_plain_pickle
from attrbind_exp.data.refer import ImageFinder, load_refer
from attrbind_exp.edits import Variant
from attrbind_exp.scoring.classes import ClassScores, count_classes
from attrbind_exp.scoring.expressions import ExpressionScores
from attrbind_exp.scoring.metrics import count_overlap
from attrbind_exp.types import SampleError, UserError
from tests.conftest import picture, shared


def load(folder, **kwargs):
    given = {"split_by": "made", "split": "test"} | kwargs
    return load_refer(str(folder.parent), folder.name, **given)


def test_every_sentence_is_a_sample(refer_folder):
    data = load(refer_folder)
    assert [s.text for s in data.samples] == [
        "the white star", "star on the left", "a red heart", "the black circle", "circle"
    ]  # fmt: skip
    assert len({s.sample_id for s in data.samples}) == 5
    assert {s.size for s in data.samples} == {(40, 60)}
    assert all(s.image_path.is_file() for s in data.samples)
    assert len(load(refer_folder, limit=2).samples) == 2


def edit(file, change):
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def test_refs_that_cannot_be_used_are_counted(refer_folder):
    def spoil(refs):
        refs[0]["ann_id"] = 99
        refs[1]["image_id"] = 98
        refs[2]["sentences"][0]["sent"] = "  "

    edit(refer_folder / "refs(made).json", spoil)
    data = load(refer_folder)
    assert [f.reason for f in data.failures] == ["annotation_missing"] * 2 + ["image_missing", "empty_expression"]
    assert [s.text for s in data.samples] == ["circle"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"split": "tset"}, "unknown split 'tset' for tiny\\(made\\); choose from test"),
        ({"split_by": "unc"}, "split_by='unc'.*choose from made"),
    ],
)
def test_wrong_choices_are_named(refer_folder, change, words):
    with pytest.raises(UserError, match=words):
        load(refer_folder, **change)


def test_missing_folder_says_what_belongs_there(tmp_path):
    with pytest.raises(UserError, match=r"dataset.root=DIR .*instances.json and refs\(unc\).p"):
        load_refer(str(tmp_path), "refcoco", "unc", "val")


def test_torn_json_is_named(refer_folder):
    file = refer_folder / "instances.json"
    file.write_text(file.read_text()[:-30])
    with pytest.raises(UserError, match="not whole JSON"):
        load(refer_folder)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_pickles_of_plain_data_are_read(refer_folder, protocol):
    twin = refer_folder / "refs(made).json"
    expected = load(refer_folder)
    (refer_folder / "refs(made).p").write_bytes(pickle.dumps(json.loads(twin.read_text()), protocol))
    twin.unlink()
    assert load(refer_folder) == expected


def test_a_pickle_written_by_python_2_is_read(tmp_path):
    file = tmp_path / "two.p"
    file.write_bytes(b"(lp0\n(dp1\nS'sent'\np2\nS'caf\\xc3\\xa9'\np3\nsS'ref_id'\np4\nL7L\nsa.")
    assert read_plain_pickle(file) == [{"sent": "café", "ref_id": 7}]


class Runs:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "payload",
    [
        Runs(os.system, "touch owned"), Runs(eval, "open('owned', 'w')"), Runs(exec, "open('owned', 'w')"),
        Runs(open, "owned", "w"), Runs(os.mkdir, "owned"), Runs(getattr, "", "upper"), Runs(__import__, "os"), np.zeros(3),
        io.BytesIO(b"x"), print,
    ],
    ids=lambda payload: type(payload).__name__,
)  # fmt: skip
def test_pickles_that_build_anything_else_are_refused(tmp_path, monkeypatch, payload):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "refs(unc).p"
    file.write_bytes(pickle.dumps([{"ref_id": 1, "x": payload}]))
    with pytest.raises(UserError, match="refused: it asks for"):
        read_plain_pickle(file)
    assert not (tmp_path / "owned").exists()


def test_a_codec_that_is_not_latin1_is_refused(tmp_path):
    file = tmp_path / "codec.p"
    file.write_bytes(b"c_codecs\nencode\n(Vx\nVrot13\ntR.")
    with pytest.raises(UserError, match="rot13"):
        read_plain_pickle(file)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "YCbCr", "LAB", "HSV", "I", "F", "RGB"])
def test_every_mode_becomes_rgb(mode):
    source = picture(20, 30)
    converted = source.convert("RGBA").convert("LA") if mode == "LA" else source.convert(mode)
    rgb = to_rgb(converted)
    assert (rgb.mode, rgb.size) == ("RGB", (30, 20))
    grey = mode in ("L", "LA", "I", "F")
    if mode not in ("P", "1", "CMYK"):
        expected = np.asarray(source.convert("L").convert("RGB") if grey else source, int)
        assert abs(np.asarray(rgb, int) - expected).mean() < 6


def test_sixteen_bit_greys_are_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    grey = np.asarray(read_image(tmp_path / "deep.png"))[..., 0]
    assert abs(grey.astype(float) - ramp / 257).max() <= 0.51


def test_transparent_pixels_show_white_not_what_hides_there():
    hidden = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert np.asarray(to_rgb(hidden)).tolist() == [[[255] * 3] * 4] * 4


def rotated(path):
    """A 60 x 40 picture whose EXIF says: turn me by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(40, 60).save(path, exif=exif)
    return path


def test_exif_rotation_follows_the_annotation(tmp_path):
    path = rotated(tmp_path / "turned.jpg")
    assert read_image(path).size == (40, 60)
    assert read_image(path, size=(40, 60)).size == (60, 40)
    assert read_image(path, size=(60, 40)).size == (40, 60)
    with pytest.raises(SampleError) as error:
        read_image(path, size=(41, 60))
    assert error.value.reason == "size_mismatch"


def test_unreadable_pictures_have_a_reason(tmp_path):
    whole = tmp_path / "whole.jpg"
    picture(200, 200).save(whole)
    torn, text = tmp_path / "torn.jpg", tmp_path / "text.jpg"
    torn.write_bytes(whole.read_bytes()[:-2000])
    text.write_text("not a picture")
    for path, reason in [
        (tmp_path / "none.jpg", "image_missing"), (torn, "image_unreadable"), (text, "image_unreadable")
    ]:  # fmt: skip
        with pytest.raises(SampleError) as error:
            read_image(path)
        assert error.value.reason == reason and path.name in str(error.value)


def test_masks_of_every_form_agree():
    square = [[2, 3, 8, 3, 8, 7, 2, 7]]
    truth = np.zeros((10, 12), bool)
    truth[3:7, 2:8] = True
    compressed = encode_mask(truth)
    runs = [int(n) for n in np.diff(np.flatnonzero(np.diff(np.concatenate([[2], truth.T.ravel(), [2]]))))]
    first = [] if not truth[0, 0] else [0]
    for form in [square, compressed, {"size": [10, 12], "counts": first + runs}, {"union": [square, compressed]}]:
        assert np.array_equal(decode_mask(form, (10, 12)), truth)


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([], "empty_mask"), ([[1, 1, 2, 2]], "empty_mask"), ([[20, 20, 30, 20, 30, 30, 20, 30]], "empty_mask"),
        ({"size": [10, 12], "counts": [5, 5]}, "mask_malformed"), ("polygon", "mask_malformed"), ({}, "mask_malformed"),
        (encode_mask(np.ones((9, 12), bool)), "mask_size"), ([["a"] * 6], "mask_malformed"),
    ],
)  # fmt: skip
def test_masks_that_cannot_be_scored_have_a_reason(segmentation, reason):
    with pytest.raises(SampleError) as error:
        decode_mask(segmentation, (10, 12))
    assert error.value.reason == reason


def test_images_lie_flat_or_in_the_folders_of_coco(tmp_path):
    name = "COCO_train2014_000000000049.jpg"
    for folder in ("flat", "deep/train2014", "later/train2017"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "flat" / name).touch(), (tmp_path / "deep/train2014" / name).touch()
    (tmp_path / "later/train2017/000000000049.jpg").touch()
    for folder, found in [
        ("flat", f"flat/{name}"),
        ("deep", f"deep/train2014/{name}"),
        ("later", "later/train2017/000000000049.jpg"),
    ]:
        for asked in (name, "COCO_train2014_000000000049_12.jpg"):
            assert ImageFinder([tmp_path / folder]).find(asked) == tmp_path / found
    assert ImageFinder([tmp_path / "flat"]).find("other_1.jpg") == tmp_path / "flat/other_1.jpg"


def test_refs_to_no_object_to_several_and_twice(refer_folder):
    def spoil(refs):
        refs[0]["ann_id"] = -1
        refs[1]["ann_id"] = [1, 2]
        refs.append(refs[2])

    edit(refer_folder / "refs(made).json", spoil)
    data = load(refer_folder)
    assert [f.reason for f in data.failures] == ["no_target"] * 2 + ["duplicate_id"] * 2
    assert len(data.samples[0].segmentation["union"]) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["images"].append(d["images"][0] | {"width": 61}), "two different images have the id 1"),
        (lambda d: d["annotations"][0].pop("segmentation"), "entry 1 of annotations has no segmentation"),
        (lambda d: d.pop("categories"), "it needs the lists images, annotations, categories"),
    ],
)
def test_annotation_files_of_another_form_are_refused(refer_folder, change, words):
    edit(refer_folder / "instances.json", change)
    with pytest.raises(UserError, match=words):
        load(refer_folder)


def test_slices_are_added_where_the_data_brings_none(refer_folder):
    def areas(data):
        for annotation, area in zip(data["annotations"], (1023, 1024, 9216), strict=True):
            annotation["area"] = area

    edit(refer_folder / "instances.json", areas)
    data = load(refer_folder)
    assert [tuple(s.slices.values()) for s in data.samples] == [
        ("distractor", "small"), ("distractor", "small"), ("distractor", "medium"), ("alone", "large"), ("alone", "large")
    ]  # fmt: skip
    assert not data.described and load_refer(str(PACKAGE / "assets"), "shapes", "made", "val").described


def test_a_fraction_is_drawn_by_image_and_grows():
    whole, half, tenth = (load_shapes(fraction=f) for f in (None, 0.5, 0.1))
    ids = [{s.sample_id for s in d.samples} for d in (tenth, half, whole)]
    assert ids[0] < ids[1] < ids[2]
    assert 0.4 < len(ids[1]) / len(ids[2]) < 0.6
    images = {s.image_id for s in half.samples}
    assert all(s.image_id not in images or s.sample_id in ids[1] for s in whole.samples)


def load_shapes(**kwargs):
    return load_refer(str(PACKAGE / "assets"), "shapes", "made", "test", **kwargs)


def masks_that_need_no_model(samples):
    """Per sample: ground truth, everything, and the box around the truth, as heat maps."""
    for sample in samples:
        truth = decode_mask(sample.segmentation, sample.size)
        rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
        boxed = np.zeros_like(truth)
        boxed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        yield truth, {"truth": truth, "ones": np.ones_like(truth), "box": boxed}


def score_masks(samples, name):
    scores = ExpressionScores([Variant(name)], seeds=1)
    for truth, masks in masks_that_need_no_model(samples):
        scores.add(*(found[None, None] for found in count_overlap(masks[name].astype(np.float32), truth)))
    return scores.figures(0)


def test_ground_truth_as_prediction_scores_exactly_100(refer_folder):
    for samples in (load_shapes().samples, load(refer_folder).samples):
        perfect = score_masks(samples, "truth")
        assert (perfect.mIoU, perfect.oIoU, set(perfect.mIoU_at.values())) == (100, 100, {100})
    # By hand: a box of 20 x 20 (drawn from 10 to 30) in pictures of 40 x 60.
    assert score_masks(load(refer_folder).samples, "ones").mIoU == pytest.approx(100 * 400 / 2400)
    assert score_masks(load(refer_folder).samples, "box").mIoU == 100
    # A disc of radius r fills pi / 4 of its box.
    discs = [s for s in load_shapes().samples if s.category == "circle" and s.slices["same_shape"] == "alone"]
    assert score_masks(discs, "box").mIoU == pytest.approx(100 * np.pi / 4, abs=6)


def test_ground_truth_of_the_real_sample_scores_exactly_100():
    root = shared("real_sample")
    perfect = score_masks(load_refer(str(root), "refwritten", "here", "test").samples, "truth")
    assert (perfect.mIoU, perfect.oIoU, perfect.n) == (100, 100, 120)
    scenes = load_coco(
        str(root), "all", annotations=f"{root}/refwritten/instances.json", images=f"{root}/images/mscoco/images/train2014"
    )  # fmt: skip
    assert len(scenes.classes) == 81 and len(scenes.scenes) == 17
    scores = ClassScores(1, 1, scenes.classes)
    for scene in scenes.scenes.values():
        truth = label_scene(scene)
        labels = {r.label for r in scene.regions if not r.crowd}
        scores.add([[count_classes({c: (truth == c).astype(np.float32) for c in labels}, truth)]])
    assert (scores.mean_iou(0)[0, 1:] == 100).all()


def test_real_sample_is_read_whole():
    root = shared("real_sample")
    data = load_refer(str(root), "refwritten", "here", "test")
    assert (len(data.samples), len(data.failures)) == (120, 0)
    for sample in data.samples:
        image = read_image(sample.image_path, sample.size)
        assert decode_mask(sample.segmentation, sample.size).shape == (image.height, image.width)
