"""Python in one line: load_segmenter, what it takes, and what it gives back."""

import json
import subprocess
import sys
import textwrap
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageShow

import attrbind_exp
from attrbind_exp import Averaging, LayerChoice, NounChunk, UserError, config, load_segmenter
from attrbind_exp.api import load
from attrbind_exp.api.choices import WORDS, read_edits
from attrbind_exp.api.inputs import read_input
from attrbind_exp.config.variants import variants
from attrbind_exp.edits import Merge, Padding, Variant
from attrbind_exp.heatmaps.daam import Daam
from attrbind_exp.heatmaps.diffseg import DiffSeg
from attrbind_exp.heatmaps.diffsegmenter import DiffSegmenter
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.reporting.panels import KEY, decode
from tests.conftest import picture
from tests.test_command import composed

TEXT = "the red star next to a blue circle"
DRAWN = config.PACKAGE / "assets" / "shapes" / "images" / "test_0000.jpg"


@pytest.fixture(scope="module")
def loaded():
    segmenter = load_segmenter(device="cpu")
    with pytest.warns(UserWarning, match="knows only shapes"):  # of a photo, once
        segmenter(picture(8, 8), "dog")
    return segmenter


@pytest.fixture(scope="module")
def result(loaded):
    return loaded(drawing(), TEXT)


@pytest.fixture(scope="module")
def comparison(loaded):
    return loaded.compare(drawing(), TEXT)


def drawing(width=90, height=60):
    """A red star's place and a blue circle, not square."""
    image = Image.new("RGB", (width, height), (120, 120, 120))
    draw = ImageDraw.Draw(image)
    draw.ellipse((50, 15, 85, 50), (30, 60, 220))
    draw.polygon([(25, 10), (32, 50), (8, 25), (45, 25), (15, 50)], (220, 30, 30))
    return image


def pixels(image):
    return np.asarray(image)


# What it is


def test_the_heat_map_is_the_core_s_to_the_last_bit(model, result):
    ours = Variant("ours", (NounChunk(), Averaging(0.9)))
    (heat,) = Segmenter(model)([drawing()], [TEXT], ours)
    assert result.heat_map.shape == (60, 90) and result.heat_map.dtype == np.float32
    assert (result.heat_map == heat.values).all()
    assert (result.mask() == heat.mask(0.5)).all() and (result.mask(0.3) == (heat.values >= np.float32(0.3))).all()


def test_a_result_says_what_was_read(result):
    assert (result.expression, result.target, result.chunk) == (TEXT, "star", "the red star")
    assert result.prompt.text == "a photograph of " + TEXT and result.prompt.bind
    assert result.edit == "attribute_binding alpha=0.9" and result.image.size == (90, 60)
    assert repr(result) == f"Result('{TEXT}', target 'star', attribute_binding alpha=0.9, 60 x 90)"


def test_edit_and_alpha_of_a_call_take_the_place_of_the_loaded_ones(loaded, model):
    own = Segmenter(model)
    for given, edits in (
        ({"edit": "baseline"}, ()),
        ({"edit": "uea", "alpha": 0.5}, (Averaging(0.5),)),
        ({"alpha": 0.5}, (NounChunk(), Averaging(0.5))),
        ({"edit": [NounChunk("template"), "uea"]}, (NounChunk("template"), Averaging(0.9))),
    ):
        (heat,) = own([drawing()], [TEXT], Variant("own", edits))
        assert (loaded(drawing(), TEXT, **given).heat_map == heat.values).all(), given


def test_settings_are_those_of_the_command_segment(monkeypatch):
    monkeypatch.setattr(load, "build_segmenter", lambda settings: settings)
    folder = str(config.PACKAGE / "assets" / "bundled")
    for given, typed in (
        ({}, []),
        ({"model": "sd15", "heatmap": "daam", "layers": "up"}, ["model=sd15", "heatmap=[daam]", "attention_layers=up"]),
        ({"model": "sd21", "seed": 3, "dtype": "bf16"}, ["model=sd21", "seed=3", "model.dtype=bf16"]),
        ({"model": Path(folder)}, ["model=sd15", f"model.path={folder}", "model.name=bundled"]),
    ):
        made, cfg = load_segmenter(**given).core, composed(*typed, "image=a", "expression=b", name="segment")
        expected = config.segmenter_settings(cfg)
        assert replace(made.model, load=None) == replace(expected.model, load=None)
        assert (made.text, made.maps, made.make_methods()) == (expected.text, expected.maps, expected.make_methods())
        assert made.cache_folder is None
    own = LayerChoice(ratios=(1,))
    made = load_segmenter(heatmap=Daam(sigmoid=True), layers=own, dtype=torch.float16).core
    assert made.make_methods() == {"daam sigmoid=True": Daam(sigmoid=True)}
    assert made.maps.layers is own and made.model.dtype == "fp16"
    # What comes out is named as the option is, so the usual reading is not taken for another one.
    assert list(load_segmenter(heatmap=DiffSegmenter()).core.make_methods()) == ["diffsegmenter"]
    assert list(load_segmenter(heatmap=DiffSeg(tau=0.8)).core.make_methods()) == ["diffseg tau=0.8"]


def test_the_words_for_edits():
    ncr, behind, uea = NounChunk(), NounChunk("template"), Averaging(0.7)
    expected = {
        "baseline": (), "ncr": (ncr,), "noun_chunk": (ncr,), "ncr_prefixed": (behind,), "noun_chunk_prefixed": (behind,),
        "uea": (uea,), "uncond_average": (uea,), "attribute_binding": (ncr, uea), "attribute_binding_prefixed": (behind, uea),
    }  # fmt: skip
    assert {word: read_edits(word, 0.7) for word in WORDS} == expected
    assert (
        read_edits("UEA + noun-chunk", 0.7) == (uea, ncr) and read_edits(ncr, 0.7) == (ncr,) and read_edits([], 1) == ()
    )
    assert composed(name="segment").alpha.value == 0.9 == load_segmenter.__kwdefaults__["alpha"]


def test_the_words_for_edits_of_other_people_are_those_of_a_run():
    found, _ = variants(composed("text_processor=edits_of_the_field", "dataset=shapes"))
    theirs = {v.method: v.edits for v in found if v.method not in WORDS and v.method != "text_blind"}
    assert len(theirs) > 10 and {name: read_edits(name, 0.7) for name in theirs} == theirs
    assert read_edits("ncr+tome", 0.7) == (NounChunk(), Merge())


# What it takes


def test_every_way_to_give_a_picture_gives_the_same_picture(tmp_path):
    image = picture(20, 30)
    values = pixels(image)
    image.save(tmp_path / "it.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera lay on its side: shown after a quarter turn to the right
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=turned)
    clear = Image.fromarray(np.dstack([values, np.full((20, 30), 255, np.uint8)]))
    given = [
        str(tmp_path / "it.png"), tmp_path / "it.png", image, Image.open(tmp_path / "it.png"), clear, pixels(clear), values,
        values / 255, (values / 255).astype(np.float32), tmp_path / "turned.png", Image.open(tmp_path / "turned.png"),
        torch.tensor(values).permute(2, 0, 1), torch.tensor(values).permute(2, 0, 1) / 255,
    ]  # fmt: skip
    for one in given:
        read, _ = read_input(one)
        assert read.mode == "RGB" and (pixels(read) == values).all(), one


def test_grey_palette_and_transparent_pictures_are_read_as_those_of_datasets_are():
    grey = pixels(picture(20, 30).convert("L"))
    for one in (grey, grey[..., None], grey / 255, grey.astype(np.uint16) * 257, Image.fromarray(grey)):
        assert (pixels(read_input(one)[0]) == grey[..., None]).all()
    drawn = Image.new("P", (4, 2), 1)
    drawn.putpalette([0, 0, 0, 10, 200, 30])
    assert (pixels(read_input(drawn)[0]) == (10, 200, 30)).all()
    assert (pixels(read_input(np.zeros((5, 5, 4), np.uint8))[0]) == 255).all(), "what is transparent lies on white"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("none.jpg", "'none.jpg' does not exist; give the path"), (__file__, "no picture"), (3.5, "type float; give a path"),
        (np.zeros((3, 20, 30)), "shape (3, 20, 30)"), (np.zeros((0, 0)), "shape (0, 0)"),
        (np.full((4, 4), 200.0), "float64 from 200 to 200; give uint8 from 0 to 255, or floats from 0 to 1"),
        (np.full((4, 4), np.nan), "from nan"), (np.zeros((4, 4, 3), int), "int64 from 0 to 0"), (np.zeros((4, 4), bool), "bool"),
        (np.zeros((2, 300), np.uint8), "more than 100 times"), (torch.zeros(20, 30, 3), "shape (20, 30, 3)"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_picture_is_named(loaded, given, words):
    with pytest.raises(UserError) as error:
        loaded(given, "dog")
    assert words in str(error.value) and "\n" not in str(error.value)


def test_pictures_and_expressions_go_together(loaded, result, monkeypatch):
    encoded, encode = [], loaded.core.backbone.encode_pixels
    monkeypatch.setattr(loaded.core.backbone, "encode_pixels", lambda p: encoded.append(1) or encode(p))
    monkeypatch.setattr(loaded, "model", replace(loaded.model, batch_size=2))  # three passes of at most two rows
    images, texts = [drawing(), picture(40, 30, 1), drawing()], [TEXT, "the circle", "the blue circle on the right"]
    alone = {(i, t): loaded(images[i], t) for i in (0, 1, 2) for t in texts}
    encoded.clear()
    for given, pairs, pictures in (
        ((images[0], texts), [(0, t) for t in texts], 1),
        ((images, texts[0]), [(i, TEXT) for i in (0, 1, 2)], 3),
        ((tuple(images), tuple(texts)), list(enumerate(texts)), 3),
        (([images[1]], texts[0]), [(1, TEXT)], 1),
        ((images[0], []), [], 0),
        (([], TEXT), [], 0),
    ):
        found = loaded(*given)
        assert [r.expression for r in found] == [t for _, t in pairs] and len(encoded) == pictures
        for got, pair in zip(found, pairs, strict=True):
            assert got.image.size == images[pair[0]].size
            np.testing.assert_allclose(got.heat_map, alone[pair].heat_map, atol=2e-5)
        encoded.clear()
    with pytest.raises(UserError, match="pictures: 3, expressions: 2; give as many"):
        loaded(images, texts[:2])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"text": " "}, "expression=' '; say what to segment"), ({"text": None}, "expression=None"),
        ({"text": ["dog", ""]}, "expression=''"), ({"text": "of the"}, "'of the' names nothing"), ({"text": "???"}, "names nothing"),
        ({"edit": "nrc+uea"}, "unknown edit 'nrc'; did you mean ncr. choose from baseline, ncr, noun_chunk"),
        ({"edit": 5}, "edit=5; give words"), ({"alpha": True}, "alpha=True"), ({"alpha": float("inf")}, "alpha=inf"),
        ({"alpha": -1}, "alpha=-1; give a finite number >= 0"), ({"alpha": "half"}, "alpha='half'; give"),
        ({"alpha": 0.5, "edit": "ncr"}, "alpha=0.5 changes nothing"), ({"alpha": 0.5, "edit": Averaging(1)}, "changes nothing"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_segmented_is_named(loaded, given, words):
    with pytest.raises(UserError, match=words) as error:
        loaded(drawing(), **{"text": TEXT, **given})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": "sd51"}, "unknown model 'sd51'; did you mean sd[^?]*. choose from bundled, sd14, .*or give the folder or the Hugging Face name"),
        ({"model": "bundeld"}, "unknown model 'bundeld'; did you mean bundled. choose from"), ({"model": "some/body"}, "hf download some/body"),
        ({"heatmap": "damm"}, "unknown heatmap 'damm'; did you mean daam. choose from cross_only, daam"),
        ({"layers": "grid"}, "unknown layers 'grid'; choose from all, down"), ({"dtype": "half"}, "'half'; choose from auto, fp32"),
        ({"dtype": torch.int8}, "choose from auto, fp32"), ({"device": "tpu"}, "no device 'tpu'"), ({"seed": -1}, "seed=-1; give"),
        ({"edit": "abc"}, "unknown edit 'abc'"), ({"alpha": -1}, "alpha=-1"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_loaded_is_named(given, words):
    with pytest.raises(UserError, match=words) as error:
        load_segmenter(**given)
    assert "\n" not in str(error.value)


def test_half_precision_that_overflows_is_named(loaded, monkeypatch):
    encode = loaded.core.backbone.encode_pixels
    monkeypatch.setattr(loaded.core.backbone, "encode_pixels", lambda p: encode(p) * float("nan"))
    with pytest.raises(UserError, match='half precision overflows; give dtype="bf16"'):
        loaded(DRAWN, TEXT)


def test_a_photo_is_warned_of_once_and_a_drawn_scene_never(loaded, recwarn, monkeypatch):
    loaded(picture(8, 8), "dog")  # the fixture was warned
    monkeypatch.setattr(loaded, "_warned", False)
    loaded(DRAWN, TEXT)
    assert not recwarn.list
    loaded(picture(8, 8), "dog")
    (warning,) = recwarn.list
    assert 'load_segmenter("sd15")' in str(warning.message) and warning.filename == __file__


# What it shows


def test_a_comparison_holds_what_single_calls_give(loaded, comparison):
    assert list(comparison) == ["baseline", "ncr", "ncr+uea"] and len(comparison) == 3
    assert [r.edit for r in comparison.values()] == ["baseline", "noun_chunk", "attribute_binding alpha=0.9"]
    for edit, found in comparison.items():
        np.testing.assert_allclose(found.heat_map, loaded(drawing(), TEXT, edit=edit).heat_map, atol=2e-5)
    assert not np.allclose(comparison["baseline"].heat_map, comparison["ncr"].heat_map, atol=1e-3)
    given = loaded.compare(drawing(), TEXT, edits=["uea", Averaging(0.5), (NounChunk(), Averaging(0.5))], alpha=0.7)
    assert list(given) == ["uea", "uncond_average alpha=0.5", "attribute_binding alpha=0.5"]
    assert given["uea"].edit == "uncond_average alpha=0.7"


def test_a_picture_says_what_kept_edits_from_acting(loaded):
    found = loaded.compare(drawing(), "the circle")
    assert found.about == "picture; model bundled; edits change nothing here"
    assert (found["baseline"].heat_map == found["ncr+uea"].heat_map).all()
    padded = loaded.compare(drawing(), "the circle", edits=["baseline", Padding()])  # acts on every prompt
    assert padded.about == "picture; model bundled"
    assert (padded["baseline"].heat_map != padded["padding"].heat_map).any()
    long = loaded(DRAWN, "the circle " + "that is very large and " * 20)
    assert long.about == "test_0000.jpg; model bundled; fallback: prompt_truncated"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"edits": ["ncr", "noun_chunk"]}, "'noun_chunk' stands twice"), ({"edits": []}, "no edits to compare"),
        ({"text": [TEXT]}, "one picture and one expression"), ({"alpha": 0.5, "edits": ["ncr"]}, "alpha=0.5 changes nothing"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_compared_is_named(loaded, given, words):
    with pytest.raises(UserError, match=words):
        loaded.compare(drawing(), **{"text": TEXT, **given})


def panels_of(file):
    """The panels of a picture by caption, and the thresholds that it says."""
    image = Image.open(file)
    about = decode(image.text[KEY])
    return {name: pixels(image.crop(box)) for name, box in about.panels}, about


def test_a_saved_comparison_is_photo_and_heat_on_one_scale(comparison, tmp_path):
    panels, about = panels_of(comparison.save(tmp_path / "out.png", threshold=0.4))
    photo, *heats = panels.values()
    labels = [r.edit for r in comparison.values()]
    assert list(panels) == ["image", *labels] and about.title == TEXT and about.thresholds == dict.fromkeys(labels, 0.4)
    assert (photo[::6, ::6] == pixels(drawing())).all()
    for drawn, found in zip(heats, comparison.values(), strict=True):
        expected = matplotlib.colormaps["viridis"](enlarged(found.heat_map), bytes=True)[..., :3]
        outline = (drawn == 0).all(-1) | (drawn == (213, 94, 0)).all(-1)
        assert (drawn == expected).all(-1)[~outline].all() and 0 < outline.mean() < 0.3


def enlarged(values):
    """(60, 90) at (360, 540): each of its pixels six times."""
    return np.kron(values, np.ones((6, 6), values.dtype))


def test_saved_shown_and_notebook_pictures_are_the_same(result, tmp_path, monkeypatch, capsys):
    saved = pixels(Image.open(result.save(tmp_path / "out.png")))
    panels, _ = panels_of(tmp_path / "out.png")
    assert list(panels) == ["image", "attribute_binding alpha=0.9", "mask"]
    coloured = panels["mask"].max(-1) > panels["mask"].min(-1)
    assert not coloured[~enlarged(result.mask())].any()
    shown = [pixels(Image.open(BytesIO(result._repr_png_()))), pixels(result.picture())]
    monkeypatch.setattr("attrbind_exp.api.drawing._has_display", lambda: False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result.show()
    path = capsys.readouterr().out.split("the picture is in ")[1].strip()
    shown.append(pixels(Image.open(path)))
    monkeypatch.setattr("attrbind_exp.api.drawing._has_display", lambda: True)
    monkeypatch.setattr(ImageShow, "show", lambda image, title: shown.append(pixels(image)) or True)
    result.show()
    shell = SimpleNamespace(kernel=1)
    display = SimpleNamespace(display=lambda image: shown.append(pixels(image)))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    result.show()
    assert len(shown) == 5 and all((one == saved).all() for one in shown) and not capsys.readouterr().out


def test_an_overlay_is_the_picture_with_the_mask(result):
    drawn, mask = pixels(result.overlay(0.5)), result.mask(0.5)
    assert drawn.shape == (60, 90, 3) and mask.any() and not mask.all()
    outside = drawn[~mask]
    assert (outside.max(-1) == outside.min(-1)).all() and outside.max() < 100
    line = (drawn == (213, 94, 0)).all(-1) | (drawn == 0).all(-1)
    assert (drawn == pixels(drawing())).all(-1)[mask & ~line].all()


def test_what_cannot_be_drawn_is_named(result, tmp_path):
    for draw, words in (
        (lambda: result.save(tmp_path / "out.jpg"), "PNG files; give a name that ends in .png"),
        (lambda: result.save(tmp_path / "none" / "out.png"), "No such file or directory"),
        (lambda: result.mask(1.5), "threshold=1.5; give a number from 0 to 1"),
        (lambda: result.mask(float("nan")), "threshold=nan; give"),
        (lambda: result.picture(0.505), "threshold=0.505; pictures name it in steps of 0.01"),
    ):
        with pytest.raises(UserError, match=words):
            draw()


# How it is found


def test_importing_the_package_loads_no_library_and_takes_no_time():
    code = (
        "import sys, time, json; start = time.perf_counter(); import attrbind_exp; took = time.perf_counter() - start\n"
        "print(json.dumps([took, sorted({m.split('.')[0] for m in sys.modules}), dir(attrbind_exp)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    took, modules, names = json.loads(done.stdout)
    assert took < 0.2 and not {"torch", "hydra", "omegaconf", "numpy", "PIL", "diffusers", "spacy"} & set(modules)
    assert set(attrbind_exp.__all__) <= set(names)


def test_every_public_name_is_there_and_documented():
    for name in set(attrbind_exp.__all__) - {"__version__"}:
        assert getattr(attrbind_exp, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'segmentor'"):
        attrbind_exp.segmentor  # noqa: B018
    assert (config.PACKAGE / "py.typed").is_file()


def test_the_example_of_load_segmenter_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drawing().save("photo.jpg")
    example = load_segmenter.__doc__.split("\n\n", 1)[1].split("\n\n    `model`")[0]
    names: dict = {}
    with pytest.warns(UserWarning, match="knows only shapes"):
        exec(textwrap.dedent(example), names)
    assert names["result"].target == "dog" and names["mask"].shape == (60, 90)
    assert Image.open("out.png").height > 360
