"""python -m attrbind_exp.study OUTPUTS FILE: the binding study as a page, from what its sweeps left below OUTPUTS."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from PIL import Image

from attrbind_exp.runs import figures
from attrbind_exp.runs.binding import by_group, gains, read_rows, slice_table
from attrbind_exp.runs.results import Run, read_runs
from attrbind_exp.runs.store import write_text
from attrbind_exp.runs.tables import bounded, figure, interval, markdown
from attrbind_exp.scoring.binding import estimate
from attrbind_exp.types import UserError

INTRO = """# Does editing the text embedding mend mis-binding?

One command makes this page: `make study` (about a quarter of an hour on 2 CPU cores). The model is the bundled one, a
tiny Stable Diffusion; the data are its benchmark's 320 test scenes. How both were made, and what the model's text
encoder is, stands on its [card](../attrbind_exp/assets/README.md). Neither was ever changed for what the edits do on
test. Thresholds are the best of 0.30, 0.35 .. 0.75 on val, each variant's own. Intervals are 95 %, from a bootstrap
over scenes. There is no correction for the number of comparisons: single rows whose interval just leaves out zero are
leads, not results. One training seed.

Words: *peak* is the highest point of the heat map; a *distractor* is another object of the target's shape; a *rare*
pair makes up 1 % of a shape's training objects, its *usual* colour 35 %. `noun_chunk` encodes the bare chunk (the
paper), `_prefixed` keeps "a photograph of" before it. In "next to a red heart, the white heart" the target is the
second noun.

What there is to see:

- **A colour word binds.** Swapping it moves the heat in 94 of 100 pairs; of 80 rare targets named by colour beside
  their shape's usual colour none is missed for the other. Mis-binding occurs where the colour is not said: of "the
  heart on the left" the peak lies on another heart in 36 % (30 of 32 where the other one has the usual colour), for
  places come after the noun, whose state in a causal encoder cannot know them. The other fault is shapes: where
  another object has the target's colour, the peak is on a wrong shape in 37 %.
- **Noun chunk replacement with the bare chunk (the paper) costs 17 points and makes mis-binding**: peaks on the
  distractor rise from 6 to 29 %. The bare chunk's noun no longer says its colour: of the energy of its state, over
  all shapes and colours, 31 % varies with the colour in "a photograph of the green heart", 1 % in "the green heart",
  45 % in "green heart". The encoder has read bare chunks too; where in the text a noun stands matters to it all the
  same.
- **With the prefix kept, it changes nothing**: exactly nothing for the first noun of an expression (a causal
  encoder), 0.3 points less for the second, where the baseline is at its best (61.7 mIoU). An earlier model, whose
  encoder was trained together with the UNet and never read "next to a red heart, the white heart", gained 33 points
  there: an unknown sentence was mended.
- **Averaging costs below alpha = 1** (-0.1 at 0.9, -2.3 at 0.5) **and gains nothing above.** Which rows are U hardly
  matters.
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


def effect_table(rows: pd.DataFrame, show: Callable[[pd.DataFrame], str]) -> str:
    """A line a variant, a column a group of expressions; `show` makes a cell of the group's rows of one variant."""
    lines = []
    for label in rows.label.unique():
        cells = {name: show(part) if len(part) else "-" for name, part in by_group(rows[rows.label == label]).items()}
        lines.append({"": label, **cells})
    n = by_group(rows[rows.label == rows.label.iloc[0]])
    return markdown(pd.DataFrame(lines).rename(columns={k: f"{k} ({len(v)})" for k, v in n.items()}))


def swap_table(run: Run) -> str:
    """Swap consistency and heat ratio of every variant."""
    lines = [
        {
            "": v["label"],
            f"swapped word moves the heat, % of {v['binding']['swap']['n']} pairs": bounded(v["binding"]["swap"]),
            "heat on target / on distractor": bounded(v["binding"]["heat_ratio"], 2),
            "peak on distractor, %": bounded(v["binding"]["peak_rivals"]["distractor"]),
        }
        for v in run.summary["variants"]
    ]
    return markdown(pd.DataFrame(lines))


def settings_table(runs: Sequence[Run], key: str) -> str:
    """A line a run of a sweep over `key`: mIoU of the baseline and what each other variant adds to it, with oracle
    thresholds; where there are several noise seeds, their spread."""
    lines = []
    for run in runs:
        value = next((o.partition("=")[2] for o in run.summary["overrides"] if o.startswith(key)), "default")
        first, *others = run.summary["variants"]
        line = {key.rpartition(".")[2]: value, "n": str(first["n"]), first["label"]: figure(first["mIoU"])}
        if "mIoU_spread" in first:
            line["its spread over seeds"] = figure(first["mIoU_spread"], 2)
        for v in others:
            d = v["difference"]
            line[v["label"]] = interval(d["mean"], d["low"], d["high"])
        lines.append(line)
    return markdown(pd.DataFrame(lines))


def page(outputs: Path, images: Path) -> str:
    """The whole page; pictures are written to `images`."""
    val, test = main_runs(outputs / "binding_study")
    rows = read_rows(test, val)
    base = rows[rows.label == test.summary["variants"][0]["label"]]
    figures.gain_curves(gains(rows), images / "binding_alpha.png")
    for name in ("improved", "harmed"):
        # A quarter of the size in 256 colours; the page is kept in git.
        sheet = Image.open(test.folder / f"{name}.png").convert("RGB")
        small = sheet.quantize(256, method=Image.Quantize.MAXCOVERAGE)
        small.save(images / f"binding_{name}.png", optimize=True)
    thresholds = ", ".join(f"{k} {v:.2f}" for k, v in base.groupby("label").threshold.first().items())
    ours = test.summary["variants"][-1]["text_processor"]
    parts = [
        INTRO,
        "## Does mis-binding occur, and where?",
        f"The baseline (threshold on val: {thresholds}), {len(base)} expressions:",
        markdown(slice_table(base)),
        "## What do the edits do?",
        "mIoU less the baseline's on the same expressions:",
        effect_table(rows, lambda part: interval(*difference(part))),
        "Peak on the distractor, % of the expressions that have one:",
        effect_table(rows[rows.rival], lambda part: figure(100 * part.peak_distractor.mean())),
        'Both objects of a shape named in turn, on the same picture and noise ("the white star", "the black star"):',
        swap_table(test),
        "mIoU less the baseline's over alpha (band: 95 %):",
        "![alpha](images/binding_alpha.png)",
        "## Which layers?",
        PARTLY,
        settings_table(read_runs(outputs / "binding_layers"), "attention_layers"),
        "## Which U, and how much is noise?",
        "The same; three noise seeds, U taken at the target's own positions, at the end, or as the mean over all.",
        settings_table(read_runs(outputs / "binding_uncond"), "text_processor.uncond"),
        "## Pictures",
        f"Most improved by {ours} (alpha 0.9), baseline beside it:",
        "![improved](images/binding_improved.png)",
        "Most harmed:",
        "![harmed](images/binding_harmed.png)",
    ]
    return "\n\n".join(p.strip() for p in parts) + "\n"


def difference(part: pd.DataFrame) -> tuple[float, float | None, float | None]:
    """Mean of `gain` with its interval."""
    found = estimate(part.gain.to_numpy(), part.image_id.tolist())
    return found["mean"], found["low"], found["high"]


def main() -> None:
    """Write FILE and its pictures into images/ beside it."""
    parser = argparse.ArgumentParser(prog="python -m attrbind_exp.study", description=__doc__)
    parser.add_argument("outputs", type=Path, help="the folder that sweeps write to")
    parser.add_argument("file", type=Path, help="the Markdown page to write")
    given = parser.parse_args()
    images = given.file.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    try:
        write_text(given.file, page(given.outputs, images))
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    print(given.file)


if __name__ == "__main__":
    main()
