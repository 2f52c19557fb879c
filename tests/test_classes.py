"""Class-wise mIoU against an independent confusion matrix; label maps and label files of COCO; masks that need no model."""

import json

import numpy as np
import pytest

from attrbind_exp.data.coco import label_map, label_scene, load_coco
from attrbind_exp.scoring.classes import ClassScores, count_classes, mean_iou
from attrbind_exp.scoring.compare import class_difference
from attrbind_exp.scoring.metrics import THRESHOLDS
from attrbind_exp.types import IGNORED, SampleError, UserError


def scored(counts, classes, threshold=None):
    """The scores of images under one variant and seed."""
    scores = ClassScores(1, 1, range(classes), threshold)
    for image in counts:
        scores.add([[image]])
    return scores


def pool(counts, classes):
    """Pooled intersection and union (C, K)."""
    scores = scored(counts, classes)
    return scores.hit[0, 0], scores.union[0, 0]


def random_scene(rng, classes):
    """A label map with ignored pixels, and heat maps of some classes with values on thresholds and ties among them."""
    size = tuple(rng.integers(5, 40, 2))
    truth = rng.integers(0, classes, size).astype(np.uint8)
    truth[rng.random(size) < 0.1] = IGNORED
    labels = rng.choice(np.arange(1, classes), rng.integers(0, classes), replace=False)
    return {int(c): rng.random(size).astype(np.float32).round(2) for c in labels}, truth


def confusion(heats, truth, threshold, classes):
    """(classes, classes) pixels by truth and prediction, written to be read."""
    stack = np.full((classes, *truth.shape), -1, np.float32)
    for label, heat in heats.items():
        stack[label] = heat
    stack[0] = -0.5  # below every heat map: the background is what the threshold leaves
    prediction = np.where(stack.max(0) >= threshold, stack.argmax(0), 0)
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (truth[truth != IGNORED], prediction[truth != IGNORED]), 1)
    return matrix


def test_class_counts_equal_a_confusion_matrix_at_every_threshold():
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng, 7) for _ in range(12)]
    hit, union = pool([count_classes(*scene) for scene in scenes], 7)
    for row, threshold in enumerate(THRESHOLDS):
        matrix = sum(confusion(*scene, threshold, 7) for scene in scenes)
        right = np.diag(matrix)
        assert np.array_equal(hit[:, row], right)
        assert np.array_equal(union[:, row], matrix.sum(0) + matrix.sum(1) - right)


def test_mean_leaves_out_classes_that_occur_nowhere():
    assert mean_iou(np.array([[1], [0], [0]]), np.array([[2], [4], [0]])) == pytest.approx([0.25])


def test_counts_are_wide_enough_for_the_whole_of_coco():
    """One class of 40,504 images of 640 x 480 overflows 32 bits three times."""
    one = count_classes({1: np.ones((480, 640), np.float32)}, np.ones((480, 640), np.uint8))
    hit, _ = pool([one] * 40_504, 2)
    assert hit[1, 50] == 40_504 * 480 * 640 > 2**33


def test_pictures_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 2\).*\(2, 3\)"):
        count_classes({1: np.ones((2, 2), np.float32)}, np.ones((2, 3), np.uint8))


def test_dense_tables_and_their_difference():
    rng = np.random.default_rng(1)
    scenes = [random_scene(rng, 5) for _ in range(30)]
    counted = [count_classes(*scene) for scene in scenes]
    table = scored(counted, 5).table(0, 40)
    hit, union = pool(counted, 5)
    assert np.array_equal(table.sum(0), [hit[:, 40], union[:, 40]])
    perfect = [count_classes({c: (t == c).astype(np.float32) for c in range(1, 5)}, t) for _, t in scenes]
    d = class_difference(table, scored(perfect, 5).table(0, 40))
    assert d.mean == pytest.approx(100 - 100 * mean_iou(hit, union)[40]) and d.low < d.mean < d.high
    assert d.better == 30
    counted = class_difference(table, scored(perfect, 5).table(0, 40), counted=table)  # equal maps at one threshold
    assert (counted.mean, counted.low, counted.high) == (d.mean, d.low, d.high) and counted.same == 30
    assert class_difference(table, table).high == 0


def box(x0, y0, x1, y1):
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def test_label_map_puts_small_objects_on_top_and_ignores_crowds():
    full, small, crowd = np.ones((4, 4), bool), np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    small[1:3, 1:3] = crowd[:, 3] = True
    for order in ([0, 1, 2], [2, 1, 0]):
        masks = [(5, 16.0, False, full), (2, 4.0, False, small), (5, 4.0, True, crowd)]
        truth = label_map((4, 4), [masks[i] for i in order])
        assert truth.tolist() == [[5, 5, 5, 255], [5, 2, 2, 255], [5, 2, 2, 255], [5, 5, 5, 255]]


@pytest.fixture
def coco_folder(tmp_path):
    """Three images: a person with a tv before it, a crowd, nothing at all."""
    (tmp_path / "annotations").mkdir()
    images = [{"id": i, "file_name": f"COCO_val2014_{i:012d}.jpg", "height": 20, "width": 30} for i in (7, 8, 9)]
    crowd = {"size": [20, 30], "counts": [0, 600]}
    annotations = [
        {"id": 1, "image_id": 7, "category_id": 1, "segmentation": box(0, 0, 20, 20), "area": 400, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 72, "segmentation": box(5, 5, 10, 10), "area": 25, "iscrowd": 0},
        {"id": 3, "image_id": 8, "category_id": 1, "segmentation": crowd, "area": 600, "iscrowd": 1},
        {"id": 4, "image_id": 8, "category_id": 72, "segmentation": [[1, 1, 1, 1, 1, 1]], "area": 0, "iscrowd": 0},
    ]
    categories = [{"id": 72, "name": "tv"}, {"id": 1, "name": "person"}]
    file = tmp_path / "annotations" / "instances_val2014.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return tmp_path


def test_coco_looks_for_the_classes_of_the_image(coco_folder):
    data = load_coco(str(coco_folder))
    assert list(data.classes) == ["background", "person", "tv"]
    assert [(s.image_id, s.text) for s in data.samples] == [("7", "person"), ("7", "tv"), ("8", "tv")]
    assert set(data.scenes) == {"7", "8", "9"} and data.note == "labels: ground truth"
    truth = label_scene(data.scenes["7"])
    assert (truth[2, 2], truth[7, 7], truth[2, 25]) == (1, 2, 0)
    assert (label_scene(data.scenes["8"]) == IGNORED).all() and not label_scene(data.scenes["9"]).any()
    assert [s.text for s in load_coco(str(coco_folder), names="voc").samples][1] == "tvmonitor"
    assert len(load_coco(str(coco_folder), limit=1).scenes) == 1


def test_ground_truth_as_prediction_scores_exactly_100_and_all_ones_as_by_hand(coco_folder):
    data = load_coco(str(coco_folder))
    truths = [label_scene(s) for s in data.scenes.values()]
    perfect = [count_classes({c: (t == c).astype(np.float32) for c in (1, 2)}, t) for t in truths]
    assert (mean_iou(*pool(perfect, 3))[1:] == 1).all()
    # All ones for "person": 375 pixels of 600 in the first image are, none of 600 in the last; the crowd counts nowhere.
    ones = [count_classes({1: np.ones(t.shape, np.float32)}, t) for t in truths]
    hit, union = pool(ones, 3)
    assert (hit[:, 50].tolist(), union[:, 50].tolist()) == ([0, 375, 0], [800, 1200, 25])
    assert mean_iou(hit, union)[50] == pytest.approx((375 / 1200) / 3)


def test_an_annotation_without_its_image_is_counted(coco_folder):
    file = coco_folder / "annotations" / "instances_val2014.json"
    data = json.loads(file.read_text())
    data["annotations"][0]["image_id"] = 99
    file.write_text(json.dumps(data))
    assert [(f.sample_id, f.reason) for f in load_coco(str(coco_folder)).failures] == [
        ("annotation 1", "image_missing")
    ]


def test_an_object_that_cannot_be_read_is_the_failure_of_its_image(coco_folder):
    file = coco_folder / "annotations" / "instances_val2014.json"
    data = json.loads(file.read_text())
    data["annotations"][0]["segmentation"] = {"size": [20, 30], "counts": [1, 2]}
    file.write_text(json.dumps(data))
    with pytest.raises(SampleError) as error:
        label_scene(load_coco(str(coco_folder)).scenes["7"])
    assert error.value.reason == "mask_malformed"


def labels_file(folder, **keys):
    file = folder / "labels.json"
    file.write_text(json.dumps(keys))
    return str(file)


def test_published_label_files_are_read_and_united(coco_folder):
    name = "/data/elsewhere/COCO_val2014_{:012d}.jpg".format
    file = labels_file(
        coco_folder,
        synonym_matching={name(7): ["people"], name(8): [], name(9): []},
        image_similarity={name(7): ["tvmonitor"], name(8): ["monitor", "tv"], name(9): []},
    )
    data = load_coco(str(coco_folder), labels=file, label_keys=["synonym_matching", "image_similarity"])
    assert [(s.image_id, s.category) for s in data.samples] == [("7", "person"), ("7", "tv"), ("8", "tv")]
    assert data.note == "labels: synonym_matching + image_similarity of labels.json" and len(data.scenes) == 3
    alone = load_coco(str(coco_folder), labels=file, label_keys=["synonym_matching"])
    assert [s.category for s in alone.samples] == ["person"]


def test_an_image_without_predicted_labels_is_counted(coco_folder):
    file = labels_file(coco_folder, image_similarity={"COCO_val2014_000000000007.jpg": ["tv"]})
    data = load_coco(str(coco_folder), labels=file, label_keys=["image_similarity"])
    assert [(f.sample_id, f.reason) for f in data.failures] == [("8", "no_labels"), ("9", "no_labels")]
    assert list(data.scenes) == ["7"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": "bad_class"}, "class 'unicorn' of image 'x.jpg' is none of the 2 classes"),
        ({"labels": "bad_class", "label_keys": ["text"]}, "holds 'text'.*has image_similarity; choose"),
        ({"labels": "torn"}, "not whole JSON"), ({"labels": "nowhere.json"}, "does not exist"),
        ({"names": "imagenet"}, "dataset.names='imagenet'; choose from coco, voc"), ({"split": "val2017"}, "splits there now: val2014"),
        ({"fraction": 0}, "dataset.fraction=0; give a number above 0"),
    ],
)  # fmt: skip
def test_wrong_choices_are_named(coco_folder, change, words):
    files = {"bad_class": '{"image_similarity": {"x.jpg": ["unicorn"]}}', "torn": '{"image_similarity": {"x.jp'}
    for name, text in files.items():
        (coco_folder / name).write_text(text)
    if "labels" in change:
        change = {"label_keys": ["image_similarity"]} | change | {"labels": str(coco_folder / change["labels"])}
    with pytest.raises(UserError, match=words):
        load_coco(str(coco_folder), **change)
