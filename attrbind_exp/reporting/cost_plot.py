"""What a reading costs and what it finds: cost in passes of the model beside mIoU, a point a reading."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from attrbind_exp.reporting.plots import LINES, save_plot
from attrbind_exp.reporting.style import SCREEN, Style
from attrbind_exp.scoring.figures import Estimate

WIDE = 5  # times the cheapest; where the dearest reading costs more, the axis is logarithmic


@dataclass(frozen=True)
class Point:
    """What a reading costs, in bare conditional passes of the model, its mIoU in percent, and whether the cost was
    measured or only counted from the reading's products."""

    cost: float
    found: Estimate
    measured: bool = True


def cost_plot(points: Mapping[str, Point], about: str, path: Path, style: Style = SCREEN) -> Path:
    """A point a reading with the 95 % interval of its mIoU, hollow where the cost was only counted; the key names them,
    the best first. `about`: of which data
    and model, and where the cost was measured."""
    ordered = sorted(points.items(), key=lambda item: -(item[1].found.mean or 0))
    with style.applied():
        figure, axis = plt.subplots(figsize=style.size((7, 4.6), 2.6))
        for (name, point), look in zip(ordered, LINES(), strict=False):
            _draw(axis, name, point, str(look["color"]), str(look["marker"]))
        costs = [point.cost for point in points.values()]
        if max(costs) > WIDE * min(costs):
            axis.set_xscale("log")
        axis.set(xlabel="cost of the reading alone (bare conditional passes of the model)", ylabel="mIoU (%)")
        axis.set_ylim(-0.02 * axis.get_ylim()[1], None)  # room for the mark of a reading that finds nothing
        axis.grid(alpha=0.3)
        return save_plot(figure, axis, path, f"mIoU under the plain prompt beside cost\n{about}", style)


def _draw(axis: Axes, name: str, point: Point, colour: str, mark: str) -> None:
    mean = point.found.mean or 0.0
    low, high = (mean if end is None else end for end in (point.found.low, point.found.high))
    label = f"{name}: {mean:.1f} [{low:.1f}, {high:.1f}], {point.cost:.2f} passes"
    if not point.measured:
        label += " (counted, not measured)"
    bars = [[mean - low], [high - mean]]
    drawn = axis.errorbar([point.cost], [mean], yerr=bars, label=label, color=colour, fmt=mark, capsize=3)
    drawn[0].set_markerfacecolor(colour if point.measured else "white")
