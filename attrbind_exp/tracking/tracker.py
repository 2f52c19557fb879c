"""Where a run reports to besides its folder. The only place that knows W&B."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from attrbind_exp.types import UserError

Lines = Mapping[str, Sequence[float | None]]  # None: this line has no point there


class Tracker(Protocol):
    """What the rest of the project asks of a tracker; calls come in any order, `close` last."""

    def log(self, values: Mapping[str, float]) -> None: ...
    def summary(self, values: Mapping[str, Any]) -> None: ...
    def curve(self, name: str, x: str, y: str, xs: Sequence[float], lines: Lines) -> None: ...
    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None: ...
    def images(self, name: str, files: Mapping[str, Path]) -> None: ...
    def close(self) -> str | None: ...


class NoTracker:
    """tracker=none: the run folder holds everything anyway."""

    def __init__(self, **_: Any): ...
    def log(self, values: Mapping[str, float]) -> None: ...
    def summary(self, values: Mapping[str, Any]) -> None: ...
    def curve(self, name: str, x: str, y: str, xs: Sequence[float], lines: Lines) -> None: ...
    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None: ...
    def images(self, name: str, files: Mapping[str, Path]) -> None: ...
    def close(self) -> str | None: ...


class WandbTracker:
    """Weights & Biases; `mode` "auto" is online with an account (WANDB_API_KEY or `wandb login`), offline without.

    `folder` gets the wandb/ directory, `group` and `tags` are what the project page sorts by. What goes wrong there (no
    network, too many requests, a crash at the end) is kept as `trouble` and told at the end with the command that
    uploads the rest: no evaluation stops for it, and none waits longer than START and FINISH. Raises UserError for an
    unknown mode.
    """

    MODES = ("auto", "online", "offline")
    START, FINISH = 15, 120  # seconds that may be spent on reaching W&B, and on the upload once the run is over

    def __init__(
        self,
        folder: Path,
        run_config: Mapping[str, Any],
        project: str,
        mode: str = "auto",
        job: str = "eval",
        group: str | None = None,
        tags: Sequence[str] = (),
    ):
        import wandb

        if mode not in self.MODES:
            raise UserError(f"unknown tracker.mode '{mode}'; choose from {', '.join(self.MODES)}")
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False, verify=False) else "offline")
        # Images of a table are staged outside the run unless this says otherwise.
        os.environ["WANDB_DATA_DIR"] = str(folder / "wandb")
        self._wandb, self.trouble = wandb, ""
        about = {
            "project": project,
            "dir": str(folder),
            "config": dict(run_config),
            "job_type": job,
            "group": group and group[-128:],
            "name": folder.name[-128:],
            "tags": [tag[:64] for tag in tags if tag],
        }
        try:
            self._run = self._start(mode, about)
        except (wandb.errors.Error, OSError) as error:
            self.trouble = _first_line(error)
            self._run = self._start("offline", about)

    def _start(self, mode: str, about: Mapping[str, Any]) -> Any:
        settings = self._wandb.Settings(
            silent=True,
            console="off",
            init_timeout=self.START,
            finish_timeout=self.FINISH,
            finish_timeout_raises=True,
        )
        return self._wandb.init(mode=mode, settings=settings, **about)  # type: ignore[arg-type]

    def log(self, values: Mapping[str, float]) -> None:
        """Numbers of one training step."""
        self._send(lambda: self._run.log(dict(values)))

    def summary(self, values: Mapping[str, Any]) -> None:
        """The run's figures."""
        self._send(lambda: self._run.summary.update(dict(values)))

    def curve(self, name: str, x: str, y: str, xs: Sequence[float], lines: Lines) -> None:
        """Lines over a common x axis, as a plot that can be zoomed, with the table behind it."""
        made = self._wandb.plot.line_series
        values = [list(line) for line in lines.values()]
        self._send(lambda: self._run.log({name: made(list(xs), values, list(lines), title=f"{y} by {x}", xname=x)}))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table to sort and filter."""
        data = [list(r) for r in rows]
        self._send(lambda: self._run.log({name: self._wandb.Table(columns=list(columns), data=data)}))

    def images(self, name: str, files: Mapping[str, Path]) -> None:
        """Pictures by caption. Of several sizes, each is a step of its own: W&B stretches what it shows together."""

        def send() -> None:
            made = [self._wandb.Image(str(path), caption=text) for text, path in files.items()]
            alike = len({image.image.size for image in made}) == 1
            for step in [made] if alike else [[image] for image in made]:
                self._run.log({name: step})

        self._send(send)

    def close(self) -> str | None:
        """Finish the run. Where it was kept offline, or not all of it could be uploaded: how to upload it."""
        folder, offline = Path(self._run.dir).parent, self._run.settings.mode == "offline"
        self._send(self._run.finish)
        if self.trouble:
            return f"W&B: not everything was uploaded ({self.trouble}); upload it by: wandb sync '{folder}'"
        return f"W&B run kept offline; upload it by: wandb sync '{folder}'" if offline else None

    def _send(self, call: Callable[[], Any]) -> None:
        """Whatever the library raises here, the figures are in the run's folder: note it and go on."""
        try:
            call()
        except Exception as error:
            self.trouble = self.trouble or _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
