"""Three tables that a reader sees, made again from the rows: read with json and csv, counted in plain loops. Nothing of
the package computes here; it only makes the run. Then every cell is compared."""

import csv
import itertools
import json
import math
import re

import numpy as np
import pytest

from attrbind_exp.commands.study import gain_table
from attrbind_exp.config import PACKAGE
from attrbind_exp.reporting.binding_study import read_expressions
from attrbind_exp.reporting.paper_tables import read_runs
from tests.test_command import command

GRID = range(30, 76, 5)
BASELINE = "baseline"
OBJECTS, CENTRE, CEILING = "floor: all objects", "floor: centre", "ceiling of the map's grid"
WAY = "% of the way from all objects to the ceiling"
SHORTER = {"attribute_binding": "noun_chunk", "attribute_binding_prefixed": "noun_chunk_prefixed"}
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sweep of Table 4 over a part of val and test."""
    where = tmp_path_factory.mktemp("sweep")
    told = ("sweep=table4_ablation", "dataset=shapes", "model=bundled", "tracker=none", "gallery=0", "changed=0")
    code, _, err = command(*told, "dataset.fraction=0.2", cwd=where)
    assert code == 0, err
    return where / "outputs" / "table4_ablation" / "shapes_bundled"


@pytest.fixture(scope="module")
def rows(folder):
    """{split: {variant: {sample: row}}}, variants in the order of the run."""
    found = {}
    for split in ("val", "test"):
        (file,) = folder.glob(f"*split={split}*/expressions.jsonl")
        of = found.setdefault(split, {})
        for line in file.read_text().splitlines():
            row = json.loads(line)
            of.setdefault(row["text_processor"], {})[row["sample_id"]] = row
    return found


def iou(row, threshold):
    """In percent, at a threshold in hundredths."""
    return 100 * row["intersection"][threshold] / max(1, row["union"][threshold])


def mean(values):
    values = list(values)
    return math.fsum(values) / len(values)


def references(of):
    """Of floors and ceiling the mIoU in percent at each threshold of the grid."""
    told = [row["references"] for row in of[BASELINE].values()]
    assert not any("references" in row for method in of if method != BASELINE for row in of[method].values())
    found = {}
    for name, field in {OBJECTS: "objects", CENTRE: "centre", CEILING: "ceiling"}.items():
        each = [reference[field] for reference in told]
        found[name] = {k: 100 * mean(e[i] if len(e) > 1 else e[0] for e in each) for i, k in enumerate(GRID)}
    return found


def way(value, floor, ceiling):
    return 100 * (value - floor) / (ceiling - floor)


def miou(of, threshold):
    return mean(iou(row, threshold) for row in of.values())


def best(of):
    """The first of the grid with the highest mIoU."""
    return best_of({k: miou(of, k) for k in GRID})


def best_of(found):
    return max(GRID, key=lambda k: found[k])


def bounds(values, images):
    """A 95 % bootstrap over images, and how far two such bootstraps may lie apart; None where there are few
    images."""
    rng, by = np.random.default_rng(7), {}
    for value, image in zip(values, images, strict=True):
        by.setdefault(image, []).append(value)
    sums, sizes = np.array([[sum(v), len(v)] for v in by.values()], float).T
    drawn = rng.integers(0, len(sums), (4000, len(sums)))
    low, high = np.percentile(sums[drawn].sum(1) / sizes[drawn].sum(1), [2.5, 97.5])
    # Of fewer than 50 images intervals are made in another way, which is never much narrower.
    return low, high, 0.12 * (high - low) if len(sums) >= 50 else None


def check_bounded(cell, values, images, digits=1, shown=lambda x: x):
    """A cell such as "+1.0 [+0.8, +1.2]" against the mean and interval of values."""
    values = list(values)
    told = [float(x) for x in NUMBER.findall(cell.partition("*")[0])]
    half = 0.51 * 10**-digits
    assert told[0] == pytest.approx(shown(mean(values)), abs=half), cell
    low, high, apart = bounds(values, images)
    if apart is None:
        assert told[2] - told[1] >= 0.9 * (shown(high) - shown(low)) - 2 * half, cell
    else:
        assert told[1] == pytest.approx(shown(low), abs=apart + half), cell
        assert told[2] == pytest.approx(shown(high), abs=apart + half), cell


def objects():
    """Category and image of every annotated object of the bundled data, by id."""
    data = json.loads((PACKAGE / "assets" / "shapes" / "instances.json").read_text())
    return {str(a["id"]): (a["category_id"], a["image_id"]) for a in data["annotations"]}


def cells(text):
    """Head and lines of the Markdown table in a text."""
    lines = [line.strip()[1:-1].split("|") for line in text.splitlines() if line.startswith("|")]
    head, _, *body = [[cell.strip() for cell in line] for line in lines]
    return head, body


def own_object(row):
    return next(iter(row["heat_on"]))


def rivals(row, known):
    """The other objects of the target's category in its image."""
    own = own_object(row)
    return [key for key in row["heat_on"] if key != own and known[key][0] == known[own][0]]


def test_the_ablation_table_of_a_run(folder, rows):
    (file,) = folder.glob("*split=test*/ablation.csv")
    lines = list(csv.DictReader(file.open()))
    table = {line["mIoU in %"]: line for line in lines}
    of, known = rows["test"], objects()
    labels = dict(zip(of, [k for k in lines[0] if k not in ("mIoU in %", "n")], strict=True))
    checked = set()
    for method, label in labels.items():
        mine, at = of[method], best(of[method])
        base = of[BASELINE]

        def cell(name, label=label):
            checked.add(name)
            return table[name][label]

        assert table["all"]["n"] == str(len(mine))
        assert float(cell("all")) == pytest.approx(miou(mine, at), abs=0.051)
        assert float(cell("threshold (oracle)")) == at / 100
        heights = {name: max(found.values()) for name, found in references(of).items()}
        for name, height in heights.items():
            assert float(cell(name)) == pytest.approx(height, abs=0.051)
        share = way(miou(mine, at), heights[OBJECTS], heights[CEILING])
        assert float(cell(WAY)) == pytest.approx(share, abs=0.051)
        pooled = [sum(row[key][at] for row in mine.values()) for key in ("intersection", "union")]
        assert float(cell("oIoU")) == pytest.approx(100 * pooled[0] / pooled[1], abs=0.051)
        good = 100 * mean(iou(row, at) >= 50 for row in mine.values())
        assert float(cell("precision at IoU 0.5")) == pytest.approx(good, abs=0.051)
        slices = {(name, value) for row in mine.values() for name, value in row["slices"].items()}
        for name, value in slices:
            part = [row for row in mine.values() if row["slices"][name] == value]
            assert float(cell(f"{name} = {value}")) == pytest.approx(mean(iou(row, at) for row in part), abs=0.051)
            assert table[f"{name} = {value}"]["n"] == str(len(part))
        images = [row["image_id"] for row in mine.values()]
        check_bounded(cell("peak on target"), [100 * (row["peak"] == "target") for row in mine.values()], images)
        with_rival = [row for row in mine.values() if rivals(row, known)]
        images = [row["image_id"] for row in with_rival]
        for name, place in (("peak on target, with distractor", "target"), ("peak on distractor", "distractor")):
            check_bounded(cell(name), [100 * (row["peak"] == place) for row in with_rival], images)
        ratios = [
            math.log(
                max(0.01, row["heat_on"][own_object(row)]) / max(0.01, *(row["heat_on"][k] for k in rivals(row, known)))
            )
            for row in with_rival
        ]
        check_bounded(cell("heat target / distractor"), ratios, images, 2, math.exp)
        check_swaps(cell, mine, known)
        if method != BASELINE:
            changes = [iou(row, at) - iou(base[key], best(base)) for key, row in mine.items()]
            check_bounded(cell("difference to baseline"), changes, [row["image_id"] for row in mine.values()])
        if (than := SHORTER.get(method)) is not None:
            shorter = of[than]
            changes = [iou(row, at) - iou(shorter[key], best(shorter)) for key, row in mine.items()]
            check_bounded(cell(f"beyond {than}"), changes, [row["image_id"] for row in mine.values()])
    assert checked == set(table), set(table) ^ checked


def check_swaps(cell, mine, known):
    """Pairs about two objects of one category in one image whose expressions differ in one word."""
    shifts = []
    for a, b in itertools.combinations(mine.values(), 2):
        own, other = own_object(a), own_object(b)
        words = [row["expression"].split() for row in (a, b)]
        if own == other or known[own] != known[other] or len(words[0]) != len(words[1]):
            continue
        if sum(x != y for x, y in zip(*words, strict=True)) == 1:
            first, second = (max(0.01, row["heat_on"][own]) / max(0.01, row["heat_on"][other]) for row in (a, b))
            shifts.append(math.log(first / second))
    moved = 100 * mean(shift > 0 for shift in shifts)
    told = [float(x) for x in NUMBER.findall(cell("swapped word moves the heat the right way, %"))]
    assert told[0] == pytest.approx(moved, abs=0.051)
    told = [float(x) for x in NUMBER.findall(cell("swapped word moves the heat by (log ratio)"))]
    assert told[0] == pytest.approx(mean(shifts), abs=0.0051)


def test_the_table_of_a_sweep(folder, rows):
    head, body = cells((folder / "results.md").read_text())
    shown = [dict(zip(head, line, strict=True)) for line in body]
    wanted = [(split, method) for split in ("val", "test") for method in (*rows[split], OBJECTS, CENTRE, CEILING)]
    assert len(shown) == len(wanted)
    chooser = references(rows["val"])
    for (split, method), line in zip(wanted, shown, strict=True):
        heights = references(rows[split])
        if method in heights:
            found, own, chosen = heights[method], best_of(heights[method]), best_of(chooser[method])
            assert line["variant"] == method and not line[WAY] and not line["difference oracle [95 %]"]
            assert float(line["at 0.50"]) == pytest.approx(found[50], abs=0.051)
            check_at(line["oracle"], found[own], own if method != OBJECTS else None)
            if split == "test":
                check_at(line["held out"], found[chosen], chosen if method != OBJECTS else None)
            continue
        mine, base = rows[split][method], rows[split][BASELINE]
        images = [row["image_id"] for row in mine.values()]
        own, chosen = best(mine), best(rows["val"][method])
        assert (line["split"], line["n"]) == (split, str(len(mine)))
        assert float(line["at 0.50"]) == pytest.approx(miou(mine, 50), abs=0.051)
        check_at(line["oracle"], miou(mine, own), own)
        if split == "test":
            check_at(line["held out"], miou(mine, chosen), chosen)
        else:
            assert not line["held out"] and not line["difference held out [95 %]"]
        at = [chosen if split == "test" else own] + [
            best_of(chooser[name] if split == "test" else heights[name]) for name in (OBJECTS, CEILING)
        ]
        share = way(miou(mine, at[0]), heights[OBJECTS][at[1]], heights[CEILING][at[2]])
        assert float(line[WAY]) == pytest.approx(share, abs=0.051)
        if method == BASELINE:
            continue
        if (than := SHORTER.get(method)) is not None:
            shorter = rows[split][than]
            before = best(rows["val"][than]) if split == "test" else best(shorter)
            changes = [iou(row, at[0]) - iou(shorter[key], before) for key, row in mine.items()]
            told, _, name = line["last edit adds [95 %]"].partition(" beyond ")
            assert name == than
            check_bounded(told, changes, images)
        first = best(base if split == "val" else rows["val"][BASELINE])
        pairs = [(row, base[key]) for key, row in mine.items()]
        if split == "test":
            check_bounded(
                line["difference held out [95 %]"], [iou(a, chosen) - iou(b, first) for a, b in pairs], images
            )
            check_bounded(
                line["difference oracle [95 %]"], [iou(a, own) - iou(b, best(base)) for a, b in pairs], images
            )
        changes = [round(iou(a, first) - iou(b, first), 4) for a, b in pairs]
        votes = [sum(c > 0 for c in changes), sum(c < 0 for c in changes), sum(c == 0 for c in changes)]
        counts, _, threshold = line["better / worse / same"].partition(" @")
        assert [int(x) for x in counts.split(" / ")] == votes and float(threshold) == first / 100


def check_at(cell, value, threshold):
    told, _, at = cell.partition(" @")
    assert float(told) == pytest.approx(value, abs=0.051)
    assert at == ("" if threshold is None else f"{threshold / 100:.2f}")


def test_the_table_of_the_study(folder, rows):
    val, test = read_runs(folder, ("val", "test"))
    head, body = cells(gain_table(read_expressions(test, val)))
    groups = {"all": None, "one noun": ("order", "one_noun"), "target first": ("order", "target_first"),
              "target second": ("order", "target_second"), "rare beside usual": ("rivalry", "rare_beside_usual")}  # fmt: skip
    base, first = rows["test"][BASELINE], best(rows["val"][BASELINE])
    for method, line in zip(rows["test"], body, strict=True):
        chosen = best(rows["val"][method])
        for (name, at), title, cell in zip(groups.items(), head[1:], line[1:], strict=True):
            part = [
                (row, base[key])
                for key, row in rows["test"][method].items()
                if at is None or row["slices"][at[0]] == at[1]
            ]
            assert title == f"{name} ({len(part)})"
            change = mean(iou(a, chosen) - iou(b, first) for a, b in part)
            assert float(NUMBER.findall(cell)[0]) == pytest.approx(change, abs=0.051)
