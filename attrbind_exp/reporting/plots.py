"""Plots: mIoU over thresholds, over alpha, and beside the paper's figures; differences with their intervals.

Lines differ in colour, style and mark, so that they can be told apart without colours, too. A plot for a paper is the
same plot in another style: its title stands in the file's metadata, since papers have captions.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attrbind_exp.reporting import maps
from attrbind_exp.reporting.paper_tables import KINDS
from attrbind_exp.reporting.style import SCREEN, Style
from attrbind_exp.runs.shown import clean
from attrbind_exp.runs.store import write_whole
from attrbind_exp.scoring.figures import without_alpha

_LINES = (maps.BLUE, maps.VERMILLION, maps.GREEN, maps.PURPLE, maps.ORANGE, maps.SKY, maps.BLACK)  # yellow is too pale
COLOURS = [maps.as_hex(colour) for colour in _LINES]
STYLES, MARKS = ("-", "--", "-.", ":"), "osD^v"
GREY = "#777777"  # of the paper's figures
HIGHEST_LEGEND = 20  # inches, more than any: a legend is placed once to be measured
HUNDREDTHS = tuple(k / 100 for k in range(101))
_LONG = len(COLOURS) * len(STYLES) * len(MARKS)
# Neighbours differ in colour, style and mark; all 140 lines in one of them.
LINES = cycler(
    color=[COLOURS[i % len(COLOURS)] for i in range(_LONG)],
    linestyle=[STYLES[i % len(STYLES)] for i in range(_LONG)],
    marker=[MARKS[i % len(MARKS)] for i in range(_LONG)],
)


def threshold_curve(
    curves: Mapping[str, np.ndarray],
    path: Path,
    about: str = "",
    style: Style = SCREEN,
    thresholds: Sequence[float] = HUNDREDTHS,
) -> Path:
    """mIoU in percent at `thresholds`, one line a variant; `about`: of which data and model."""
    with style.applied():
        figure, axis = plt.subplots(figsize=style.size((6.5, 4), 2.2))
        axis.set_prop_cycle(LINES)
        for number, (name, values) in enumerate(curves.items()):
            # Marks of lines that lie on each other do not.
            every = (5 * (number % 4), 20) if len(values) > 20 else 1
            axis.plot(thresholds, values, label=_plain(name), markevery=every, markersize=_small())
        axis.set(xlabel="threshold of the heat (0 to 1)", ylabel="mIoU (%)", xlim=(0, 1), ylim=(0, None))
        axis.grid(alpha=0.3)
        return save_plot(figure, axis, path, _plain(about), style)


def paper_figure(table: pd.DataFrame, title: str, data: str, model: str, path: Path, style: Style = SCREEN) -> Path:
    """mIoU of `model` on `data`, and the paper's where the table has it, from `paper_tables.paper_table`: over alpha
    where there are several, else by bars.

    Held-out figures where there are any, else oracle ones, as the labels say.
    """
    held = table["mIoU held out"].astype(float)
    table = table.assign(
        ours=held.fillna(table["mIoU oracle"].astype(float)),
        paper=table["paper"].astype(float),
        at=table["threshold held out"].astype(float).fillna(table["threshold oracle"].astype(float)),
        chosen=np.where(held.notna(), "held-out threshold", "oracle threshold"),
    )
    many = table["alpha"].nunique() > 2
    names = [] if many else _names(table, style)
    size = ((7, 4.2), 2.2) if many else ((9, 1.4 + 0.4 * len(names)), 0.5 + len(names) * _row_height(names))
    with style.applied():
        figure, axis = plt.subplots(figsize=style.size(*size))
        if many:
            _curves(axis, table)
        else:
            _bars(axis, table, names, style)
        axis.grid(alpha=0.3)
        return save_plot(figure, axis, path, f"{_plain(title)}\n{_plain(f'data {data}; model {model}')}", style)


def differences(
    table: pd.DataFrame,
    title: str,
    data: str,
    model: str,
    path: Path,
    style: Style = SCREEN,
    beside: tuple[str, Mapping[str, str]] = ("", {}),
) -> Path:
    """The differences of the last split's variants with their 95 % intervals, from `paper_tables.paper_table`: held-out
    ones where there are any, else oracle ones; filled where the interval leaves out zero. `beside`: what stands at the
    right of the variants' rows, by label, and what it is called."""
    split = table["split"].iloc[-1]
    ends = {name: _leading(table, name) for name in ("difference", "low", "high")}
    shown = table.assign(**ends)[lambda t: (t["split"] == split) & t["difference"].notna()]
    names = [style.wrap(_plain(str(name)), 0.4) for name in shown["variant"]]
    size = ((9, 1.4 + 0.24 * len(names)), 0.5 + len(names) * _row_height(names))
    with style.applied():
        figure, axis = plt.subplots(figsize=style.size(*size))
        rows = np.arange(len(names))[::-1]
        axis.axvline(0, color=GREY, linewidth=1)
        axis.hlines(rows, shown["low"], shown["high"], color=maps.as_hex(maps.SKY), label="95 % interval over images")
        sure = ((shown["low"] > 0) | (shown["high"] < 0)).to_numpy()
        for part, face, holds in ((sure, "k", "leaves out zero"), (~sure, "w", "holds zero")):
            label = f"difference, its interval {holds}"
            axis.plot(shown["difference"][part], rows[part], "ok", markerfacecolor=face, label=label)
        axis.set_yticks(rows, names, fontsize=6.5 if style.width else 8)
        axis.set_ylim(-1, len(names))
        # Of several runs each is compared with its own.
        firsts = {str(name) for name in table["variant"][(table["split"] == split) & ends["difference"].isna()]}
        first = f"that of {_plain(firsts.pop())}" if len(firsts) == 1 else "the first of the same run"
        axis.set(xlabel=f"mIoU above {first}, in points")
        _beside(axis, rows, [beside[1].get(str(label), "") for label in shown["variant"]], beside[0])
        axis.grid(alpha=0.3)
        about = _plain(f"data {data}, of which {split} is shown; model {model}")
        return save_plot(figure, axis, path, f"{_plain(title)}\n{about}", style)


def _beside(axis: Axes, rows: np.ndarray, texts: Sequence[str], head: str) -> None:
    """A column of texts at the right of a plot's rows, under its head."""
    for row, text in [(rows[0] + 0.7, head), *zip(rows, texts, strict=True)] if any(texts) else []:
        axis.text(1.01, row, text, transform=axis.get_yaxis_transform(), va="center", fontsize=8)


def _leading(table: pd.DataFrame, name: str) -> pd.Series:
    """A figure of every row, held out where it has that, else oracle."""
    held, oracle = (table.get(f"{name} {kind}", pd.Series(np.nan, table.index)).astype(float) for kind in KINDS)
    return held.fillna(oracle)


def _curves(axis: Axes, table: pd.DataFrame) -> None:
    """A line a split and method; variants without an alpha as dotted ones across, the dots further apart for each."""
    axis.set_prop_cycle(LINES)
    for number, (split, part) in enumerate(table.groupby("split", sort=False)):
        by_alpha = part.dropna(subset="alpha").sort_values("alpha")
        name = f"{split}, {part['chosen'].iloc[0]}"
        method = [without_alpha(*of) for of in zip(by_alpha["variant"], by_alpha["alpha"], strict=True)]
        colour = None
        for label, points in by_alpha.groupby(method, sort=False):
            said = name if len(set(method)) == 1 else f"{label}: {name}"
            (line,) = axis.plot(points["alpha"], points["ours"], label=_plain(said))
            colour = colour or line.get_color()
        for place, (_, base) in enumerate(part[part["alpha"].isna()].iterrows()):
            label, dots = _plain(f"{base['variant']}: {name}"), (0, (1, 3 * place)) if place else ":"
            axis.axhline(base["ours"], color=colour or GREY, linestyle=dots, linewidth=1 + number, label=label)
    paper = table.dropna(subset=["alpha", "paper"]).drop_duplicates("alpha").sort_values("alpha")
    if len(paper):
        axis.plot(paper["alpha"], paper["paper"], "X-.", color=GREY, label="the paper (Stable Diffusion, RefCOCO)")
    axis.set(xlabel="alpha (1: no averaging with the empty prompt)", ylabel="mIoU (%)")


def _names(table: pd.DataFrame, style: Style) -> list[str]:
    """What stands beside the bars."""
    names = (_plain(f"{r.variant} ({r.split}, {r.chosen} {r.at:.2f})") for r in table.itertuples())
    return [style.wrap(name, 0.4) for name in names]


def _row_height(names: Sequence[str]) -> float:
    """Inches that a bar needs in print, so that names of several lines stand apart."""
    return 0.1 + 0.12 * max((1 + name.count("\n") for name in names), default=1)


def _bars(axis: Axes, table: pd.DataFrame, names: Sequence[str], style: Style) -> None:
    rows = np.arange(len(names))[::-1]
    axis.barh(rows, table["ours"], height=0.6, color=maps.as_hex(maps.SKY), label="measured")
    if table["paper"].notna().any():
        label = "the paper (Stable Diffusion, its own data)"
        length, thickness = (9, 2) if style.width else (14, 3)
        axis.plot(table["paper"], rows, "k|", markersize=length, markeredgewidth=thickness, label=label)
    axis.set_yticks(rows, names, fontsize=6.5 if style.width else 8)
    axis.set(xlabel="mIoU (%)")


def gain_curves(gains: pd.DataFrame, path: Path, about: str = "", style: Style = SCREEN) -> Path:
    """mIoU less the baseline's over alpha: a panel a group, a line a method, a band of 95 %; from
    `binding_study.gains`. `about`: of which data and model."""
    groups = gains["group"].unique()
    size = style.size((3.2 * len(groups), 3.8), 2.2)
    with style.applied(axes_titlesize="large"):
        figure, axes = plt.subplots(1, len(groups), figsize=size, sharey=True, squeeze=False)
        for axis, group in zip(axes[0], groups, strict=True):
            _gains(axis, gains[gains["group"] == group])
            axis.set(title=style.wrap(_plain(str(group)), 0.9 / len(groups)), xlabel="alpha")
        axes[0][0].set_ylabel("mIoU less the baseline's (points)")
        return save_plot(figure, axes[0][0], path, _plain(about), style)


def _gains(axis: Axes, gains: pd.DataFrame) -> None:
    axis.set_prop_cycle(LINES)
    for method, part in gains.groupby("method", sort=False):
        part = part.sort_values("alpha").astype({"low": float, "high": float})
        (line,) = axis.plot(part["alpha"], part["mean"], markersize=_small(), label=_plain(str(method)))
        axis.fill_between(part["alpha"], part["low"], part["high"], color=line.get_color(), alpha=0.15, linewidth=0)
    axis.axhline(0, color="grey", linewidth=0.8)
    axis.grid(alpha=0.3)


def _plain(text: str) -> str:
    """A name as a plot may show it: of one line, with dollars that begin no formula."""
    return clean(text, 120).replace("$", r"\$")


def _small() -> float:
    """The size of marks where there are many."""
    return min(4.0, matplotlib.rcParams["lines.markersize"])


def save_plot(figure: Figure, axis: Axes, path: Path, title: str, style: Style) -> Path:
    """Write a plot with the legend of `axis` below it, where it hides nothing."""
    handles, labels = axis.get_legend_handles_labels()
    if style.width is None:
        # The title of several panels stands above all of them.
        several = len(figure.axes) > 1
        figure.suptitle(title, fontsize=10) if several else axis.set_title(title)
        figure.tight_layout()
        figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0))
    else:
        figure.set_layout_engine("constrained")
        columns = 2 if style.width == "double" and len(labels) > 3 else 1
        labels = [style.wrap(label, 0.8 / columns) for label in labels]
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns)
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, height + HIGHEST_LEGEND)
        figure.canvas.draw()  # only now is it known how high the legend is
        figure.set_size_inches(width, height + legend.get_window_extent().height / figure.dpi)
    try:
        return write_whole(path, lambda to: style.save(figure, to, title))
    finally:
        plt.close(figure)
