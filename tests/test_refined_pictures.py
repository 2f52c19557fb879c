"""Latent steps and refinements outside of runs: load_segmenter, segment, compare and the page to try it make what a run
makes, and call it the same."""

import json
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest
from PIL import Image

from attrbind_exp import UserError, config, load_segmenter
from attrbind_exp.api.choices import read_latent_steps, read_refine
from attrbind_exp.commands import build
from attrbind_exp.config.refinement import read_refinement
from attrbind_exp.config.variants import variants
from attrbind_exp.data.masks import encode_mask
from attrbind_exp.demo.sent import in_words
from attrbind_exp.edits import TextBlind
from attrbind_exp.evaluation.batching import segment_images
from attrbind_exp.heatmaps.guided_filter import GuidedFilter
from attrbind_exp.heatmaps.refdiff_heat import RefdiffHeat
from attrbind_exp.heatmaps.refinement import refine_picture
from attrbind_exp.latent_steps.conform import Conform
from attrbind_exp.latent_steps.syngen import Syngen
from attrbind_exp.types import HeatMap, Sample
from tests.conftest import picture
from tests.test_command import command, composed

DRAWN = config.PACKAGE / "assets" / "shapes" / "images" / "test_0187.jpg"
TEXT = "next to the yellow circle, the red circle"
LEFT = np.arange(128)[None].repeat(128, 0) < 64  # of a drawn picture


@pytest.fixture(autouse=True)
def loaded_once(model, monkeypatch):
    """The bundled model, whoever loads it."""
    monkeypatch.setattr("attrbind_exp.backbones.stable_diffusion.load_stable_diffusion", lambda *_, **__: model)


@pytest.fixture
def proposals(tmp_path):
    """A folder with the two halves of the drawn picture as its proposals."""
    folder = tmp_path / "proposals"
    folder.mkdir()
    masks = [{"segmentation": encode_mask(mask)} for mask in (LEFT, ~LEFT)]
    (folder / f"{DRAWN.stem}.json").write_text(json.dumps(masks))
    return str(folder)


def of_a_run(*typed):
    """The baseline's heat map of the drawn picture in a run, and its label. The run calls the picture "0", which keys
    its noise as every picture's outside of runs."""
    settings = config.read_settings(
        composed("text_processor=baseline", "text_blind=false", "cache.folder=null", *typed)
    )
    sample = Sample("s", "0", DRAWN, TEXT, None, encode_mask(LEFT), (128, 128))
    alone = replace(settings.run, batch_size=1)
    (image,) = segment_images({"0": [sample]}, build.build_segmenter(settings.segmenter), alone)
    (item,), (variant,) = image.items, alone.variants
    return item.heats[item.index[0][0]].values, variant.label


def plain():
    return load_segmenter()(DRAWN, TEXT, edit="baseline")


@pytest.mark.parametrize(
    ("given", "typed", "label"),
    [
        ({"latent_steps": "syngen x2"}, ["latent_steps=syngen", "latent_steps.steps=2"], "baseline + syngen x2"),
        ({"latent_steps": Conform(1, size=5.0)}, ["latent_steps=conform", "latent_steps.size=5"], "baseline + conform x1 size=5"),
        ({"refine": "guided_filter"}, ["refine=guided_filter"], "baseline refine=guided_filter"),
        ({"latent_steps": "syngen", "refine": GuidedFilter(4)}, ["latent_steps=syngen", "refine=guided_filter", "refine.radius=4"],
         "baseline + syngen x1 refine=guided_filter radius=4"),
    ],
    ids=["steps", "steps as an object", "refined", "both"],
)  # fmt: skip
def test_python_makes_a_runs_map_to_the_last_bit_under_its_label(given, typed, label):
    if "refine" in given:
        pytest.importorskip("cv2")
    found = load_segmenter(**given)(DRAWN, TEXT, edit="baseline")
    heat, called = of_a_run(*typed)
    assert (found.heat_map == heat).all() and found.edit == called == label
    assert abs(found.heat_map - plain().heat_map).max() > 1e-4


def test_python_chooses_the_proposal_that_a_run_chooses(proposals):
    found = load_segmenter(refine=RefdiffHeat(proposals))(DRAWN, TEXT, edit="baseline")
    heat, called = of_a_run("refine=refdiff_heat", f"refine.proposals={proposals}")
    assert (found.heat_map == heat).all() and found.edit == called == "baseline refine=refdiff_heat"
    assert any((found.mask(0.3) == half).all() for half in (LEFT, ~LEFT))


@pytest.mark.parametrize(
    "given",
    [{}, {"latent_steps": "none", "refine": "none"}, {"latent_steps": "syngen x0"}, {"latent_steps": Conform(0)}],
)
def test_nothing_and_no_steps_are_the_plain_map_bit_for_bit(given):
    found, (heat, called) = load_segmenter(**given)(DRAWN, TEXT, edit="baseline"), of_a_run()
    assert (found.heat_map == heat).all() and found.edit == called == "baseline"


def test_the_words_for_steps_and_refinements_are_a_runs():
    for option in config.options("latent_steps"):
        cfg = composed(
            f"latent_steps={option}", *(["latent_steps.steps=3"] if option != "none" else []), name="segment"
        )
        assert (
            read_latent_steps(option if option == "none" else f"{option} x3")
            == config.segmenter_settings(cfg).latent_steps
        )
    assert read_latent_steps("syngen") == Syngen() and read_refine("none") is None
    own = GuidedFilter(3)
    assert read_refinement(composed("refine=guided_filter", "refine.radius=3", name="segment")) == own


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"latent_steps": "sygen"}, "unknown latent_steps 'sygen'; did you mean syngen. choose from attend_and_excite, conform, none, syngen, syngen_half; three"),
        ({"latent_steps": "syngen x-1"}, "unknown latent_steps 'syngen x-1'"), ({"latent_steps": 3}, "unknown latent_steps 3"),
        ({"refine": "guided"}, "unknown refine 'guided'; did you mean guided_filter. choose from guided_filter, none, refdiff_heat, or give"),
        ({"refine": GuidedFilter}, r"refine=GuidedFilter is a class; give an object of it, refine=GuidedFilter\(\)"), ({"refine": RefdiffHeat("/nowhere")}, "'/nowhere' is no folder"),
        ({"refine": "refdiff_heat"}, r"refine.proposals=None; give the folder .*in Python give RefdiffHeat\(..\), from attrbind_exp.heatmaps"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_unknown_or_lacks_something_is_named(given, words):
    with pytest.raises(UserError, match=words) as error:
        load_segmenter(**given)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:the bundled model knows only shapes")
def test_proposals_are_found_by_the_name_of_a_pictures_file(proposals, tmp_path):
    segmenter = load_segmenter(refine=RefdiffHeat(proposals), edit="baseline")
    masks = [segmenter(given, TEXT).mask() for given in (DRAWN, str(DRAWN), Image.open(DRAWN))]
    assert all((mask == masks[0]).all() for mask in masks)
    shutil.copy(DRAWN, tmp_path / "photo.jpg")
    with pytest.raises(
        UserError, match=r"no proposals of image 'photo.jpg': neither 'photo.jpg.json' nor 'photo.json'"
    ):
        segmenter(tmp_path / "photo.jpg", TEXT)
    with pytest.raises(UserError, match=r"a picture without a file name has no proposals in .*; give its path"):
        segmenter(np.asarray(Image.open(DRAWN)), TEXT)
    Image.open(DRAWN).resize((64, 64)).save(tmp_path / DRAWN.name)
    with pytest.raises(UserError, match="its image"):  # the masks are of another size
        segmenter(tmp_path / DRAWN.name, TEXT)


@dataclass(frozen=True)
class Upside:
    """Somebody's own refinement, as docs/extend.md writes them: no subclass of anything."""

    by: int = 1
    peaks = classes = True

    def check(self):
        pass

    def refine(self, heat, image, sample):
        assert (sample.image_path.name, sample.text, sample.size) == ("", "dog", (20, 31)) and image.size == (31, 20)
        return np.ascontiguousarray(heat[::-1])

    def references(self, sample, truth):
        return {}

    def edited(self):
        return ""


def test_a_refinement_of_ones_own_and_a_map_that_is_not_finite():
    heat = HeatMap(np.linspace(0, 1, 620, dtype=np.float32).reshape(20, 31))
    given = (picture(20, 31), "", "dog")
    assert (refine_picture(read_refine(Upside(2)), heat, *given).values == heat.values[::-1]).all()
    broken = HeatMap(np.full((20, 31), np.nan, np.float32))
    assert refine_picture(Upside(), broken, *given).values is broken.values


def test_the_floor_takes_no_steps_and_says_none():
    found = load_segmenter(latent_steps="syngen", edit=TextBlind())(DRAWN, TEXT)
    without = load_segmenter(edit=TextBlind())(DRAWN, TEXT)
    assert found.edit == without.edit == "text_blind" and (found.heat_map == without.heat_map).all()


def test_segment_writes_the_refined_map(tmp_path, proposals):
    pytest.importorskip("cv2")
    shutil.copy(DRAWN, tmp_path / DRAWN.name)
    for name, given, typed in (
        ("f", {"latent_steps": "syngen x2", "refine": "guided_filter"}, ["latent_steps=syngen", "latent_steps.steps=2", "refine=guided_filter"]),
        ("p", {"refine": RefdiffHeat(proposals)}, ["refine=refdiff_heat", f"refine.proposals={proposals}"]),
    ):  # fmt: skip
        arguments = [
            DRAWN.name,
            TEXT,
            "--heat",
            f"{name}.npz",
            "text_processor=baseline",
            f"hydra.run.dir={name}",
            *typed,
        ]
        code, out, err = command(*arguments, module="segment", cwd=tmp_path)
        assert code == 0, err
        with pytest.warns(UserWarning, match="knows only shapes"):
            found = load_segmenter(**given)(tmp_path / DRAWN.name, TEXT, edit="baseline")
        with np.load(tmp_path / f"{name}.npz") as kept:
            assert (kept["heat"] == found.heat_map).all() and kept["method"] == found.edit
        drawn = np.asarray(Image.open(tmp_path / name / "mask.png")) > 0
        assert (drawn == found.mask()).all() and f"{100 * found.mask().mean():.1f} % of the image" in out


@pytest.mark.parametrize("module", ["segment", "compare"])
def test_proposals_that_lack_are_one_line(tmp_path, module):
    for typed, said in (
        ([], "give the folder of the proposals"),
        (["refine.proposals=nowhere"], "'nowhere' is no folder"),
    ):
        code, _, err = command(str(DRAWN), TEXT, "refine=refdiff_heat", *typed, module=module, cwd=tmp_path)
        assert code == 2 and said in err and len(err.splitlines()) == 1, err


def test_compare_steps_and_refines_every_edit(tmp_path):
    pytest.importorskip("cv2")
    typed = ["latent_steps=syngen", "refine=guided_filter", "hydra.run.dir=out"]
    code, out, err = command(str(DRAWN), TEXT, "baseline", "ncr", *typed, module="compare", cwd=tmp_path)
    assert code == 0, err
    found = load_segmenter(latent_steps="syngen", refine="guided_filter").compare(DRAWN, TEXT, ["baseline", "ncr"])
    assert list(found) == ["baseline", "ncr"]
    labels = [f"{edit} + syngen x1 refine=guided_filter" for edit in ("baseline", "noun_chunk")]
    assert [r.edit for r in found.values()] == labels == [line.split("  ")[0] for line in out.splitlines()[1:3]]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "comparison.png")), np.asarray(found.picture(0.5)))
    code, out, err = command(str(DRAWN), "the circle", "baseline", "ncr", *typed, module="compare", cwd=tmp_path)
    assert ["changes nothing" in line for line in out.splitlines()[1:3]] == [False, True]


def test_the_page_says_what_steps_it_takes():
    found, _ = variants(composed("latent_steps=syngen", "alpha=0.9", "heatmap=[daam]", name="demo"))
    words = [in_words(v) for v in found]
    assert words[0] == "baseline + syngen x1" and words[2] == "NCR + UEA + syngen x1"
