"""python -m attrbind_exp.report DIR: a run or a sweep as one HTML page, DIR/report.html; or a figure of it for a paper.

python -m attrbind_exp.report DIR
python -m attrbind_exp.report DIR --figure 7 --format pdf --width single
python -m attrbind_exp.report DIR --figure table3 --format tex
python -m attrbind_exp.report DIR --figure all
"""

import argparse
import os
import sys
import webbrowser
from pathlib import Path
from typing import get_args

from attrbind_exp.commands.disk import disk_errors
from attrbind_exp.commands.own_folder import add_config_dir, use_config_dir
from attrbind_exp.commands.start import as_called
from attrbind_exp.commands.table import SAID_HELP
from attrbind_exp.commands.verbosity import taking_verbosity
from attrbind_exp.reporting.style import Width
from attrbind_exp.reporting.write import NAME, make_report
from attrbind_exp.runs.shown import clean
from attrbind_exp.types import UserError


def newest(outputs: Path) -> Path:
    """The report that was written last below `outputs`. Raises UserError where there is none."""
    found = sorted(outputs.glob(f"**/{NAME}"), key=lambda f: f.stat().st_mtime)
    if not found:
        raise UserError(f"no {NAME} below '{outputs}'; run something first, or: python -m attrbind_exp.report DIR")
    return found[-1]


def show(report: Path) -> None:
    """Open it where there is a display."""
    if sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(report.resolve().as_uri())


def print_figures(folder: Path | None, name: str, form: str | None, width: Width | None) -> None:
    """Write a figure, or all there are; print where they are."""
    from attrbind_exp.reporting.paper_figures import read_measured, write_all, write_figure  # loads matplotlib

    if folder is None:
        raise UserError("--figure needs the folder of a run or a sweep: python -m attrbind_exp.report DIR --figure 7")
    measured = read_measured(folder)
    files = write_all(measured, width, form) if name == "all" else [write_figure(measured, name, form, width)]
    for file in files:
        print(clean(str(file), 5000))


@taking_verbosity()
def main() -> None:
    """Write the page or a figure, or take the newest page; print where it is."""
    parser = argparse.ArgumentParser(
        epilog=SAID_HELP,
        prog=as_called("python -m attrbind_exp.report"),
        description=as_called(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", help="of a run or a sweep; default: the newest report below outputs/"
    )
    add_config_dir(parser)
    parser.add_argument("--open", action="store_true", help="open the page where there is a display")
    parser.add_argument("--figure", help="7 (the alpha curve), table1 .. table4, threshold, gallery .., or all")
    parser.add_argument("--format", help="pdf, svg, png; of tables also tex, csv")
    parser.add_argument("--width", choices=get_args(Width), help="of one column (3.3 in) or of two (6.9 in)")
    given = parser.parse_args()
    try:
        with use_config_dir(given.config_dir), disk_errors():
            if given.figure:
                return print_figures(given.folder, given.figure, given.format, given.width)
            if given.format or given.width:
                raise UserError("--format and --width are those of a figure; say which: --figure 7")
            report = make_report(given.folder) if given.folder else newest(Path("outputs"))
    except UserError as error:
        parser.error(str(error))
    print(report)
    if given.open:
        show(report)
