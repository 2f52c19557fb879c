"""Where a run reports to besides its folder: what the rest of the project asks of a tracker."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from attrbind_exp.log import log
from attrbind_exp.runs.configuration import flatten
from attrbind_exp.runs.shown import clean
from attrbind_exp.types import UserError

Answer = TypeVar("Answer")
Lines = Mapping[str, Sequence[float | None]]  # None: this line has no point there


class Tracker(Protocol):
    """Takes figures, curves, tables and pictures. Calls come in any order, `close` last.

    `log` is called while a run lasts, from a thread of its own; all else when it is over. A class of another tracker is
    made with `folder` (the run's), `run_config`, and by name `job` ("eval", "report"), `name`, `group` and `tags`; its
    further arguments are what stands beside _target_ in its YAML.
    """

    def log(self, values: Mapping[str, float]) -> None:
        """One point of one or more curves: the first value is what the others are drawn over, such as the step."""

    def summary(self, values: Mapping[str, object]) -> None:
        """The run's figures."""

    def curve(self, name: str, x: str, y: str, xs: Sequence[float], lines: Lines) -> None:
        """Lines over a common x axis; `x` and `y` name the axes."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table to sort and filter."""

    def images(self, name: str, files: Mapping[str, Path]) -> None:
        """Pictures by caption."""

    def close(self) -> str | None:
        """End the run; a line for the terminal where there is something to say."""


def flat_config(config: Mapping[str, object]) -> dict[str, object]:
    """A configuration as one level of keys, which trackers can make columns of: {"model": {"name": "sd15"}} becomes
    {"model/name": "sd15"}. Which class each part is made of is left out."""
    flat = {key: value for key, value in flatten(config).items() if value != {} and not key.endswith("_target_")}
    return {key.replace(".", "/"): value for key, value in flat.items()}


def lacking(option: str, packages: str) -> UserError:
    """What to say where the packages of a tracker are not installed."""
    return UserError(
        f"tracker={option} needs packages that are not installed; get them by 'pip install {packages}', the extra "
        f"[{option}], or choose tracker=csv"
    )


class NoTracker:
    """tracker=none: the run folder holds everything anyway."""

    def __init__(self, **_: object) -> None: ...
    def log(self, values: Mapping[str, float]) -> None: ...
    def summary(self, values: Mapping[str, object]) -> None: ...
    def curve(self, name: str, x: str, y: str, xs: Sequence[float], lines: Lines) -> None: ...
    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None: ...
    def images(self, name: str, files: Mapping[str, Path]) -> None: ...
    def close(self) -> str | None: ...


def tell(step: Callable[[], Answer]) -> tuple[bool, Answer | None]:
    """Whether a tracker took what `step` tells it, and its answer.

    No run fails for want of its tracker: what it raises is printed, a bug with its traceback.
    """
    try:
        return True, step()
    except Exception as error:
        cause = error.__cause__ if isinstance(error.__cause__, UserError) else error
        if not isinstance(cause, UserError):
            traceback.print_exc()
        said = clean(str(cause) or type(cause).__name__, 1000)
        log.warning(f"warning: the tracker failed: {said}; all figures are in the folder")
        return False, None
