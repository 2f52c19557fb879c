"""Masks and heat maps that a run leaves to be taken away: exact, in forms that others read, and whole after any stop."""

import json
import shutil
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.mask import decode

from attrbind_exp import config
from attrbind_exp.commands.finish import leave_masks, masks_lines
from attrbind_exp.config.settings import run_settings
from attrbind_exp.data.coco import label_scene
from attrbind_exp.data.masks import decode_mask
from attrbind_exp.evaluation.loop import score
from attrbind_exp.runs.levels import file_name, has_levels, read_levels
from attrbind_exp.runs.rows import read_images
from attrbind_exp.runs.store import RunStore
from attrbind_exp.runs.summary import read_summary
from attrbind_exp.scoring.metrics import THRESHOLDS, find_level
from attrbind_exp.types import IGNORED
from tests.conftest import make_segmenter, picture
from tests.made_runs import expression_row
from tests.test_command import command, composed

SMALL = ["tracker=none", "gallery=0", "changed=0", "batch_size=8", "text_processor=paper", "cache.folder=null"]
EXPRESSIONS = [*SMALL, "dataset=shapes", "dataset.limit=16"]


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    """A finished run that left its masks as COCO's results, then as pictures."""
    folder = tmp_path_factory.mktemp("runs") / "taken"
    code, out, err = command(*EXPRESSIONS, "save_masks=rle", f"hydra.run.dir={folder}")
    assert code == 0 and f"masks: {folder}/masks/rle" in out, err
    rows = (folder / "expressions.jsonl").read_bytes()
    code, out, err = command(*EXPRESSIONS, "save_masks=png", f"hydra.run.dir={folder}")
    assert code == 0 and "was finished before" in out and f"masks: {folder}/masks/png" in out and not err, err
    assert (folder / "expressions.jsonl").read_bytes() == rows
    return folder


def dataset_of(folder):
    return config.load_dataset(config.read_config(folder))


def rows_of(folder, entry):
    return [
        r
        for _, rows in read_images(folder)
        for r in rows
        if (r.text_processor, r.alpha) == (entry.text_processor, entry.alpha)
    ]


def masks_of(folder):
    """What lies below masks/, file by file."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted((folder / "masks").rglob("*")) if f.is_file()}


def test_pycocotools_loads_the_results_and_their_overlap_is_that_of_the_rows(taken):
    summary, samples = read_summary(taken), {s.sample_id: s for s in dataset_of(taken).samples}
    data = COCO(taken / "masks/rle/images.json")
    for entry in summary.variants:
        found = data.loadRes(str(taken / "masks/rle" / f"{entry.label}.json"))
        by_sample = {a["sample_id"]: a for a in found.anns.values()}
        rows, k = rows_of(taken, entry), round(100 * entry.threshold)
        assert list(by_sample) == [row.sample_id for row in rows] and len(rows) == 16
        for row in rows:
            of = by_sample[row.sample_id]
            mask, sample = decode(of["segmentation"]).astype(bool), samples[row.sample_id]
            truth = decode_mask(sample.segmentation, sample.size)
            assert (int((mask & truth).sum()), int((mask | truth).sum())) == (row.intersection[k], row.union[k])
            assert (
                of["image_id"] == int(sample.image_id)
                and f":{of['sent_id']}" == row.sample_id[row.sample_id.index(":") :]
            )
            assert data.cats[of["category_id"]]["name"] == sample.category and 0 <= of["score"] <= 1


def test_pictures_and_heat_hold_the_same_masks(taken):
    about = json.loads((taken / "masks/png/about.json").read_text())
    summary, samples = read_summary(taken), dataset_of(taken).samples
    assert [(m["variant"], m["threshold"]) for m in about["masks"]] == [
        (v.label, v.threshold) for v in summary.variants
    ]
    for v, mask in enumerate(about["masks"]):
        rows = {r.sample_id: r for r in rows_of(taken, summary.variants[v])}
        files = sorted((taken / "masks/png" / mask["name"]).iterdir())
        assert {unquote(f.stem) for f in files} == {s.sample_id for s in samples}
        for sample in samples:
            with Image.open(taken / "masks/png" / mask["name"] / f"{file_name(sample.sample_id)}.png") as opened:
                assert opened.mode == "1"
                drawn = np.asarray(opened)
            with np.load(taken / "masks/npz" / f"{file_name(sample.sample_id)}.npz") as heat:
                levels = heat["levels"][heat["index"][v, 0]]
                assert str(heat["name"]) == sample.sample_id and list(heat["variants"]) == [
                    x.label for x in summary.variants
                ]
            assert (
                taken / "masks/npz" / f"{file_name(sample.sample_id)}.npz"
            ).stat().st_size < 2 * levels.size  # packed
            assert (drawn == (levels >= round(100 * mask["threshold"]))).all()
            truth, row = decode_mask(sample.segmentation, sample.size), rows[sample.sample_id]
            hits = [int((truth & (levels >= k)).sum()) for k in range(len(THRESHOLDS))]
            assert hits == list(row.intersection)  # exact at all 101 thresholds


@pytest.mark.parametrize("asked", [["save_masks=npz"], []])
def test_a_run_that_is_stopped_leaves_the_same_files(taken, model, tmp_path, asked):
    """Stopped between an image's heat and its rows, and between one image and the next; started without masks first."""
    cfg = composed(*EXPRESSIONS, *asked)
    settings, dataset = run_settings(cfg), dataset_of(taken)
    reading = config.reading_of(config.read_config(taken))
    segmenter = make_segmenter(model, timesteps=reading.timesteps, weights=reading.weights)

    def start(settings, stop=None):
        with RunStore(tmp_path, "key") as store:
            written, add = [], store.add_rows

            def add_rows(rows):
                if len(written) == stop:
                    raise KeyboardInterrupt
                written.append(add(rows))

            store.add_rows = add_rows
            return score(dataset, segmenter, settings, store), len(written)

    with pytest.raises(KeyboardInterrupt):
        start(settings, stop=2)
    _, again = start(run_settings(composed(*EXPRESSIONS, "save_masks=npz")))
    images = len({s.image_id for s in dataset.samples})
    assert again == images - (1 if asked else 0)  # the last image may be torn; without heat all are done again
    leave_masks(tmp_path, dataset, run_settings(composed(*EXPRESSIONS, "save_masks=rle")), read_summary(taken))
    whole, found = masks_of(taken), masks_of(tmp_path)
    assert found == {name: content for name, content in whole.items() if not name.startswith("masks/png")}


def test_merged_shards_have_the_masks_of_the_whole_run(taken, tmp_path):
    given = [*EXPRESSIONS, "save_masks=png", f"hydra.sweep.dir={tmp_path}"]
    code, _, err = command("-m", "shard=0/2,1/2", *given)
    assert code == 0, err
    (merged,) = tmp_path.glob("merged*")
    whole = {name: content for name, content in masks_of(taken).items() if not name.startswith("masks/rle")}
    assert masks_of(merged) == whole
    assert [f.name for f in tmp_path.iterdir() if "save_masks" in f.name] == []  # folders are not named by it


def test_classes_are_pictures_of_label_maps_and_a_result_each(tmp_path):
    given = [*SMALL, "dataset=shapes_classes", "dataset.limit=5", f"hydra.run.dir={tmp_path}"]
    for form in ("png", "rle"):
        assert command(*given, f"save_masks={form}")[0] == 0
    dataset, summary = dataset_of(tmp_path), read_summary(tmp_path)
    data = COCO(tmp_path / "masks/rle/images.json")
    for entry in summary.variants:
        found, k = data.loadRes(str(tmp_path / "masks/rle" / f"{entry.label}.json")), round(100 * entry.threshold)
        for row in rows_of(tmp_path, entry):
            truth = label_scene(dataset.scenes[row.image_id])
            with Image.open(tmp_path / "masks/png" / entry.label / f"{row.image_id}.png") as drawn:
                assert drawn.mode == "P"
                labels = np.asarray(drawn)
            kept = truth != IGNORED
            for place, label in enumerate(row.classes):
                assert int((labels[kept] == label).sum()) == row.predicted[place][k]
                assert int(((labels == label) & (truth == label)).sum()) == row.hit[place][k]
            united = np.zeros_like(labels)
            for result in found.loadAnns(found.getAnnIds(imgIds=[int(row.image_id)])):
                united[decode(result["segmentation"]) > 0] = dataset.classes.index(
                    data.cats[result["category_id"]]["name"]
                )
            assert (united == labels).all()


def test_own_pictures_are_numbered_by_their_paths_and_need_a_threshold(tmp_path):
    data = tmp_path / "data"
    (data / "b").mkdir(parents=True)
    for name in ("b/one.png", "a.png"):
        picture(40, 60).save(data / name)
    lines = [{"image": name, "expression": "the white star", "id": f"é/{name}"} for name in ("b/one.png", "a.png")]
    (data / "table.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = [*SMALL, "dataset=folder", f"dataset.root={data}", "model=bundled", "save_masks=rle"]
    code, _, err = command(*given, f"hydra.run.dir={tmp_path / 'open'}")
    assert code == 0 and "no masks: nothing was scored, so no threshold was chosen; give threshold=0.5" in err
    code, _, err = command(*given, "threshold=0.5", f"hydra.run.dir={tmp_path / 'at'}")
    assert code == 0, err
    images = COCO(tmp_path / "at/masks/rle/images.json")
    assert {i["id"]: i["file_name"] for i in images.imgs.values()} == {1: "a.png", 2: "b/one.png"}
    found = images.loadRes(str(tmp_path / "at/masks/rle/baseline.json"))
    assert [(a["sample_id"], a["image_id"]) for a in found.anns.values()] == [("é/b/one.png", 2), ("é/a.png", 1)]
    assert not any("sent_id" in a for a in found.anns.values())
    levels = read_levels(tmp_path / "at", "é/a.png")
    assert levels.predict(0, 0, 50).sum() == decode(found.anns[2]["segmentation"]).sum()


def test_a_run_that_kept_no_heat_says_what_to_do(taken, tmp_path):
    shutil.copytree(taken, tmp_path / "bare", ignore=shutil.ignore_patterns("masks"))
    code, out, err = command(*EXPRESSIONS, "save_masks=png", f"hydra.run.dir={tmp_path / 'bare'}")
    assert code == 0 and "masks:" not in out and not masks_lines(tmp_path / "bare")
    assert err.count("\n") == 1 and "no heat was kept of 16 of 16 samples" in err
    assert "run it again with save_masks=png and another hydra.run.dir" in err


def test_a_rescored_run_has_masks_of_its_own(tmp_path):
    run, again = tmp_path / "kept", tmp_path / "again"
    given = [*SMALL, "dataset=shapes", "dataset.limit=4", "keep_maps=true", "save_masks=rle"]
    assert command(*given, f"hydra.run.dir={run}")[0] == 0
    assert command(str(run), "threshold=0.4", "--out", str(again), module="rescore")[0] == 0
    samples = {s.sample_id: s for s in dataset_of(run).samples}
    for row in (r for _, rows in read_images(again) for r in rows):
        v = ["baseline", "attribute_binding", "text_blind"].index(row.text_processor)
        mask, sample = read_levels(again, row.sample_id).predict(v, 0, 40), samples[row.sample_id]
        assert int((mask & decode_mask(sample.segmentation, sample.size)).sum()) == row.intersection[40]
    assert json.loads((again / "masks/rle/about.json").read_text())["masks"][0]["threshold"] == 0.4


def test_names_of_files_can_be_read_back_and_never_collide():
    for name in ("4:12", "a/b c", "..", "é%3A", "A+b=c, d"):
        assert unquote(file_name(name)) == name and "/" not in file_name(name)
    long = ["x" * 300 + end for end in "ab"]
    assert len({file_name(name) for name in long}) == 2 and all(len(file_name(name)) <= 120 for name in long)


def test_a_level_is_the_last_threshold_that_a_value_reaches():
    heat = np.array([0, 0.299999, 0.3, 0.35, np.nextafter(np.float32(0.35), np.float32(0)), 1], np.float32)
    assert find_level(heat).tolist() == [0, 29, 30, 35, 34, 100]


def test_a_choice_that_there_is_not(tmp_path):
    code, _, err = command(*SMALL, "save_masks=jpg", f"hydra.run.dir={tmp_path / 'x'}")
    assert code == 2 and "save_masks='jpg'; choose from none, png, rle, npz" in err
    assert config.config_hash(composed("save_masks=png")) == config.config_hash(composed())
    assert not has_levels(tmp_path, [expression_row(("baseline", None), "s", 0.5)])
