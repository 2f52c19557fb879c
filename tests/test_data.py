"""REFER's layout and everything that can be wrong with it; pictures of every mode; masks of every form."""

import io
import json
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from attrbind_exp.data.coco import load_coco
from attrbind_exp.data.images import read_image, to_rgb
from attrbind_exp.data.masks import decode_mask, encode_mask
from attrbind_exp.data.pickles import read_plain_pickle
from attrbind_exp.data.refer import load_refer
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
    ids=str,
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


def test_coco_has_one_sample_a_category_and_image(tmp_path):
    (tmp_path / "annotations").mkdir()
    box = [[1, 1, 5, 1, 5, 5, 1, 5]]
    (tmp_path / "annotations" / "instances_val2014.json").write_text(json.dumps({
        "images": [{"id": 7, "file_name": "7.jpg", "height": 20, "width": 20}, {"id": 8, "file_name": "8.jpg", "height": 9, "width": 9}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "segmentation": box},
            {"id": 2, "image_id": 7, "category_id": 18, "segmentation": [[10, 10, 15, 10, 15, 15]]},
            {"id": 3, "image_id": 7, "category_id": 1, "segmentation": box},
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    }))  # fmt: skip
    data = load_coco(str(tmp_path))
    assert [s.text for s in data.samples] == ["person", "dog"]
    dogs = decode_mask(data.samples[1].segmentation, (20, 20))
    assert dogs[3, 3] and dogs[11, 14] and not dogs[8, 8]
    with pytest.raises(UserError, match="splits there now: val2014"):
        load_coco(str(tmp_path), split="val2017")


def test_real_sample_is_read_whole():
    root = shared("real_sample")
    data = load_refer(str(root), "refwritten", "here", "test")
    assert (len(data.samples), len(data.failures)) == (120, 0)
    for sample in data.samples:
        image = read_image(sample.image_path, sample.size)
        assert decode_mask(sample.segmentation, sample.size).shape == (image.height, image.width)
