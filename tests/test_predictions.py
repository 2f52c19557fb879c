"""Predictions of other systems in every form: read as they were meant, or refused with what is wrong."""

import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from attrbind_exp.data.dataset import Dataset
from attrbind_exp.data.masks import encode_mask
from attrbind_exp.data.predictions import digest_predictions, fit_heat, read_mask_picture, read_predictions
from attrbind_exp.evaluation.predicted import match
from attrbind_exp.runs.levels import Levels, encode_levels, file_name
from attrbind_exp.types import Sample, SampleError, UserError

SIZE = (4, 6)
MASK = np.zeros(SIZE, bool)
MASK[1:3, 2:5] = True
POLYGON = [2, 1, 5, 1, 5, 3, 2, 3]
RUNS = {"size": [4, 6], "counts": [9, 2, 2, 2, 2, 2, 5]}  # down the columns


def read(path, name, size=SIZE, variant=None):
    return read_predictions(path, variant).by_id[name](size)


def results(folder, *entries):
    file = folder / "found.json"
    file.write_text(json.dumps(entries))
    return file


@pytest.mark.parametrize("segmentation", [[POLYGON], RUNS, encode_mask(MASK)])
@pytest.mark.parametrize("name", [{"sent_id": 7}, {"sentence_id": "7"}, {"sample_id": "7", "sent_id": 1}])
def test_a_result_is_the_heat_of_its_mask(tmp_path, segmentation, name):
    heat = read(results(tmp_path, {**name, "segmentation": segmentation, "image_id": 3}), "7")
    assert heat.dtype == np.float32 and np.array_equal(heat, MASK)


def test_an_empty_mask_is_a_prediction(tmp_path):
    file = results(
        tmp_path, {"sent_id": 1, "segmentation": []}, {"sent_id": 2, "segmentation": {"size": [4, 6], "counts": [24]}}
    )
    assert read(file, "1").tolist() == read(file, "2").tolist() == np.zeros(SIZE).tolist()


def test_of_several_results_the_one_of_the_highest_score_counts(tmp_path):
    whole = {"size": [4, 6], "counts": [0, 24]}
    of = [{"sent_id": 1, "segmentation": s, "score": score} for s, score in ((RUNS, 0.2), (whole, 0.9), ([], 0.9))]
    assert read(results(tmp_path, *of), "1").all()


@pytest.mark.parametrize(
    ("segmentation", "reason", "said"),
    [
        ({"size": [6, 4], "counts": [24]}, "mask_size", "(6, 4) (height, width), its image (4, 6)"),
        ({"size": [4, 6], "counts": [23]}, "mask_malformed", "add up to 23"), (None, "mask_malformed", "NoneType"),
        ({"png": "/etc/passwd"}, "mask_malformed", "size"), ([["x"] * 6], "mask_malformed", "no number"),
    ],
)  # fmt: skip
def test_results_that_cannot_be_used(tmp_path, segmentation, reason, said):
    with pytest.raises(SampleError) as error:
        read(results(tmp_path, {"sent_id": 1, "segmentation": segmentation}), "1")
    assert error.value.reason == reason and said in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "as JSON"), ("[" * 99999, "as JSON"), ('{"a": 1}', "no list"), ("[1]", "result 1"), ('[{"sent_id": 1}, {"image_id": 2}]', "result 2"),
        ('[{"sent_id": true}]', "sent_id, sentence_id or sample_id"),
    ],
)  # fmt: skip
def test_files_that_are_no_results(tmp_path, text, said):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError) as error:
        read_predictions(tmp_path / "a.json")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_pictures_are_masks_above_the_middle(tmp_path):
    grey = np.array([[0, 127, 128, 255]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "4%3A12.png")
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "x.png")
    found = read_predictions(tmp_path)
    assert found.masks and set(found.by_id) == {"4:12", "x"}
    assert found.by_id["4:12"]((1, 4)).tolist() == [[0, 0, 1, 1]] and found.by_id["x"]((1, 2)).tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("pixels", "mode", "reason", "said"),
    [
        (np.eye(4, 6) * 255, "L", None, ""), (np.zeros(SIZE), "L", None, ""), (np.eye(4, 6), "L", "mask_malformed", "is 1 at most"),
        (np.eye(4, 6), "P", "mask_malformed", "mode P"), (np.eye(6, 4) * 255, "L", "mask_size", "(6, 4) (height, width), its image (4, 6)"),
    ],
)  # fmt: skip
def test_pictures_that_are_no_masks(tmp_path, pixels, mode, reason, said):
    picture = Image.fromarray(pixels.astype(np.uint8))
    if mode == "P":
        picture.putpalette([0, 0, 0, 128, 0, 0])
    picture.save(tmp_path / "1.png")
    if reason is None:
        assert np.array_equal(read_mask_picture(tmp_path / "1.png", SIZE), pixels > 127)
        return
    with pytest.raises(SampleError) as error:
        read_mask_picture(tmp_path / "1.png", SIZE)
    assert error.value.reason == reason and said in str(error.value)


def test_a_torn_picture_and_a_torn_heat_map_are_failures_of_their_own(tmp_path):
    Image.fromarray(np.eye(40, 60, dtype=np.uint8) * 255).save(tmp_path / "1.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:-60])
    with pytest.raises(SampleError, match="cannot be decoded"):
        read_mask_picture(tmp_path / "1.png", (40, 60))
    np.savez(tmp_path / "a.npz", **{"1": np.ones(SIZE), "2": np.zeros(SIZE)})
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[data.index(b"NUMPY") + 150] ^= 1  # in the array of 1
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(SampleError, match="CRC"):
        read(tmp_path / "a.npz", "1")
    assert not read(tmp_path / "a.npz", "2").any()


def test_an_array_for_each_expression_is_resized_between_the_centres_of_its_cells(tmp_path):
    np.savez(tmp_path / "heat.npz", **{"4:12": np.array([[0.0, 1.0]]), "13": np.eye(2, dtype=np.float16)})
    found = read_predictions(tmp_path / "heat.npz")
    assert not found.masks and set(found.by_id) == {"4:12", "13"}
    # Four columns lie at -1/4, 1/4, 3/4, 5/4 of the way from the first cell's centre to the second's.
    assert found.by_id["4:12"]((2, 4)).tolist() == [[0, 0.25, 0.75, 1]] * 2
    assert found.by_id["13"]((2, 2)).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("shape", "size", "fits"),
    [((64, 64), (480, 640), False), ((48, 64), (480, 640), True), ((7, 9), (480, 640), True), ((45, 60), (427, 569), True),
     ((640, 480), (480, 640), False), ((960, 1280), (480, 640), True)],
)  # fmt: skip
def test_heat_is_of_the_pictures_proportions(shape, size, fits):
    if fits:
        assert fit_heat(np.ones(shape), size, "1").shape == size
        return
    with pytest.raises(SampleError) as error:
        fit_heat(np.ones(shape), size, "1")
    assert error.value.reason == "heat_size" and str(shape) in str(error.value) and str(size) in str(error.value)


def test_values_outside_of_0_to_1_end_the_command():
    with pytest.raises(UserError, match=r"of '4:12' runs from -1 to 1; heat is in \[0, 1\]"):
        fit_heat(np.eye(4, 6) * 2 - 1, SIZE, "4:12")
    assert fit_heat(np.full(SIZE, 1 + 1e-6), SIZE, "1").max() == 1  # rounding is none
    for values, reason in (
        (np.full(SIZE, np.nan), "not_finite"),
        (np.ones((1, 4, 6)), "heat_malformed"),
        (np.full(SIZE, "1"), "heat_malformed"),
    ):
        with pytest.raises(SampleError) as error:
            fit_heat(values, SIZE, "1")
        assert error.value.reason == reason


class Trap:
    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


def test_nothing_is_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", **{"1": np.array([Trap()], object)})
    with pytest.raises(SampleError, match="pickle"):
        read(tmp_path / "a.npz", "1")
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Trap()))
    np.save(tmp_path / "c.npy", np.ones(SIZE))
    (tmp_path / "c.npy").rename(tmp_path / "c.npz")
    for name, said in (("b", "pickle"), ("c", "a single array")):
        with pytest.raises(UserError, match=said):
            read_predictions(tmp_path / f"{name}.npz")


def test_paths_that_hold_nothing(tmp_path):
    (tmp_path / "a.txt").touch()
    for path, said in (
        (tmp_path / "none.json", "is not there"),
        (tmp_path / "a.txt", "is of another kind"),
        (tmp_path, "holds neither PNG"),
    ):
        with pytest.raises(UserError, match=said):
            read_predictions(path)
    file = results(tmp_path, {"sent_id": 1, "segmentation": []})
    with pytest.raises(UserError, match="variant=x chooses among"):
        read_predictions(file, "x")


def test_the_folder_of_a_run_names_its_masks(tmp_path):
    """Its own pictures are no masks."""
    for form in ("png", "rle"):
        (tmp_path / "masks" / form).mkdir(parents=True)
        (tmp_path / "masks" / form / "about.json").write_text('{"format": "rle", "masks": []}')
    (tmp_path / "gallery.png").touch()
    for path in (tmp_path, tmp_path / "masks"):
        with pytest.raises(
            UserError, match=r"further down; give predictions='.*/masks/png' or predictions='.*/masks/rle'"
        ):
            read_predictions(path)


def test_of_our_own_heat_the_variant_and_seed_are_chosen_by_name(tmp_path):
    levels = np.stack([np.full(SIZE, n, np.uint8) for n in (0, 30, 57, 100)])
    found = Levels("4:12", levels, np.array([[3, 2], [1, 0]]), None)
    for seeds, name, level in (([5, 6], "ncr seed=6", 0), ([5, 6], "baseline seed=6", 57)):
        (tmp_path / "4%3A12.npz").write_bytes(encode_levels(found, ["baseline", "ncr"], seeds))
        heat = read(tmp_path, "4:12", variant=name)
        assert heat.dtype == np.float32 and (heat == np.float32(level / 100)).all()
    with pytest.raises(
        UserError, match="several variants; give variant=NAME, one of: baseline seed=5, baseline seed=6, ncr"
    ):
        read_predictions(tmp_path)


def sample(name):
    return Sample(name, "1", Path("1.png"), "text", None, None, SIZE)


def test_ids_are_those_of_samples_or_of_sentences_where_they_are_clear(tmp_path):
    long = f"9:{'x' * 200}"
    names = ["1:7", "2:8", "3:8", "4:9", long]
    given = {"1:7": 0, "7": 1, "8": 2, "9": 3, "5": 4, file_name(long).replace("%3A", ":"): 5}
    predictions = SimpleNamespace(by_id=given)
    refer = Dataset("refer", [sample(n) for n in names], [], category_ids={"star": 1})
    found = match(predictions, refer)
    assert found.by_sample == {"1:7": 0, "4:9": 3, long: 5} and found.unknown == ["7", "8", "5"]
    folder = Dataset("folder", [sample(n) for n in names], [])  # there a number is that of a line
    assert match(predictions, folder).by_sample == {"1:7": 0, long: 5}


def test_what_our_own_folder_says_of_itself_is_checked(tmp_path):
    for about in (
        '{"format": "png", "masks": 1}',
        '{"format": "png", "masks": [{"name": "../a"}]}',
        "[]",
        '{"format": "gif"}',
    ):
        (tmp_path / "about.json").write_text(about)
        with pytest.raises(UserError, match="not what save_masks writes"):
            read_predictions(tmp_path)
    (tmp_path / "about.json").write_text(
        '{"format": "png", "masks": [{"name": "a"}], "classes": ["background", "star"]}'
    )
    with pytest.raises(UserError, match="masks of classes"):
        read_predictions(tmp_path)


def test_the_digest_is_of_what_is_predicted(tmp_path):
    file = results(tmp_path, {"sent_id": 1, "segmentation": []})
    one, all_ = digest_predictions(file), digest_predictions(tmp_path)
    (tmp_path / "notes.txt").write_text("no prediction")
    assert digest_predictions(tmp_path) == all_ and len(one) == len(all_) == 12
    results(tmp_path, {"sent_id": 2, "segmentation": []})
    assert digest_predictions(file) != one and digest_predictions(tmp_path) != all_
