"""Tracking by Weights & Biases. No other module but the dashboard knows W&B."""

import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from attrbind_exp.runs.masks import SUFFIX, read_masks
from attrbind_exp.runs.shown import clean, shell_command
from attrbind_exp.runs.store import write_text
from attrbind_exp.tracking.tracker import Lines, flat_config
from attrbind_exp.types import UserError

if TYPE_CHECKING:
    import wandb


STAGING = "WANDB_DATA_DIR"
STEPS = 1_000_000  # more than one start of a run logs
OFFLINE = "offline-run-*"
DEEP = ("", "*/", "*/*/", "*/*/*/")  # where the runs of a sweep lie below its folder


class WandbTracker:
    """A run of Weights & Biases, in wandb/ below `folder`.

    `mode`: "online", "offline", or "auto", which is online with an account (WANDB_API_KEY or `wandb login`) and offline
    without. `name`, `group` and `tags` are what the project page shows and sorts by. A folder is one run there, however
    often it is started: wandb/run_id keeps its id. WANDB_RUN_ID is not heeded: the runs of a sweep and its report would
    all become one. Raises UserError for an unknown mode and for a project's name that W&B refuses.

    No evaluation stops for what goes wrong there (no network, too many requests, a WANDB_* variable that W&B refuses, a
    crash at the end), and none waits longer than START and FINISH: the first thing that went wrong is kept as
    `trouble`, and `close` tells it with the command that uploads the rest, or all runs of a sweep.
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
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
    ):
        import wandb

        if mode not in self.MODES:
            raise UserError(f"unknown tracker.mode '{mode}'; choose from {', '.join(self.MODES)}")
        try:
            wandb.Settings(project=project)
        except (wandb.errors.Error, ValueError) as error:
            raise UserError(f"tracker.project='{project}' is refused by W&B: {_in_one_line(error)}") from error
        # Images of a table are staged outside the run unless this says otherwise.
        os.environ[STAGING] = str(folder / "wandb")
        self._wandb, self.trouble = wandb, ""
        self._folder, self._drawn_over = folder, dict[str, str]()
        known = run_id(folder)
        # Offline, W&B counts each start's steps from 0, and takes none twice when they are uploaded.
        self._first_step = STEPS * len(list(folder.glob(f"wandb/*run-*-{known}")))
        start = partial(
            wandb.init,
            project=project,
            dir=str(folder),
            id=known,
            resume="allow",
            config=flat_config(run_config),
            job_type=job,
            group=group[-128:] if group else None,
            name=(name or folder.name)[-128:],
            tags=[tag[:64] for tag in tags if tag],
            settings=self._settings(),
        )
        self._run = self._start(mode, start)

    def _start(self, mode: str, start: Callable[..., "wandb.Run"]) -> "wandb.Run | None":
        """The run as it is wished for; where W&B fails at that, an offline one that no variable has a say in; None
        where it fails at that too."""
        try:
            return start(mode=self._wished(mode))
        except Exception as error:  # also pydantic's, for a value of a variable that is none
            self.trouble = _in_one_line(error)
        try:
            with _without_variables():
                self._wandb.teardown()  # it has read them
                return start(mode="offline")
        except Exception as error:
            self.trouble = f"{self.trouble}; offline: {_in_one_line(error)}"
            return None

    def _wished(self, mode: str) -> str:
        """W&B's mode, any that WANDB_MODE may name."""
        if mode != "auto":
            return mode
        if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "on"):  # as other libraries read it
            return "disabled"
        known = os.environ.get("WANDB_MODE")
        return known or ("online" if self._wandb.login(prompt=False, verify=False) else "offline")

    def _settings(self) -> "wandb.Settings":
        return self._wandb.Settings(
            silent=True,
            console="off",
            init_timeout=self.START,
            finish_timeout=self.FINISH,
            finish_timeout_raises=True,
        )

    def log(self, values: Mapping[str, float]) -> None:
        """One point of each curve, drawn over the first value."""
        over = next(iter(values))
        new = [name for name in values if self._drawn_over.get(name) != over]
        self._drawn_over |= dict.fromkeys(new, over)

        def send(run: "wandb.Run") -> None:
            for name in new:
                run.define_metric(name, step_metric=None if name == over else over)
            self._log(run, values)

        self._send(send)

    def summary(self, values: Mapping[str, object]) -> None:
        """The run's figures."""
        self._send(lambda run: run.summary.update(dict(values)))

    def curve(self, name: str, x: str, y: str, xs: Sequence[float], lines: Lines) -> None:
        """Lines over a common x axis: as a plot with the table behind it, and point by point as NAME/X and NAME/Y LINE,
        so that a panel shows those of many runs at once."""
        made = self._wandb.plot.line_series
        values = [list(line) for line in lines.values()]
        self._send(
            lambda run: self._log(run, {name: made(list(xs), values, list(lines), title=f"{y} by {x}", xname=x)})
        )
        for number, at in enumerate(xs):
            there = {f"{name}/{y} {label}": line[number] for label, line in lines.items()}
            self.log({f"{name}/{x}": at, **{key: value for key, value in there.items() if value is not None}})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table to sort and filter."""
        data = [list(r) for r in rows]
        self._send(lambda run: self._log(run, {name: self._wandb.Table(columns=list(columns), data=data)}))

    def images(self, name: str, files: Mapping[str, Path]) -> None:
        """Pictures by caption, and those that have masks beside them once more as NAME_masks: the photo, over which
        each mask and each of its classes can be shown or not."""
        self._show(name, lambda: [self._wandb.Image(str(path), caption=text) for text, path in files.items()])
        kept = {text: masks for text, path in files.items() if (masks := path.with_suffix(SUFFIX)).is_file()}
        if kept:
            self._show(f"{name}_masks", lambda: [self._overlay(masks, text) for text, masks in kept.items()])

    def _overlay(self, file: Path, caption: str) -> "wandb.Image":
        photo, masks = read_masks(file)
        laid = {clean(n): {"mask_data": m.labels, "class_labels": {0: "nothing", **m.names}} for n, m in masks.items()}
        return self._wandb.Image(photo, caption=caption, masks=laid)

    def _show(self, name: str, make: Callable[[], "list[wandb.Image]"]) -> None:
        """Show pictures under one name. Of several sizes, each is a step of its own: W&B stretches what stands
        together."""

        def send(run: "wandb.Run") -> None:
            made = make()
            one_size = len({image.image.size for image in made}) == 1
            for step in [made] if one_size else [[image] for image in made]:
                self._log(run, {name: step})

        self._send(send)

    def close(self) -> str | None:
        """Finish the run. Where it was kept offline, or not all of it could be uploaded: how to upload it."""
        if self._run is None:
            return f"W&B: nothing is kept for it ({self.trouble}); the run's folder has everything"
        upload, offline = f"upload it by: {sync_command(self._folder, Path(self._run.dir).parent)}", self._run.offline
        self._send(lambda run: run.finish())
        if self.trouble:
            return f"W&B: not everything was uploaded ({self.trouble}); {upload}"
        return f"W&B run kept offline; {upload}" if offline else None

    def _log(self, run: "wandb.Run", values: Mapping[str, object]) -> None:
        """A step of its own, after those of earlier starts."""
        step, self._first_step = self._first_step, 0
        run.log(dict(values), step=step or None)

    def _send(self, call: Callable[["wandb.Run"], object]) -> None:
        """Whatever the library raises here, the figures are in the run's folder: note it and go on."""
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:
            self.trouble = self.trouble or _in_one_line(error)


def run_id(folder: Path) -> str:
    """The id of the folder's run, the same at every start of it. A new folder has a new one, whatever its name, so that
    no run ends up in another. Where the disk takes none, it holds for this start alone."""
    file = folder / "wandb" / "run_id"
    with suppress(OSError, ValueError):
        known = file.read_text(encoding="ascii").strip()
        if re.fullmatch("[0-9a-f]{16}", known):
            return known
    new = uuid.uuid4().hex[:16]
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, new + "\n")
    return new


def sync_command(folder: Path, last: Path) -> str:
    """The command that uploads all that is kept below a folder: of a run what each start has left, of a sweep all its
    runs. `last`: the run that ends now."""
    kept = {file.parent for deep in DEEP for file in folder.glob(f"{deep}wandb/{OFFLINE}/*.wandb")} | {last}
    if len(kept) == 1 or not last.match(OFFLINE):
        return shell_command(["wandb", "sync", str(last)])
    deep = sorted({len(run.relative_to(folder).parts) - 2 for run in kept})
    inside = shell_command([str(folder)])
    return " ".join(["wandb sync", *(f"{inside}/{'*/' * levels}wandb" for levels in deep)])


@contextmanager
def _without_variables() -> Iterator[None]:
    """While it lasts, W&B's variables are not set, but for the one that this module sets."""
    aside = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("WANDB_") and name != STAGING}
    try:
        yield
    finally:
        os.environ.update(aside)


def _in_one_line(error: Exception) -> str:
    """What an error says, without the value that it is about, which may be a secret."""
    from pydantic import ValidationError  # comes with W&B

    if isinstance(error, ValidationError):
        first = error.errors()[0]
        name = "_".join(["WANDB", *map(str, first["loc"])]).upper()
        return clean(f"{name}: {first['msg']}" if name in os.environ else first["msg"], 200)
    return clean(str(error).strip().partition("\n")[0] or type(error).__name__, 200)
