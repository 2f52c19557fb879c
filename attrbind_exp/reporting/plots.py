"""Plots: mIoU over thresholds, over alpha, and beside the paper's figures.

Lines differ in colour, style and mark, so that they can be told apart without colours, too.
"""

from collections.abc import Mapping
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
from attrbind_exp.runs.shown import clean
from attrbind_exp.runs.store import write_whole

_LINES = (maps.BLUE, maps.VERMILLION, maps.GREEN, maps.PURPLE, maps.ORANGE, maps.SKY, maps.BLACK)  # yellow is too pale
COLOURS = [maps.as_hex(colour) for colour in _LINES]
STYLES, MARKS = ("-", "--", "-.", ":"), "osD^v"
GREY = "#777777"  # of the paper's figures
_LONG = len(COLOURS) * len(STYLES) * len(MARKS)
# Neighbours differ in colour, style and mark; all 140 lines in one of them.
LINES = cycler(
    color=[COLOURS[i % len(COLOURS)] for i in range(_LONG)],
    linestyle=[STYLES[i % len(STYLES)] for i in range(_LONG)],
    marker=[MARKS[i % len(MARKS)] for i in range(_LONG)],
)


def threshold_curve(curves: Mapping[str, np.ndarray], path: Path, about: str = "") -> Path:
    """mIoU in percent at thresholds 0.00 to 1.00, one line a variant; `about`: of which data and model."""
    figure, axis = plt.subplots(figsize=(6.5, 4))
    axis.set_prop_cycle(LINES)
    for number, (name, values) in enumerate(curves.items()):
        every = (5 * (number % 4), 20)  # marks of lines that lie on each other do not
        axis.plot(np.arange(len(values)) / 100, values, label=_plain(name), markevery=every, markersize=4)
    axis.set(xlabel="threshold of the heat (0 to 1)", ylabel="mIoU (%)", xlim=(0, 1), ylim=(0, None))
    axis.set_title(_plain(about), fontsize=10)
    axis.grid(alpha=0.3)
    return _save(figure, axis, path)


def paper_figure(table: pd.DataFrame, title: str, data: str, model: str, path: Path) -> Path:
    """mIoU of `model` on `data`, and the paper's where the table has it, from `paper_tables.paper_table`: over alpha
    where there are several, else by bars.

    Held-out figures where there are any, else oracle ones, as the labels say; written as PNG.
    """
    held = table["mIoU held out"].astype(float)
    table = table.assign(
        ours=held.fillna(table["mIoU oracle"].astype(float)),
        paper=table["paper"].astype(float),
        at=table["threshold held out"].astype(float).fillna(table["threshold oracle"].astype(float)),
        chosen=np.where(held.notna(), "held-out threshold", "oracle threshold"),
    )
    many = table["alpha"].nunique() > 2
    figure, axis = plt.subplots(figsize=(7, 4.2) if many else (9, 1.4 + 0.4 * len(table)))
    (_curves if many else _bars)(axis, table)
    axis.set_title(f"{_plain(title)}\n{_plain(f'data {data}; model {model}')}", fontsize=10)
    axis.grid(alpha=0.3)
    return _save(figure, axis, path)


def _curves(axis: Axes, table: pd.DataFrame) -> None:
    axis.set_prop_cycle(LINES)
    for number, (split, part) in enumerate(table.groupby("split", sort=False)):
        by_alpha = part.dropna(subset="alpha").sort_values("alpha")
        name = f"{split}, {part['chosen'].iloc[0]}"
        (line,) = axis.plot(by_alpha["alpha"], by_alpha["ours"], label=_plain(name))
        for _, base in part[part["alpha"].isna()].iterrows():
            label = _plain(f"{base['variant']}: {name}")
            axis.axhline(base["ours"], color=line.get_color(), linestyle=":", linewidth=1 + number, label=label)
    paper = table.dropna(subset=["alpha", "paper"]).drop_duplicates("alpha").sort_values("alpha")
    if len(paper):
        axis.plot(paper["alpha"], paper["paper"], "X-.", color=GREY, label="the paper (Stable Diffusion, RefCOCO)")
    axis.set(xlabel="alpha (1: no averaging with the empty prompt)", ylabel="mIoU (%)")


def _bars(axis: Axes, table: pd.DataFrame) -> None:
    names = [_plain(f"{r.variant} ({r.split}, {r.chosen} {r.at:.2f})") for r in table.itertuples()]
    rows = np.arange(len(names))[::-1]
    axis.barh(rows, table["ours"], height=0.6, color=maps.as_hex(maps.SKY), label="measured")
    if table["paper"].notna().any():
        label = "the paper (Stable Diffusion, its own data)"
        axis.plot(table["paper"], rows, "k|", markersize=14, markeredgewidth=3, label=label)
    axis.set_yticks(rows, names, fontsize=8)
    axis.set(xlabel="mIoU (%)")


def gain_curves(gains: pd.DataFrame, path: Path, about: str = "") -> Path:
    """mIoU less the baseline's over alpha: a panel a group, a line a method, a band of 95 %; from
    `binding_study.gains`. `about`: of which data and model."""
    groups = gains["group"].unique()
    figure, axes = plt.subplots(1, len(groups), figsize=(3.2 * len(groups), 3.8), sharey=True, squeeze=False)
    for axis, group in zip(axes[0], groups, strict=True):
        axis.set_prop_cycle(LINES)
        for method, part in gains[gains["group"] == group].groupby("method", sort=False):
            part = part.sort_values("alpha").astype({"low": float, "high": float})
            (line,) = axis.plot(part["alpha"], part["mean"], markersize=4, label=_plain(str(method)))
            axis.fill_between(part["alpha"], part["low"], part["high"], color=line.get_color(), alpha=0.15, linewidth=0)
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.set(title=_plain(str(group)), xlabel="alpha")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("mIoU less the baseline's (points)")
    figure.suptitle(_plain(about), fontsize=10)
    return _save(figure, axes[0][0], path)


def _plain(text: str) -> str:
    """A name as a plot may show it: of one line, with dollars that begin no formula."""
    return clean(text, 120).replace("$", r"\$")


def _save(figure: Figure, axis: Axes, path: Path) -> Path:
    """Write a plot with the legend of `axis` below it, where it hides nothing."""
    figure.tight_layout()
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, handlelength=4, loc="upper center", bbox_to_anchor=(0.5, 0))
    try:
        return write_whole(path, lambda to: figure.savefig(to, dpi=100, format="png", bbox_inches="tight"))
    finally:
        plt.close(figure)
