"""python -m attrbind_exp.results OUTPUTS FILE: one page of all tables and figures that sweeps left below OUTPUTS."""

import argparse
import shutil
from pathlib import Path

from attrbind_exp.runs.store import write_text

INTRO = """# Results

Every table and figure of the paper, by one command each (`sweeps/`), its figures beside ours. `make tables` fills
this page with what can be measured without downloads: **the bundled model on drawn shapes**, an instrument of 8.1
million parameters that has never seen a photograph. The paper's figures come from Stable Diffusion on COCO and
RefCOCO: compare the shape of a curve, not its height. **The column "SD 1.5" is empty because it needs the real
weights and datasets: it is not measured here.** Run the same sweep with `dataset.root=DIR` and without
`model=bundled`, then `python -m attrbind_exp.results outputs FILE`: your tables stand below ours.

What there is to see: noun chunk replacement with the prefix kept before the chunk gains a point, all of it where the
target is the second noun; as the paper has it (the bare chunk is encoded) it loses more than a point. Averaging with
the empty prompt costs a little below alpha = 1 (docs/binding-study.md says why). Whether Stable Diffusion behaves so is
not measured here.

at 0.50: mIoU in percent at that threshold. oracle: at the best threshold of the grid 0.30, 0.35 .. 0.75 on the same
data, as the paper reports it. held out: at the threshold that was best on val. difference: to the first row of the
same split, at held-out thresholds where there are any, with a 95 % interval from a paired bootstrap over images;
better, worse, same count expressions (images in Table 1). oIoU: pooled over expressions. Spread: standard deviation
over noise seeds.
"""


HEAT_MAPS = "## Figures 2 to 6 and 8: heat maps"


def find_sweeps(outputs: Path) -> list[Path]:
    """Folders that a sweep finished in, tables before figures."""
    found = {f.parent for name in ("results.md", "gallery.png") for f in outputs.glob(f"*/*/{name}")}
    known = [f for f in found if f.parent.name.startswith(("table", "figure"))]
    return sorted(known, key=lambda f: (not f.parent.name.startswith("table"), str(f)))


def section(folder: Path) -> str:
    """One sweep: its results.md and figure, or its heat maps."""
    text = folder / "results.md"
    head = text.read_text(encoding="utf-8").strip() if text.is_file() else HEAT_MAPS
    return f"{head}\n\n![{folder.parent.name}](images/{picture(folder)[1]})"


def picture(folder: Path) -> tuple[Path, str]:
    """A sweep's picture, and its name beside the page."""
    name = "results.png" if (folder / "results.png").is_file() else "gallery.png"
    return folder / name, f"{folder.parent.name}_{folder.name}.png"


def main() -> None:
    """Write FILE and copy the figures into images/ beside it."""
    parser = argparse.ArgumentParser(prog="python -m attrbind_exp.results", description=__doc__)
    parser.add_argument("outputs", type=Path, help="the folder that sweeps write to")
    parser.add_argument("file", type=Path, help="the Markdown page to write")
    given = parser.parse_args()
    found = find_sweeps(given.outputs)
    if not found:
        parser.error(f"no sweep below '{given.outputs}'; run one first: python -m attrbind_exp.run sweep=NAME")
    images = given.file.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    for folder in found:
        source, name = picture(folder)
        shutil.copy(source, images / name)
    write_text(given.file, "\n\n".join([INTRO.strip(), *map(section, found)]) + "\n")
    print(given.file)
