"""python -m attrbind_exp.study OUTPUTS FILE: the binding study as a page, from what its sweeps left below OUTPUTS.

What stands in FILE above its first section is written by hand and stays; everything below is made anew.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from PIL import Image

from attrbind_exp.commands.start import as_called
from attrbind_exp.commands.table import SAID_HELP
from attrbind_exp.commands.verbosity import taking_verbosity
from attrbind_exp.edits.variant import is_floor
from attrbind_exp.reporting.binding_study import between, by_group, gains, read_expressions, slice_table
from attrbind_exp.reporting.made_with import difference_line
from attrbind_exp.reporting.paper_tables import Run, read_runs
from attrbind_exp.reporting.tables import bounded, figure, mark_line, markdown, marked
from attrbind_exp.runs.store import write_text
from attrbind_exp.scoring.compare import paired_difference
from attrbind_exp.scoring.figures import Difference, VariantFigures
from attrbind_exp.types import UserError

HEAD = """# Does editing the text embedding mend mis-binding?

Thresholds are the best of 0.30, 0.35 .. 0.75 on val, each variant's own. Intervals are 95 %, over scenes. They are not
corrected for the number of comparisons: of many, some leave out zero by chance. Differences with a * are significant
after Holm's correction over all comparisons of their table; the others are leads, not results.
"""

PARTLY = (
    "Part of the test scenes, oracle thresholds; the baseline's mIoU, then differences to it. "
    "`half` reads layers at half of the latents' resolution, and so on."
)


def main_runs(folder: Path) -> tuple[Run, Run]:
    """The val and the test run of sweep=binding_study."""
    runs = {r.split: r for r in read_runs(folder, ("val", "test"))}
    if missing := {"val", "test"} - runs.keys():
        raise UserError(
            f"no finished run of split {', '.join(sorted(missing))} below '{folder}'; run sweep=binding_study"
        )
    return runs["val"], runs["test"]


def gain_table(rows: pd.DataFrame) -> str:
    """A line a variant, a column a group of expressions; each cell the mean of `gain` with its interval, marked where
    it survives Holm's correction over the table. The first variant is what the others are compared with, and a floor is
    compared with nothing."""
    found = {label: _gains(rows[rows.label == label]) for label in rows.label.unique()}
    first = next(iter(found))
    for label in [first, *filter(is_floor, found)]:
        found[label] = {name: d and replace(d, p=None) for name, d in found[label].items()}
    flat = [d for groups in found.values() for d in groups.values()]
    cells = iter(marked(flat))
    shown = {label: {name: next(cells) or "-" for name in groups} for label, groups in found.items()}
    return _noted(_by_group_table(rows, shown), flat)


def _gains(rows: pd.DataFrame) -> dict[str, Difference | None]:
    """The mean gain of one variant in every group, None where a group has no expression."""
    groups = by_group(rows).items()
    return {k: paired_difference(0 * p.gain, p.gain, p.image_id.tolist()) if len(p) else None for k, p in groups}


def effect_table(rows: pd.DataFrame, show: Callable[[pd.DataFrame], str]) -> str:
    """A line a variant, a column a group of expressions; `show` makes a cell of the group's rows of one variant."""
    shown = {}
    for label in rows.label.unique():
        groups = by_group(rows[rows.label == label]).items()
        shown[label] = {name: show(part) if len(part) else "-" for name, part in groups}
    return _by_group_table(rows, shown)


def _by_group_table(rows: pd.DataFrame, shown: dict[str, dict[str, str]]) -> str:
    n = by_group(rows[rows.label == rows.label.iloc[0]])
    lines = [{"": label, **cells} for label, cells in shown.items()]
    return markdown(pd.DataFrame(lines).rename(columns={k: f"{k} ({len(v)})" for k, v in n.items()}))


def _noted(table: str, differences: Sequence[Difference | None]) -> str:
    """A table, and under it what its marks say."""
    return "\n\n".join(filter(None, [table, mark_line([None if d is None else d.p for d in differences])]))


def swap_table(run: Run) -> str:
    """How swapped words move the heat, and the heat ratio, of every variant whose binding figures are known."""
    lines = [
        {
            "": v.label,
            f"swapped word moves the heat the right way, % of {v.binding.moved.n} pairs": bounded(v.binding.moved),
            "moves it by (log ratio)": bounded(v.binding.shift, 2),
            "heat on target / on distractor": bounded(v.binding.heat_ratio, 2),
            "peak on distractor, %": bounded(v.binding.peak_rivals["distractor"]),
        }
        for v in run.summary.variants
        if v.binding is not None
    ]
    return markdown(pd.DataFrame(lines))


def settings_table(runs: Sequence[Run], key: str) -> str:
    """A line a run of a sweep over `key`: mIoU of the baseline and what each other variant adds to it, with oracle
    thresholds; where there are several noise seeds, their spread. Labels are without the key, which has a column."""
    name = key.rpartition(".")[2]
    lines: list[dict[str, str]] = []
    differences = [_rival(v) for run in runs for v in run.summary.variants[1:]]
    cells = iter(marked(differences))
    for run in runs:
        value = next((o.partition("=")[2] for o in run.summary.overrides if o.startswith(key)), "default")
        first, *others = run.summary.variants
        line = {name: value, "n": str(first.n), first.label: figure(first.mIoU)}
        if first.mIoU_spread is not None:
            line["its spread over seeds"] = figure(first.mIoU_spread, 2)
        for v in others:
            label = " ".join(part for part in v.label.split() if not part.startswith(f"{name}="))
            line[label] = next(cells) or "-"
        lines.append(line)
    return _noted(markdown(pd.DataFrame(lines)), differences)


def _rival(variant: VariantFigures) -> Difference | None:
    """A variant's difference; that of a floor without its p, since it is compared with nothing."""
    found = variant.difference
    return replace(found, p=None) if found and is_floor(variant.label) else found


def head(file: Path) -> str:
    """What stands above the first section of a page."""
    return file.read_text(encoding="utf-8").partition("\n## ")[0] if file.exists() else HEAD


def page(outputs: Path, of: str, file: Path) -> str:
    """The whole page, from the runs of all three sweeps on `of`, DATA_MODEL; its pictures are written to images/ beside
    `file`."""
    val, test = main_runs(outputs / "binding_study" / of)
    rows = read_expressions(test, val)
    base = rows[rows.label == test.summary.variants[0].label]
    draw(rows, test, file)
    thresholds = ", ".join(f"{k} {v:.2f}" for k, v in base.groupby("label").threshold.first().items())
    ours = [v for v in test.summary.variants if not is_floor(v.label)][-1].text_processor
    layers, uncond = (read_runs(outputs / name / of) for name in ("binding_layers", "binding_uncond"))
    parts = [
        head(file),
        "## Does mis-binding occur, and where?",
        f"The baseline (threshold on val: {thresholds}), {len(base)} expressions:",
        markdown(slice_table(base)),
        "## What do the edits do?",
        "mIoU less the baseline's on the same expressions:",
        gain_table(rows),
        "Between floors and the ceiling of the map's grid, and what each last edit adds:",
        markdown(between(val, test)),
        "Peak on the distractor, % of the expressions that have one:",
        effect_table(rows[rows.rival], lambda part: figure(100 * part.peak_distractor.mean())),
        'Both objects of a shape named in turn, on the same picture and noise ("the white star", "the black star"):',
        swap_table(test),
        "mIoU less the baseline's over alpha (band: 95 %):",
        f"![alpha](images/{file.stem}_alpha.png)",
        difference_line([val.summary, test.summary]),
        "## Which layers?",
        PARTLY,
        settings_table(layers, "attention_layers"),
        difference_line([run.summary for run in layers]),
        "## Which U, and how much is noise?",
        "The same; three noise seeds, U taken at the target's own positions, at the end, or as the mean over all.",
        settings_table(uncond, "text_processor.uncond"),
        difference_line([run.summary for run in uncond]),
        "## Pictures",
        f"Most improved by {ours} (alpha 0.9), baseline beside it:",
        f"![improved](images/{file.stem}_improved.png)",
        "Most harmed:",
        f"![harmed](images/{file.stem}_harmed.png)",
    ]
    return "\n\n".join(p.strip() for p in parts if p) + "\n"


def draw(rows: pd.DataFrame, test: Run, file: Path) -> None:
    """The page's pictures, into images/ beside `file`."""
    from attrbind_exp.reporting import plots  # loads matplotlib, which --help does without

    images = file.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    of = f"data {test.summary.dataset}; model {test.summary.model_name}; thresholds chosen on val"
    plots.gain_curves(gains(rows), images / f"{file.stem}_alpha.png", of)
    for name in ("improved", "harmed"):
        # A quarter of the size in 256 colours; the page is kept in git.
        sheet = Image.open(test.folder / f"{name}.png").convert("RGB")
        small = sheet.quantize(256, method=Image.Quantize.MAXCOVERAGE)
        small.save(images / f"{file.stem}_{name}.png", optimize=True)


@taking_verbosity()
def main() -> None:
    """Write FILE and its pictures into images/ beside it."""
    parser = argparse.ArgumentParser(
        epilog=SAID_HELP, prog=as_called("python -m attrbind_exp.study"), description=as_called(__doc__).splitlines()[0]
    )
    parser.add_argument("outputs", type=Path, help="the folder that sweeps write to")
    parser.add_argument("file", type=Path, help="the Markdown page to write; its words above the first section stay")
    parser.add_argument("--of", default="shapes_bundled", help="DATA_MODEL, as the sweeps' folders are called")
    given = parser.parse_args()
    try:
        write_text(given.file, page(given.outputs, given.of, given.file))
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    print(given.file)
