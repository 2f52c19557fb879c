"""python -m attrbind_exp.results OUTPUTS FILE: one page of all tables and figures that sweeps left below OUTPUTS."""

import argparse
import shutil
from pathlib import Path

from attrbind_exp.runs.store import write_text

INTRO = """# Results

Every table and figure of the paper, by one command each (`sweeps/`), its figures beside ours. `make tables` fills
this page with what can be measured without downloads: **the bundled model on drawn shapes**, an instrument of 9.5
million parameters that has never seen a photograph. The paper's figures come from Stable Diffusion on COCO and
RefCOCO: compare the shape of a curve, not its height. **The column "SD 1.5" is empty because it needs the real
weights and datasets: it is not measured here.** Run the same sweep with `dataset.root=DIR` and without
`model=bundled`, then `python -m attrbind_exp.results outputs FILE`: your tables stand below ours.

at 0.50: mIoU in percent at that threshold. oracle: at the best threshold of the grid 0.30, 0.35 .. 0.75 on the same
data, as the paper reports it. held out: at the threshold that was best on val. difference: to the first row of the
same split, at held-out thresholds where there are any, with a 95 % interval from a paired bootstrap over images;
better, worse, same count expressions (images in Table 1). oIoU: pooled over expressions. Spread: standard deviation
over noise seeds.
"""


def collect(outputs: Path) -> str:
    """The page: results.md of every sweep below `outputs`, one section a sweep with its figure."""
    sections = []
    for folder in sorted(p.parent for p in outputs.glob("*/*/results.md")):
        section = (folder / "results.md").read_text(encoding="utf-8").strip()
        if (folder / "results.png").is_file():
            section += f"\n\n![{folder.parent.name}](images/{picture_name(folder)})"
        sections.append(section)
    return "\n\n".join([INTRO.strip(), *sections]) + "\n"


def picture_name(folder: Path) -> str:
    """A sweep's figure beside the page: its sweep, data and model."""
    return f"{folder.parent.name}_{folder.name}.png"


def main() -> None:
    """Write FILE and copy the figures into images/ beside it."""
    parser = argparse.ArgumentParser(prog="python -m attrbind_exp.results", description=__doc__)
    parser.add_argument("outputs", type=Path, help="the folder that sweeps write to")
    parser.add_argument("file", type=Path, help="the Markdown page to write")
    given = parser.parse_args()
    found = sorted(p.parent for p in given.outputs.glob("*/*/results.md"))
    if not found:
        parser.error(f"no results.md below '{given.outputs}'; run a sweep first: python -m attrbind_exp.run sweep=NAME")
    images = given.file.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    for folder in found:
        if (folder / "results.png").is_file():
            shutil.copy(folder / "results.png", images / picture_name(folder))
    write_text(given.file, collect(given.outputs))
    print(given.file)


if __name__ == "__main__":
    main()
