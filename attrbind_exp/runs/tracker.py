"""Where a run reports to besides its folder. The only place that knows W&B."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from attrbind_exp.types import UserError


class Tracker(Protocol):
    """What the rest of the project asks of a tracker; calls come in any order, `close` last."""

    def log(self, values: Mapping[str, float]) -> None: ...
    def summary(self, values: Mapping[str, Any]) -> None: ...
    def curve(self, name: str, x: str, y: str, xs: Sequence[float], lines: Mapping[str, Sequence[float]]) -> None: ...
    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None: ...
    def images(self, name: str, files: Mapping[str, Path]) -> None: ...
    def close(self) -> str | None: ...


class NoTracker:
    """tracker=none: the run folder holds everything anyway."""

    def __init__(self, **_: Any): ...
    def log(self, values: Mapping[str, float]) -> None: ...
    def summary(self, values: Mapping[str, Any]) -> None: ...
    def curve(self, name: str, x: str, y: str, xs: Sequence[float], lines: Mapping[str, Sequence[float]]) -> None: ...
    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None: ...
    def images(self, name: str, files: Mapping[str, Path]) -> None: ...
    def close(self) -> str | None: ...


class WandbTracker:
    """Weights & Biases; `mode` "auto" is online with an account (WANDB_API_KEY or `wandb login`), offline without.

    `folder` gets the wandb/ directory. Raises UserError for an unknown mode.
    """

    MODES = ("auto", "online", "offline")

    def __init__(
        self, folder: Path, run_config: Mapping[str, Any], project: str, mode: str = "auto", job: str = "eval"
    ):
        import wandb

        if mode not in self.MODES:
            raise UserError(f"unknown tracker.mode '{mode}'; choose from {', '.join(self.MODES)}")
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False, verify=False) else "offline")
        # Images of a table are staged outside the run unless this says otherwise.
        os.environ.setdefault("WANDB_DATA_DIR", str(folder / "wandb"))
        self._wandb = wandb
        self._run = wandb.init(
            project=project, dir=str(folder), config=dict(run_config), job_type=job, mode=mode,  # type: ignore[arg-type]
            settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip

    def log(self, values: Mapping[str, float]) -> None:
        """Numbers of one training step."""
        self._run.log(dict(values))

    def summary(self, values: Mapping[str, Any]) -> None:
        """The run's figures."""
        self._run.summary.update(dict(values))

    def curve(self, name: str, x: str, y: str, xs: Sequence[float], lines: Mapping[str, Sequence[float]]) -> None:
        """Lines over a common x axis, as a plot that can be zoomed, with the table behind it."""
        plot = self._wandb.plot.line_series(
            list(xs), [list(line) for line in lines.values()], keys=list(lines), title=f"{y} by {x}", xname=x
        )
        self._run.log({name: plot})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table to sort and filter."""
        self._run.log({name: self._wandb.Table(columns=list(columns), data=[list(r) for r in rows])})

    def images(self, name: str, files: Mapping[str, Path]) -> None:
        """Pictures by caption."""
        self._run.log({name: [self._wandb.Image(str(path), caption=text) for text, path in files.items()]})

    def close(self) -> str | None:
        """Finish the run; for an offline one, how to upload it."""
        folder, offline = Path(self._run.dir).parent, self._run.settings.mode == "offline"
        self._run.finish()
        return f"W&B run kept offline; upload it by: wandb sync '{folder}'" if offline else None
