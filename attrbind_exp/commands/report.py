"""python -m attrbind_exp.report DIR: a run or a sweep as one HTML page, DIR/report.html."""

import argparse
import os
import sys
import webbrowser
from pathlib import Path

from attrbind_exp.commands.disk import disk_errors
from attrbind_exp.commands.own_folder import add_config_dir, use_config_dir
from attrbind_exp.commands.start import as_called
from attrbind_exp.reporting.write import NAME, make_report
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


def main() -> None:
    """Write the page, or take the newest; print its path."""
    parser = argparse.ArgumentParser(prog=as_called("python -m attrbind_exp.report"), description=as_called(__doc__))
    parser.add_argument(
        "folder", type=Path, nargs="?", help="of a run or a sweep; default: the newest report below outputs/"
    )
    add_config_dir(parser)
    parser.add_argument("--open", action="store_true", help="open the page where there is a display")
    given = parser.parse_args()
    try:
        with use_config_dir(given.config_dir), disk_errors():
            report = make_report(given.folder) if given.folder else newest(Path("outputs"))
    except UserError as error:
        parser.error(str(error))
    print(report)
    if given.open:
        show(report)
