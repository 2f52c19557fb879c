"""Tracking by Weights & Biases. No other module but the dashboard knows W&B."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from attrbind_exp.tracking.tracker import Lines
from attrbind_exp.types import UserError

if TYPE_CHECKING:
    import wandb

Mode = Literal["online", "offline", "disabled", "shared"]  # W&B's own; WANDB_MODE may name any of them


class WandbTracker:
    """A run of Weights & Biases, in wandb/ below `folder`.

    `mode`: "online", "offline", or "auto", which is online with an account (WANDB_API_KEY or `wandb login`) and offline
    without. `group` and `tags` are what the project page sorts by. No evaluation stops for what goes wrong there (no
    network, too many requests, a crash at the end), and none waits longer than START and FINISH: the first thing that
    went wrong is kept as `trouble`, and `close` tells it with the command that uploads the rest. Raises UserError for
    an unknown mode.
    """

    MODES = ("auto", "online", "offline")
    START, FINISH = 15, 120  # seconds that may be spent on reaching W&B, and on the upload once the run is over

    def __init__(
        self,
        folder: Path,
        run_config: Mapping[str, object],
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
        start = partial(
            wandb.init,
            project=project,
            dir=str(folder),
            config=dict(run_config),
            job_type=job,
            group=group[-128:] if group else None,
            name=folder.name[-128:],
            tags=[tag[:64] for tag in tags if tag],
            settings=self._settings(),
        )
        try:
            self._run = start(mode=cast(Mode, mode))
        except (wandb.errors.Error, OSError) as error:
            self.trouble = _first_line(error)
            self._run = start(mode="offline")

    def _settings(self) -> "wandb.Settings":
        return self._wandb.Settings(
            silent=True,
            console="off",
            init_timeout=self.START,
            finish_timeout=self.FINISH,
            finish_timeout_raises=True,
        )

    def log(self, values: Mapping[str, float]) -> None:
        """Numbers of one training step."""
        self._send(lambda: self._run.log(dict(values)))

    def summary(self, values: Mapping[str, object]) -> None:
        """The run's figures."""
        self._send(lambda: self._run.summary.update(dict(values)))

    def curve(self, name: str, x: str, y: str, xs: Sequence[float], lines: Lines) -> None:
        """Lines over a common x axis, as a plot that can be zoomed, with the table behind it."""
        made = self._wandb.plot.line_series
        values = [list(line) for line in lines.values()]
        self._send(lambda: self._run.log({name: made(list(xs), values, list(lines), title=f"{y} by {x}", xname=x)}))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table to sort and filter."""
        data = [list(r) for r in rows]
        self._send(lambda: self._run.log({name: self._wandb.Table(columns=list(columns), data=data)}))

    def images(self, name: str, files: Mapping[str, Path]) -> None:
        """Pictures by caption. Of several sizes, each is a step of its own: W&B stretches what it shows together."""

        def send() -> None:
            made = [self._wandb.Image(str(path), caption=text) for text, path in files.items()]
            one_size = len({image.image.size for image in made}) == 1
            for step in [made] if one_size else [[image] for image in made]:
                self._run.log({name: step})

        self._send(send)

    def close(self) -> str | None:
        """Finish the run. Where it was kept offline, or not all of it could be uploaded: how to upload it."""
        folder, offline = Path(self._run.dir).parent, self._run.settings.mode == "offline"
        self._send(self._run.finish)
        if self.trouble:
            return f"W&B: not everything was uploaded ({self.trouble}); upload it by: wandb sync '{folder}'"
        return f"W&B run kept offline; upload it by: wandb sync '{folder}'" if offline else None

    def _send(self, call: Callable[[], object]) -> None:
        """Whatever the library raises here, the figures are in the run's folder: note it and go on."""
        try:
            call()
        except Exception as error:
            self.trouble = self.trouble or _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
