"""Refinements of heat maps: the guided filter against its equations, proposals against answers made by hand."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra.errors import HydraException
from PIL import Image
from scipy.ndimage import uniform_filter

from attrbind_exp import config
from attrbind_exp.commands.doctor.refinement import check_refinement
from attrbind_exp.commands.rescore import change, rescore_rows
from attrbind_exp.data.masks import decode_mask, encode_mask
from attrbind_exp.data.proposals import read_proposals
from attrbind_exp.edits import Averaging, NounChunk, TextBlind, Variant
from attrbind_exp.edits.variant import has_latent_steps, is_floor, is_plain, is_refined, plain_label, split_reading
from attrbind_exp.heatmaps.guided_filter import GuidedFilter
from attrbind_exp.heatmaps.refdiff_heat import RefdiffHeat, score
from attrbind_exp.heatmaps.refinement import min_max, refine_finite
from attrbind_exp.reporting.html.comparison import is_baseline
from attrbind_exp.runs.rows import read_images
from attrbind_exp.runs.store import read_failures
from attrbind_exp.runs.summary import read_summary
from attrbind_exp.scoring.references import PROPOSALS
from attrbind_exp.tasks.choose import choose_task
from attrbind_exp.types import Sample, SampleError, UserError
from tests.conftest import picture
from tests.made_runs import variant_figures
from tests.test_command import command, composed

SIZE = (4, 6)
SAMPLE = Sample("s", "i", Path("i.jpg"), "the star", None, None, SIZE)
LEFT = np.arange(6)[None].repeat(4, 0) < 2  # a third of the picture
WHOLE = np.ones(SIZE, bool)


def guided(image, heat, radius, eps):
    """He et al. 2013, equations 14 to 16, in float64; windows see the picture mirrored."""

    def mean(x):
        return uniform_filter(x, 2 * radius + 1, mode="reflect", axes=(0, 1))

    mean_image, mean_heat = mean(image), mean(heat)
    covariance = mean(image[..., :, None] * image[..., None, :]) - mean_image[..., :, None] * mean_image[..., None, :]
    with_heat = mean(image * heat[..., None]) - mean_image * mean_heat[..., None]
    a = np.linalg.solve(covariance + eps * np.eye(3), with_heat[..., None])[..., 0]  # (H, W, 3)
    b = mean_heat - (a * mean_image).sum(-1)
    return (mean(a) * image).sum(-1) + mean(b)


@pytest.mark.parametrize(("radius", "eps"), [(1, 0.1), (4, 0.01)])
def test_the_guided_filter_is_that_of_its_equations(radius, eps):
    pytest.importorskip("cv2")
    image = picture(20, 31)
    heat = np.random.default_rng(1).random((20, 31), np.float32)
    found = GuidedFilter(radius, eps).refine(heat, image, SAMPLE)
    wanted = guided(np.asarray(image, np.float64) / 255, heat.astype(np.float64), radius, eps)
    np.testing.assert_allclose(found, (wanted - wanted.min()) / (wanted.max() - wanted.min()), atol=2e-4)
    assert found.dtype == np.float32 and found.min() == 0 and found.max() == 1
    assert (GuidedFilter(radius, eps).refine(heat, image, SAMPLE) == found).all()


def test_opencv_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match="pip install opencv-contrib-python-headless"):
        GuidedFilter().check()


@pytest.mark.parametrize("given", [{"radius": 0}, {"radius": 1.5}, {"eps": 0}, {"eps": float("nan")}, {"eps": "x"}])
def test_a_filter_that_cannot_be_is_refused(given):
    (key,) = given
    with pytest.raises(UserError, match=f"refine.{key}="):
        GuidedFilter(**given)


def test_maps_are_stretched_and_flat_ones_are_zero():
    assert min_max(np.array([[2.0, 4.0], [3.0, 2.0]])).tolist() == [[0, 1], [0.5, 0]]
    assert min_max(np.full((2, 2), 0.7)).tolist() == [[0, 0], [0, 0]]


def test_a_map_that_is_not_finite_is_left_to_the_scorer():
    heat = np.full(SIZE, np.nan, np.float32)
    assert refine_finite(RefdiffHeat("nowhere"), heat, Image.new("RGB", (6, 4)), SAMPLE) is heat


def test_a_proposal_scores_the_heat_inside_less_that_outside():
    heat = np.where(LEFT, 0.75, 0.25).astype(np.float32)
    assert score(heat, LEFT) == 0.5 and score(heat, ~LEFT) == -0.5 and score(heat, WHOLE) == 0
    half = np.arange(6)[None].repeat(4, 0) < 4  # half of it is hot
    assert score(heat, half) == 0.25


def write(folder, masks, name="i.json"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps([{"segmentation": encode_mask(mask)} for mask in masks]))
    return str(folder)


def test_the_chosen_proposal_is_the_heat_map_and_the_best_one_the_ceiling(tmp_path):
    wide = np.arange(6)[None].repeat(4, 0) < 3
    refinement = RefdiffHeat(write(tmp_path / "p", [WHOLE, wide, LEFT, LEFT, ~WHOLE]))
    heat = np.where(LEFT, 0.75, 0.25).astype(np.float32)
    found = refinement.refine(heat, Image.new("RGB", (6, 4)), SAMPLE)
    assert found.dtype == np.float32 and (found == LEFT).all()
    # Of a truth of one column: a third of the picture is 0.5, half is 1/3.
    truth = np.arange(6)[None].repeat(4, 0) < 1
    assert refinement.references(SAMPLE, truth) == {"proposals": [0.5]}


def test_files_are_found_by_id_or_name_and_hold_run_lengths_or_polygons(tmp_path):
    polygon = {"annotations": [{"segmentation": [[0, 0, 2, 0, 2, 4, 0, 4]]}]}
    (tmp_path / "photo.json").write_text(json.dumps(polygon))
    sample = replace(SAMPLE, image_id="7", image_path=Path("a/photo.jpg"))
    assert (read_proposals(tmp_path, sample)[0] == LEFT).all()
    write(tmp_path, [~LEFT], "7.json")
    assert (read_proposals(tmp_path, sample)[0] == ~LEFT).all()


@pytest.mark.parametrize(
    ("text", "reason", "said"),
    [
        (None, "proposals_missing", "neither 'i.json'"),
        ("[]", "proposals_none", "no mask"),
        ("{", "proposals_malformed", "as JSON"),
        ("[1]", "proposals_malformed", "mask 1 of 1"),
        ('{"masks": []}', "proposals_malformed", "list of objects"),
        ('[{"segmentation": {"size": [4, 6], "counts": [1, 2]}}]', "proposals_malformed", "add up to 3"),
        ('[{"segmentation": {"size": [6, 4], "counts": [24]}}]', "proposals_malformed", "its image"),
    ],
)
def test_broken_proposals_are_named(tmp_path, text, reason, said):
    if text is not None:
        (tmp_path / "i.json").write_text(text)
    with pytest.raises(SampleError, match=said) as caught:
        read_proposals(tmp_path, SAMPLE)
    assert caught.value.reason == reason


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    for folder, said in ((None, "refine.proposals=None"), (str(tmp_path / "no"), "is no folder")):
        with pytest.raises(UserError, match=said):
            RefdiffHeat(folder).check()
    with pytest.raises(UserError, match="no file"):
        RefdiffHeat(str(tmp_path)).check()


def test_refined_labels_stand_apart():
    refined = Variant("baseline", refine="guided_filter radius=4")
    assert refined.label == refined.name == "baseline refine=guided_filter radius=4"
    assert is_refined(refined.label) and not is_refined("baseline heatmap=daam")
    assert is_floor("text_blind refine=guided_filter")
    plain, other = (variant_figures(("baseline", None), 40.0, 1, label=label) for label in ("baseline", refined.label))
    assert is_baseline(plain) and not is_baseline(other)


LABELS = [
    Variant("m", edits, alpha, heatmap, None, None, latents, refine)
    for edits, alpha in (((), None), ((NounChunk(), Averaging(0.9)), 0.9), ((TextBlind(),), None))
    for heatmap in (None, "daam")
    for latents in (None, "syngen x3 size=10")
    for refine in (None, "guided_filter radius=4")
]


@pytest.mark.parametrize("variant", LABELS, ids=lambda v: v.label)
def test_whatever_reads_labels_reads_each_of_them_alike(variant):
    label = variant.label
    plain, blind = not variant.edits, isinstance((*variant.edits, None)[0], TextBlind)
    assert is_plain(label) == (plain and not variant.latents and not variant.refine)
    assert (is_floor(label), is_refined(label)) == (blind, variant.refine is not None)
    assert has_latent_steps(label) == (variant.latents is not None)
    assert plain_label(label) == replace(variant, latents=None, refine=None).label
    assert split_reading(label) == (replace(variant, heatmap=None).label, variant.heatmap)


def test_the_doctor_counts_images_without_proposals(tmp_path):
    write(tmp_path, [LEFT], "i.json")
    other = replace(SAMPLE, image_id="j", image_path=Path("j.jpg"))
    (found,) = check_refinement(RefdiffHeat(str(tmp_path)), [SAMPLE, SAMPLE, other])
    assert found.status == "MISSING" and "1 of 2 images" in found.text and "not 'j'" in found.text
    (found,) = check_refinement(RefdiffHeat(str(tmp_path)), [SAMPLE])
    assert found.status == "ok" and "1 of 1 images" in found.text
    (found,) = check_refinement(RefdiffHeat(str(tmp_path / "no")), [SAMPLE])
    assert found.status == "MISSING" and "is no folder" in found.text
    assert not list(check_refinement(None, [SAMPLE]))


def test_without_a_refinement_there_is_no_key_and_proposals_are_part_of_the_identity(tmp_path):
    assert "refine" not in composed()
    folder = write(tmp_path / "p", [LEFT])
    cfg = composed("refine=refdiff_heat", f"refine.proposals={folder}")
    before = config.read_settings(cfg)
    assert before.run.variants[0].refine == "refdiff_heat" and not before.run.peaks
    write(tmp_path / "p", [~LEFT])
    assert config.read_settings(cfg).key != before.key != config.read_settings(composed()).key


def test_a_sweep_hands_its_proposals_to_the_refinement_that_takes_them_and_to_no_hash(tmp_path):
    """Of sweep=methods_refined, whose runs all have the key: plain ones are those of any other folder."""
    named = [f"proposals={write(tmp_path / name, [LEFT])}" for name in ("one", "other")]
    plain = [config.read_settings(composed("sweep=methods_refined", "dataset=shapes", one)) for one in named]
    assert plain[0].key == plain[1].key and plain[0].run.refinement is None
    cfg = composed("sweep=methods_refined", "dataset=shapes", "refine=refdiff_heat", named[0])
    assert config.read_settings(cfg).run.refinement == RefdiffHeat(str(tmp_path / "one"))
    assert cfg.refine.proposals == str(tmp_path / "one")
    with pytest.raises(HydraException) as error:
        config.read_settings(composed("sweep=methods_refined", "dataset=shapes", "refine=refdiff_heat"))
    assert "refine.proposals=None" in str(error.value.__cause__)


def test_classes_cannot_be_scored_with_masks(tmp_path):
    cfg = composed("dataset=shapes_classes", "refine=refdiff_heat", f"refine.proposals={tmp_path}")
    settings = config.read_settings(cfg)
    with pytest.raises(UserError, match="refine=refdiff_heat makes masks"):
        choose_task(settings.load_dataset(), settings.run)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run that chose among three proposals: the union of nothing right, and each object's own mask; the
    proposals of its last image are not there."""
    folder = tmp_path_factory.mktemp("refined")
    cfg = composed("dataset.limit=16", "dataset.split=test")
    dataset = config.read_settings(cfg).load_dataset()
    images = {s.image_id: s for s in dataset.samples}
    missing = list(images)[-1]
    for image_id, sample in images.items():
        masks = [decode_mask(o.segmentation, sample.size) for o in [sample, *sample.others]]
        if image_id != missing:
            write(folder / "proposals", [~masks[0], *masks], f"{image_id}.json")
    arguments = ["text_processor=baseline", "dataset.limit=16", "dataset.split=test", "tracker=none", "keep_maps=true"]
    arguments += ["gallery=1", "changed=0", "save_masks=rle", "cache.folder=null", f"hydra.run.dir={folder / 'run'}"]
    code, _, err = command(*arguments, "refine=refdiff_heat", f"refine.proposals={folder / 'proposals'}", cwd=folder)
    assert code == 0, err
    return folder, [s for s in dataset.samples if s.image_id == missing]


def test_a_run_counts_what_has_no_proposals_and_knows_their_ceiling(made):
    folder, without = made
    summary = read_summary(folder / "run")
    assert summary.failures == {"proposals_missing": len(without)} and summary.n_scored == 16 - len(without)
    assert [f.sample_id for f in read_failures(folder / "run")] == [s.sample_id for s in without]
    (ceiling,) = [r for r in summary.references if r.name == PROPOSALS]
    assert ceiling.mIoU == 100 and ceiling.n == summary.n_scored and not ceiling.is_floor
    found = [row for _, rows in read_images(folder / "run") for row in rows]
    assert all(row.peak is None for row in found) and all(row.text_processor.endswith("refdiff_heat") for row in found)
    assert all(len(set(row.intersection[1:])) == len(set(row.union[1:])) == 1 for row in found)  # one mask


def test_kept_maps_are_refined_again(made):
    folder, _ = made
    cfg = change(config.read_config(folder / "run"), ["threshold=0.5"])
    rescore_rows(folder / "run", cfg, folder / "again")
    once, again = (list(read_images(place)) for place in (folder / "run", folder / "again"))
    assert once == again and once
    with pytest.raises(UserError, match="cannot be rescored"):
        change(cfg, ["refine=none"])
