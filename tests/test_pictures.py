"""What a picture shows is what the data say: a heat map's colours are the map's alone, outlines lie where masks end,
titles name what was measured."""

import base64
import io
import json
from itertools import pairwise

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from attrbind_exp.reporting import figures, maps, plots
from attrbind_exp.reporting.html.pictures import data_uri
from attrbind_exp.reporting.panels import KEY, decode
from attrbind_exp.tasks.task import Panel
from tests.test_command import command

SIDE = maps.HEIGHT
VIRIDIS = matplotlib.colormaps["viridis"]
RNG = np.random.default_rng(0)


def photo(colour=(230, 130, 20), size=(64, 64)):
    return Image.new("RGB", size, colour)


def noise(size=(64, 64)):
    return Image.fromarray(RNG.integers(0, 256, (size[1], size[0], 3), np.uint8))


def show(panel, image=None, height=SIDE):
    """One panel as it is drawn, (height, w, 3) int."""
    pictures, _ = maps.render({"it": panel}, photo() if image is None else image, height=height)
    return pictures["it"].astype(int)


def is_colour(picture, colour):
    return (picture == colour).all(-1)


def smooth(side=64):
    """A map (side, side) in [0, 1] with two hills of different height."""
    y, x = np.mgrid[:side, :side] / side
    hills = np.exp(-40 * ((x - 0.3) ** 2 + (y - 0.4) ** 2)) + 0.7 * np.exp(-60 * ((x - 0.75) ** 2 + (y - 0.7) ** 2))
    return ((hills - hills.min()) / (hills.max() - hills.min())).astype(np.float32)


@pytest.mark.parametrize("size", [(64, 64), (640, 480)])
def test_an_orange_picture_is_not_hot(size):
    cold = show(Panel("heat", np.zeros(size[::-1], np.float32), 0.5), photo(size=size))
    assert is_colour(cold, VIRIDIS(0.0, bytes=True)[:3]).all()


def test_a_heat_panel_depends_on_the_map_alone():
    heat, truth = smooth(), smooth() > 0.6
    drawn = [show(Panel("heat", heat, 0.5, truth), image) for image in (photo(), photo((0, 0, 255)), noise())]
    assert (drawn[0] == drawn[1]).all() and (drawn[0] == drawn[2]).all()
    bare = show(Panel("heat", heat), noise(), height=64)
    assert (bare == VIRIDIS(heat, bytes=True)[..., :3]).all()


def test_all_maps_have_one_scale():
    """A weak map is not stretched: 0.4 has the same colour wherever it stands."""
    weak = show(Panel("heat", np.full((8, 8), 0.4, np.float32)), photo(size=(8, 8)))
    strong = show(Panel("heat", np.array([[0.4, 1.0], [0, 0]], np.float32)), photo(size=(2, 2)))
    expected = VIRIDIS(np.float32(0.4), bytes=True)[:3]
    assert is_colour(weak, expected).all() and is_colour(strong[: SIDE // 2, : SIDE // 2], expected).all()
    bar = np.asarray(figures._colour_bar([], SIDE))[figures.LINE :, figures.GAP]
    assert (bar[0] == VIRIDIS(1.0, bytes=True)[:3]).all() and (bar[SIDE - 1] == VIRIDIS(0.0, bytes=True)[:3]).all()


def ends(mask):
    """The pixels of a mask that have a neighbour outside of it; the picture's edge is outside, too."""
    wide = np.pad(mask, 1)
    return mask & ~(wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:])


@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.75])
def test_the_masks_outline_is_the_thresholds_contour(threshold):
    heat = smooth(SIDE)
    line = is_colour(show(Panel("heat", heat, threshold), photo(size=(SIDE, SIDE))), maps.MASK)
    reached = heat >= np.float32(threshold)
    assert line[ends(reached)].all() and not line[~reached].any()
    assert not line[reached & ~ends(reached) & ~ends(reached & ~ends(reached))].any()  # two pixels wide


def test_a_small_pictures_outline_follows_its_pixels():
    heat = smooth(60)  # four pixels of the panel to one
    line = is_colour(show(Panel("heat", heat, 0.5), photo(size=(60, 60))), maps.MASK)
    assert line[ends((heat >= 0.5).repeat(4, 0).repeat(4, 1))].all()


@pytest.mark.parametrize("side", [24, 240, 960])
def test_outlines_are_equally_wide_on_small_and_large_pictures(side):
    mask = np.zeros((side, side), bool)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = True
    row = show(Panel("heat", mask.astype(np.float32), 0.5, mask), photo(size=(side, side)))[SIDE // 2]
    shown = "".join("m" if is_colour(p, maps.MASK) else "t" if is_colour(p, maps.TRUTH) else "." for p in row)
    assert [part for part in shown.split(".") if part] == ["ttmm", "mmtt"], "where both agree, both are seen"
    dark = shown.index("t") - 1, shown.index("m") + 2
    assert all(is_colour(row[place], maps.BLACK) for place in dark)


def luminance(colour):
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(colour[:3]) / 255]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_outlines_differ_in_brightness_and_from_every_heat():
    light, dark = luminance(maps.TRUTH), luminance(maps.MASK)
    assert (light + 0.05) / (dark + 0.05) > 3
    heat = VIRIDIS(np.linspace(0, 1, 256), bytes=True)[:, :3].astype(int)
    assert min(abs(heat - colour).max(1).min() for colour in (maps.TRUTH, maps.MASK)) > 60


def test_the_truth_keeps_its_colours_and_all_else_is_dark():
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    shown = show(Panel("mask", mask, truth=mask))
    assert (shown[SIDE // 2, SIDE // 2] == (230, 130, 20)).all() and is_colour(shown, maps.TRUTH).any()
    corner = shown[:40, :40]
    assert corner.max() < 60 and (corner == corner[..., :1]).all()


def test_label_maps_have_the_very_colours_of_their_key():
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[:100], labels[100:150], labels[150:160] = 1, 23, 255  # 23 wants the colour of 1
    panel = Panel("labels", labels, 0.5, names={1: "circle", 23: "ring"})
    pictures, around = maps.render({"it": panel}, noise((SIDE, SIDE)))
    key = {swatch.meaning: swatch.colour for swatch in around.swatches}
    assert list(key) == ["circle", "ring", "not scored"] and len(set(key.values())) == 3
    assert not around.bar and around.thresholds == {"it": 0.5}
    for rows, name in ((slice(0, 100), "circle"), (slice(100, 150), "ring"), (slice(150, 160), "not scored")):
        assert is_colour(pictures["it"][rows], key[name]).all()
    background = pictures["it"][160:]
    assert (background == background[..., :1]).all() and background.max() < 255


def test_a_class_keeps_its_colour_from_picture_to_picture():
    first, second = (maps.class_colours([np.array([labels])]) for labels in ([1, 2, 8], [0, 2, 5, 8, 255]))
    assert {2: first[2], 8: first[8]}.items() <= second.items() and set(second) == {2, 5, 8}
    assert len(set(maps.class_colours([np.arange(90, 90 + len(maps.CLASSES))[None]]).values())) == len(maps.CLASSES)


def test_outlines_survive_the_page():
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    picture = show(Panel("heat", smooth(), 0.5, mask)).astype(np.uint8)
    coded = data_uri(Image.fromarray(picture)).partition(",")[2]
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(coded)))).astype(int)
    for colour in (maps.TRUTH, maps.MASK):
        assert np.abs(seen[is_colour(picture, colour)].mean(0) - colour).max() < 25


def test_captions_part_behind_words():
    assert figures.wrap("attribute_binding_prefixed alpha=0.9", 20) == ["attribute_binding_", "prefixed alpha=0.9"]
    assert figures.wrap("noun_chunk refine=guided_filter", 24) == ["noun_chunk", "refine=guided_filter"]
    assert figures.wrap("noun_chunk", 20) == ["noun_chunk"] and figures.wrap("", 20) == [""]


def test_without_a_threshold_no_mask_is_drawn_and_the_picture_says_so():
    pictures, around = maps.render({"it": Panel("heat", smooth())}, photo(), "data mine; model sd15")
    assert around.about == "data mine; model sd15; no threshold was chosen: no masks" and around.bar
    assert not around.swatches and not is_colour(pictures["it"], maps.MASK).any()


@pytest.fixture
def said(monkeypatch):
    """Every text that is drawn on a picture, in order."""
    texts, draw = [], ImageDraw.ImageDraw.text

    def noted(self, xy, text, *given, **more):
        texts.append(text)
        return draw(self, xy, text, *given, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", noted)
    return texts


def test_pictures_name_data_model_method_and_threshold(tmp_path, said):
    folder = tmp_path / "run"
    given = ("tracker=none", "dataset.limit=4", "text_processor=paper", "alpha=0.5", "gallery=1", "changed=1")
    code, _, err = command(*given, f"hydra.run.dir={folder}")
    assert code == 0, err
    first, ours, _ = (v for v in json.loads((folder / "summary.json").read_text())["variants"])
    at = [f"threshold {v['threshold']:.2f}" for v in (first, ours)]
    about = {f.stem: decode(Image.open(f).text[KEY]) for f in (folder / "gallery").glob("*.png")}
    shown = about["gallery_000"].thresholds
    assert shown == {"baseline": first["threshold"], "attribute_binding alpha=0.5": ours["threshold"]}
    changed = [d.thresholds for name, d in about.items() if not name.startswith("gallery")]
    assert changed and all(set(t.values()) == {first["threshold"]} for t in changed), "one threshold for both"
    drawn = " ".join(said)
    assert f"baseline {at[0]}" in drawn and f"attribute_binding alpha=0.5 {at[1]}" in drawn
    assert drawn.count("data shapes test; model bundled") == len(about)


@pytest.fixture
def figure(monkeypatch):
    """The figure that was plotted last, as it was before it was written."""
    kept = []
    monkeypatch.setattr(plots.plt, "close", kept.append)
    yield lambda: kept[-1]
    monkeypatch.undo()
    for one in kept:
        plots.plt.close(one)


def table(paper):
    rows = [("val", None, np.nan), ("val", 0.9, np.nan), ("test", None, 40.0), ("test", 0.9, 42.0)]
    return pd.DataFrame(
        {
            "split": split, "variant": "baseline" if alpha is None else f"ours alpha={alpha}", "alpha": alpha,
            "paper": paper, "mIoU oracle": 50.0, "threshold oracle": 0.45, "mIoU held out": held,
            "threshold held out": None if np.isnan(held) else 0.5,
        }
        for split, alpha, held in rows
    )  # fmt: skip


def test_a_tables_figure_names_data_model_and_thresholds(tmp_path, figure):
    for paper, marks in ((23.0, ["measured", "the paper (Stable Diffusion, its own data)"]), (None, ["measured"])):
        plots.paper_figure(table(paper), "Table 2", "shapes val, shapes test", "bundled", tmp_path / "t.png")
        (axis,) = figure().axes
        assert axis.get_title() == "Table 2\ndata shapes val, shapes test; model bundled"
        assert sorted(axis.get_legend_handles_labels()[1]) == marks, "no mark of the paper without its figures"
        assert [label.get_text() for label in axis.get_yticklabels()] == [
            "baseline (val, oracle threshold 0.45)", "ours alpha=0.9 (val, oracle threshold 0.45)",
            "baseline (test, held-out threshold 0.50)", "ours alpha=0.9 (test, held-out threshold 0.50)",
        ]  # fmt: skip
        assert [bar.get_width() for bar in axis.patches] == [50, 50, 40, 42]


def test_differences_are_those_of_the_last_split_and_filled_where_zero_lies_outside(tmp_path, figure):
    """Of test the held-out difference, where there is one, else the oracle one; the first variant has none."""
    told = {"held out": [None] * 4 + [1.0, None], "oracle": [None, 9.0, 9.0, None, 3.0, -2.0]}
    columns = {f"difference {kind}": values for kind, values in told.items()}
    columns |= {
        f"{end} {kind}": [v and v + by for v in told[kind]]
        for kind in told
        for end, by in (("low", -1.5), ("high", 1.5))
    }
    rows = pd.DataFrame(columns | {"split": ["val"] * 3 + ["test"] * 3, "variant": ["baseline", "a", "b"] * 2})
    plots.differences(rows, "Edits", "shapes val, shapes test", "bundled", tmp_path / "d.png")
    (axis,) = figure().axes
    assert axis.get_title() == "Edits\ndata shapes val, shapes test, of which test is shown; model bundled"
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]
    drawn = {line.get_label(): list(line.get_xdata()) for line in axis.lines}
    assert drawn["difference, its interval leaves out zero"] == [-2] and drawn[
        "difference, its interval holds zero"
    ] == [1]
    assert [list(ends[:, 0]) for ends in axis.collections[0].get_segments()] == [[-0.5, 2.5], [-3.5, -0.5]]


def test_figure_7_has_a_line_a_method(tmp_path, figure):
    """Two methods under three alphas: one line through all six points would jump up and down at each alpha."""
    base, *_ = table(None).to_dict("records")
    rows = [{**base, "variant": v, "mIoU oracle": h} for v, h in (("baseline", 50.0), ("noun_chunk", 45.0))]
    for method, heights in (("ours", [40.0, 41.0, 42.0]), ("ours_prefixed", [46.0, 47.0, 48.0])):
        for alpha, height in zip((0.5, 0.7, 0.9), heights, strict=True):
            rows.append({**base, "variant": f"{method} alpha={alpha}", "alpha": alpha, "mIoU oracle": height})
    plots.paper_figure(pd.DataFrame(rows), "Figure 7", "shapes val", "bundled", tmp_path / "t.png")
    (axis,) = figure().axes
    drawn = {line.get_label(): [float(y) for y in line.get_ydata()] for line in axis.lines}
    assert drawn == {
        "ours: val, oracle threshold": [40, 41, 42], "ours_prefixed: val, oracle threshold": [46, 47, 48],
        "baseline: val, oracle threshold": [50, 50], "noun_chunk: val, oracle threshold": [45, 45],
    }  # fmt: skip
    assert len({line.get_linestyle() + str(line._dash_pattern) for line in axis.lines[2:]}) == 2


def test_lines_can_be_told_apart_without_colours(tmp_path, figure):
    curves = {f"variant {i}": np.full(101, i) for i in range(20)}
    plots.threshold_curve(curves, tmp_path / "t.png", "data shapes test; model bundled")
    (axis,) = figure().axes
    looks = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in axis.lines]
    assert len({look[1:] for look in looks}) == 20, "style and mark alone tell them apart"
    assert all(a != b for one, other in pairwise(looks) for a, b in zip(one, other, strict=True))
    assert axis.get_title() == "data shapes test; model bundled" and axis.get_ylabel() == "mIoU (%)"
    (legend,) = figure().legends
    assert legend.get_window_extent().y1 <= 0, "below the plot, where it hides no line"
