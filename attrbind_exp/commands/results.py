"""python -m attrbind_exp.results OUTPUTS FILE: one page of all tables and figures of the paper that sweeps left below
OUTPUTS; with --methods one of the sweeps that compare ways of reading attention and edits of the words."""

import argparse
import shutil
from pathlib import Path

from attrbind_exp.commands.disk import disk_errors
from attrbind_exp.commands.start import as_called
from attrbind_exp.commands.table import SAID_HELP
from attrbind_exp.commands.verbosity import taking_verbosity
from attrbind_exp.runs.store import write_text

INTRO = """# Results

Every table and figure of the paper, by one command each (`sweeps/`), measured here. `make tables` fills this page with
what can be measured without downloads: **the bundled model on drawn shapes**, an instrument that has never seen a
photograph. For Stable Diffusion on RefCOCO and COCO run the same sweep with `dataset.root=DIR` and without
`model=bundled`, then `python -m attrbind_exp.results outputs FILE`: your tables stand below ours, with the paper's
figures beside them. The sentence below a table is made of its figures.

at 0.50: mIoU in percent at that threshold. held out: at the threshold that was best on val. oracle: at the best
threshold of the grid 0.30, 0.35 .. 0.75 on the same data, as the paper reports it. difference: to the first row of the
same split, each variant at its own threshold, with a 95 % interval over images; * marks those that survive Holm's
correction over all differences of their table, held-out ones where there are such. better, worse, same: expressions
(images in Table 1), both variants at the one threshold after @, the first variant's; equal heat maps are the same.
oIoU: pooled over expressions. Spread: standard deviation over noise seeds.
"""

NAMES = ("table", "figure")  # how the names of the paper's sweeps begin
HEAT_MAPS = "## Figures 2 to 6 and 8: heat maps"


def find_sweeps(outputs: Path, names: tuple[str, ...]) -> list[Path]:
    """Folders that a sweep finished in whose name begins so, in the order of these names."""
    found = {f.parent for name in ("results.md", "gallery.png") for f in outputs.glob(f"*/*/{name}")}
    return [f for name in names for f in sorted(found, key=str) if f.parent.name.startswith(name)]


def section(folder: Path) -> str:
    """One sweep: its results.md and figure, or its heat maps."""
    text = folder / "results.md"
    head = text.read_text(encoding="utf-8").strip() if text.is_file() else HEAT_MAPS
    return f"{head}\n\n![{folder.parent.name}](images/{picture(folder)[1]})"


def picture(folder: Path) -> tuple[Path, str]:
    """A sweep's picture, and its name beside the page."""
    name = "results.png" if (folder / "results.png").is_file() else "gallery.png"
    return folder / name, f"{folder.parent.name}_{folder.name}.png"


@taking_verbosity()
def main() -> None:
    """Write FILE and copy the figures into images/ beside it."""
    parser = argparse.ArgumentParser(
        epilog=SAID_HELP, prog=as_called("python -m attrbind_exp.results"), description=as_called(__doc__)
    )
    parser.add_argument("outputs", type=Path, help="the folder that sweeps write to")
    parser.add_argument("file", type=Path, help="the Markdown page to write")
    parser.add_argument(
        "--methods", action="store_true", help="the sweeps `edits` and `methods` in place of the paper's"
    )
    given = parser.parse_args()
    if given.methods:
        from attrbind_exp.commands.methods_page import write_page  # plots load where they are drawn

        with disk_errors():
            print(*write_page(given.outputs, given.file), sep="\n")
        return
    found = find_sweeps(given.outputs, NAMES)
    if not found:
        parser.error(f"no sweep below '{given.outputs}'; run one first: python -m attrbind_exp.run sweep=NAME")
    images = given.file.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    for folder in found:
        source, name = picture(folder)
        shutil.copy(source, images / name)
    write_text(given.file, "\n\n".join([INTRO.strip(), *map(section, found)]) + "\n")
    print(given.file)
