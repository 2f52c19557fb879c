"""The figures that README, docs and model card show are those that the shipped files give."""

import re

import numpy as np
import pytest

from attrbind_exp.config import CONF, PACKAGE
from attrbind_exp.data.masks import decode_mask
from attrbind_exp.data.refer import load_refer
from attrbind_exp.pretrain.clip import TWO_PHRASES, noun_variance
from attrbind_exp.pretrain.scenes import RARE, SHAPES, USUAL, pair_weights
from attrbind_exp.reporting.tables import ablation
from attrbind_exp.runs.summary import read_summary
from tests.test_command import command

CARD = (PACKAGE / "assets" / "README.md").read_text()
README = (CONF.parent / "README.md").read_text()
READING = (CONF.parent / "docs" / "reading-results.md").read_text()
WAY = "% of the way from all objects to the ceiling"
TOLERANCE = 0.3  # points; another CPU sums in another order


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundled")
    given = ("text_processor=ablation", "tracker=none", "gallery=0", "changed=0", f"hydra.run.dir={folder}")
    code, _, err = command(*given)
    assert code == 0, err
    return read_summary(folder)


def table(text, first):
    """Cells of the Markdown table whose head starts with `first`: {row: {column: cell}}."""
    lines = text[text.index(f"| {first}") :].split("\n\n")[0].splitlines()
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def numbers(cell):
    return [float(n) for n in re.findall(r"-?\d+\.\d+|\d+", cell)]


def test_the_table_of_make_run(summary):
    shown = table(READING, "mIoU in %")
    made = ablation(summary).set_index("mIoU in %")
    assert (summary.n_scored, summary.n_failed) == (1710, 0) and set(made.index) == set(shown)
    for name, row in made.iterrows():
        assert list(shown[name]) == ["mIoU in %", *made.columns] and shown[name]["n"] == row["n"], name
        for column in made.columns[1:]:
            assert numbers(shown[name][column]) == pytest.approx(numbers(row[column]), abs=2 * TOLERANCE), name


def test_the_table_in_the_readme(summary):
    """Five rows and six columns of the same run, and what the text below says of it."""
    shown = table(README, "edit of the words")
    assert len(shown) == 5 and all(len(row) == 6 for row in shown.values())
    made = ablation(summary).set_index("mIoU in %")
    told = ("all", "difference to baseline", "order = target_second", "peak on distractor", WAY)
    for row, column in zip(shown.values(), made.columns[1:], strict=False):
        for cell, name in zip(list(row.values())[1:], told, strict=True):
            first, second = numbers(cell)[:1], numbers(made.loc[name, column])[:1]
            assert first == pytest.approx(second, abs=2 * TOLERANCE), (column, name)
    heights = {reference.name: reference.mIoU for reference in summary.references}
    floor, ceiling = map(
        float, re.search(r"scores (\d+\.\d), a perfect map of its grid (\d+\.\d)", " ".join(README.split())).groups()
    )
    assert (floor, ceiling) == pytest.approx(
        (heights["floor: all objects"], heights["ceiling of the map's grid"]), abs=0.06
    )
    second = [v.slices["order"]["target_second"].mIoU for v in summary.variants]
    assert second[3] - second[0] == pytest.approx(3.4, abs=0.6), (
        "what README and study say that the prefixed chunk mends"
    )
    assert 15 <= summary.variants[0].slices["rivalry"]["rare_beside_usual"].peak["distractor"] <= 60, "to be mended"


def test_the_readme_is_read_in_four_minutes():
    words = re.sub(r"```.*?```", "", README, flags=re.S).split()
    assert sum(bool(re.search(r"\w", word)) for word in words) <= 600 and README.count("\n") <= 100


def test_the_figures_in_the_model_card(summary):
    shown = {name: numbers(cells["test"])[0] for name, cells in table(CARD, "baseline").items()}
    threshold = re.search(r"threshold (0\.\d\d), chosen on val", CARD)[1]
    slices, binding = summary.variants[0].slices, summary.variants[0].binding
    test = load_refer(str(PACKAGE / "assets"), "shapes", "made", "test")
    ones = [decode_mask(s.segmentation, s.size).mean() for s in test.samples]
    assert summary.variants[0].mIoU_at[threshold] == pytest.approx(shown["mIoU"], abs=TOLERANCE)
    assert 100 * np.mean(ones) == pytest.approx(shown["mIoU of an all-ones mask"], abs=0.06)
    rival = slices["rivalry"]["rare_beside_usual"]
    for name, value in {
        "mIoU where another object has the target's shape": slices["same_shape"]["distractor"].mIoU,
        "mIoU where another object has the target's colour": slices["same_colour"]["distractor"].mIoU,
        "peak on another shape, where an object has the target's colour": slices["same_colour"]["distractor"].peak[
            "other"
        ],
        "peak on target": binding.peak["target"].mean,
        "peak on distractor, where there is one": binding.peak_rivals["distractor"].mean,
        "peak on distractor, rare target beside its usual colour": rival.peak["distractor"],
        "swapped word moves the heat the right way, %": binding.moved.mean,
        "swapped word moves the heat by (log ratio)": binding.shift.mean,
    }.items():
        assert value == pytest.approx(shown[name], abs=2 * TOLERANCE), name


def test_what_the_card_says_that_a_noun_knows(model):
    """The study's why: little of its own colour, some of the other phrase's."""
    known = noun_variance(model.tokenizer, model.text_encoder, TWO_PHRASES)
    shown = re.search(
        r"([\d.]+) % of the\s+variance is its own shape, ([\d.]+) % its own colour, ([\d.]+) % the other", CARD
    )
    assert [known[k] for k in ("shape", "colour", "other colour")] == pytest.approx(
        list(map(float, shown.groups())), abs=0.5
    )


def test_the_co_occurrence_in_the_model_card():
    shown = table(CARD, "shape")
    for shape in SHAPES:
        assert shown[shape]["usual"] == USUAL[shape] and shown[shape]["rare"] == ", ".join(RARE[shape])
        assert pair_weights(shape)[USUAL[shape]] == 0.35 and {pair_weights(shape)[c] for c in RARE[shape]} == {0.01}
