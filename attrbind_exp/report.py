"""python -m attrbind_exp.report DIR: a run or a sweep as one HTML page, DIR/report.html."""

import argparse
import os
import shlex
import sys
import traceback
import webbrowser
from pathlib import Path
from typing import Any

from attrbind_exp.types import UserError

NAME = "report.html"


def write_report(folder: Path) -> Path | None:
    """Write report.html into the folder of a run or a sweep and return its path.

    No run fails for want of its report: where it cannot be written, this prints why and the command to make it again,
    and returns None. What is no mendable error but a bug is printed with its traceback.
    """
    try:
        return make_report(folder)
    except Exception as error:
        if not isinstance(error, (UserError, OSError)):
            traceback.print_exc()
        again = shlex.join(["python", "-m", "attrbind_exp.report", str(folder)])
        print(f"warning: no report was written: {error}; to make it: {again}", file=sys.stderr)
        return None


def make_report(folder: Path) -> Path:
    """Write report.html. Raises UserError where the folder holds no run, OSError where it cannot be written."""
    # Runs call this when they are done; templates and pictures load only then.
    from attrbind_exp.runs.report import make_page
    from attrbind_exp.runs.store import write_text

    return write_text(Path(folder) / NAME, make_page(Path(folder), published()))


def published() -> dict[str, dict[str, Any]]:
    """The paper's [threshold, mIoU] by what is scored and variant label, from the sweeps that make its tables."""
    import yaml

    from attrbind_exp.config import SWEEPS

    found: dict[str, dict[str, Any]] = {"expressions": {}, "images": {}}
    for scored, names in {"expressions": ("table3_alpha", "table4_ablation"), "images": ("table1_coco",)}.items():
        for name in names:
            found[scored] |= yaml.safe_load((SWEEPS / f"{name}.yaml").read_text(encoding="utf-8"))["report"]["paper"]
    return found


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
    parser = argparse.ArgumentParser(prog="python -m attrbind_exp.report", description=__doc__)
    parser.add_argument(
        "folder", type=Path, nargs="?", help="of a run or a sweep; default: the newest report below outputs/"
    )
    parser.add_argument("--open", action="store_true", help="open the page where there is a display")
    given = parser.parse_args()
    try:
        report = make_report(given.folder) if given.folder else newest(Path("outputs"))
    except UserError as error:
        parser.error(str(error))
    print(report)
    if given.open:
        show(report)


if __name__ == "__main__":
    main()
