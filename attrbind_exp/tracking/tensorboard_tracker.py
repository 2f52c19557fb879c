"""Tracking by TensorBoard. No other module knows it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from attrbind_exp.runs.shown import shell_command
from attrbind_exp.tracking.tracker import Lines, flat_config, lacking

ROWS = 200  # of a table at most: a browser lays out all of them at once


class TensorboardTracker:
    """Event files in tensorboard/ below `folder`; a run that goes on adds to them. Raises UserError where the package
    is missing."""

    def __init__(self, folder: Path, run_config: Mapping[str, object], **about: object):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise lacking("tensorboard", "tensorboard") from error
        self.folder, self._config = Path(folder), flat_config(run_config)
        self._writer = SummaryWriter(str(self.folder / "tensorboard"))

    def log(self, values: Mapping[str, float]) -> None:
        """One point of each curve, at the step that the first value is."""
        (_, step), *others = values.items()
        for name, value in others:
            self._writer.add_scalar(name, value, round(step))
        self._writer.flush()

    def summary(self, values: Mapping[str, object]) -> None:
        """The run's figures beside its configuration, on the page HPARAMS."""
        plain = {key: value for key, value in self._config.items() if isinstance(value, bool | str | int | float)}
        figures = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        self._writer.add_hparams(plain, figures, run_name=".")

    def curve(self, name: str, x: str, y: str, xs: Sequence[float], lines: Lines) -> None:
        """A plot: TensorBoard's own curves run over whole numbers."""
        from matplotlib.figure import Figure

        figure = Figure(layout="constrained")
        axes = figure.subplots()
        for label, line in lines.items():
            there = [(at, value) for at, value in zip(xs, line, strict=True) if value is not None]
            axes.plot(*zip(*there), label=label)
        axes.set(xlabel=x, ylabel=y)
        axes.legend(fontsize="small")
        self._writer.add_figure(name, figure)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table as text, its first rows where it is long."""
        lines = [columns, ["---"] * len(columns), *rows[:ROWS]]
        text = "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)
        more = f"\n\nand {len(rows) - ROWS} more" if len(rows) > ROWS else ""
        self._writer.add_text(name, text + more)

    def images(self, name: str, files: Mapping[str, Path]) -> None:
        """Pictures by caption."""
        for caption, file in files.items():
            with Image.open(file) as image:
                self._writer.add_image(f"{name}/{caption}", np.asarray(image.convert("RGB")), dataformats="HWC")

    def close(self) -> str | None:
        """How to look at it."""
        self._writer.close()
        return "look at it by: " + shell_command(["tensorboard", "--logdir", str(self.folder)])


def _cell(value: object) -> str:
    """A value as one cell of a Markdown table."""
    shown = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(shown.replace("|", "\\|").split())
