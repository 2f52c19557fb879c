"""Pictures and plots: heat maps laid on images, galleries, curves."""

import textwrap
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from attrbind_exp.reporting import panels as panel_texts
from attrbind_exp.runs.shown import clean, shorten
from attrbind_exp.runs.store import write_whole
from attrbind_exp.types import IGNORED, SampleError

PANEL = 240  # pixels high
GAP = 6
TITLE = 26
SMALLEST = 9  # size of letters
MOST_PIXELS = 100_000_000  # of one sheet: 300 MB while it is made
COMPRESSION = 1  # of PNGs, in a third of the time that the default 6 takes; files are a sixth larger


def overlay(image: np.ndarray, heat: np.ndarray, strength: float = 0.6) -> np.ndarray:
    """An image (H, W, 3) uint8 with a heat map (H, W) in [0, 1] burnt in; (H, W, 3) uint8."""
    colours = matplotlib.colormaps["inferno"](heat)[..., :3] * 255
    return ((1 - strength) * image + strength * colours).astype(np.uint8)


def outline(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An image with everything outside `mask` (H, W) bool washed out; (H, W, 3) uint8."""
    return np.where(mask[..., None], image, (0.25 * image + 0.75 * 255)).astype(np.uint8)


def paint(image: np.ndarray, labels: np.ndarray, strength: float = 0.75) -> np.ndarray:
    """An image in grey with a label map (H, W) laid on it, a colour a class; ignored pixels turn white."""
    colours = np.array(matplotlib.color_sequences["tab20"])[(labels.astype(int) - 1) % 20] * 255
    colours[labels == IGNORED] = 255
    grey = image.mean(-1, keepdims=True).repeat(3, -1)
    mixed = np.where((labels > 0)[..., None], (1 - strength) * grey + strength * colours, grey)
    return mixed.astype(np.uint8)


def panels(pictures: Mapping[str, np.ndarray], title: str, path: Path, sample_id: str | None = None) -> Path:
    """Pictures (H, W, 3) uint8 side by side under their names, the title above them; written as PNG.

    Texts are drawn cleaned and shortened. The PNG itself says what is where in it, the whole title among it
    (reporting.panels).
    """
    tiles = [_tile(picture, name) for name, picture in pictures.items()]
    row = _beside(tiles)
    shown = _fit(clean(title), row.width)
    size = max(SMALLEST, min(16, int(16 * row.width / max(1, _font(16).getlength(shown)))))
    head = Image.new("RGB", (row.width, TITLE), "white")
    ImageDraw.Draw(head).text((row.width / 2, TITLE / 2), shown, "black", _font(size), anchor="mm")
    rights = np.cumsum([tile.width for tile in tiles]).tolist()
    bottom = TITLE + row.height - GAP
    boxes = [(r - t.width + GAP, bottom - PANEL, r, bottom) for r, t in zip(rights, tiles, strict=True)]
    about = PngImagePlugin.PngInfo()
    places = list(zip(pictures, boxes, strict=True))
    about.add_itxt(panel_texts.KEY, panel_texts.encode(panel_texts.Description(sample_id, title, places)))
    return _write(_below([head, row]), path, about)


def save_mask(mask: np.ndarray, path: Path) -> Path:
    """A mask (H, W) bool as a black and white PNG of the same size."""
    return _write(Image.fromarray(mask.astype(np.uint8) * 255), path)


def contact_sheet(pictures: Mapping[str, np.ndarray], path: Path, columns: int = 4) -> Path:
    """Many small pictures in a grid, each under its name; written as PNG."""
    tiles = [_tile(picture, name, height=160) for name, picture in pictures.items()]
    rows = [_beside(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    return _write(_below(rows), path)


def sheet(files: Sequence[Path], path: Path) -> Path | None:
    """Gallery pictures stacked into one; None when there are none. Raises SampleError where that gets too large."""
    if not files:
        return None
    sizes = [size_of(file) for file in files]
    width, height = max(width for width, _ in sizes), sum(height for _, height in sizes)
    if width * height > MOST_PIXELS:
        raise SampleError("too_large", f"{len(files)} pictures make one of {width} x {height} pixels")
    return _write(_below([Image.open(f).convert("RGB") for f in files]), path)


def size_of(file: Path) -> tuple[int, int]:
    """Width and height of a picture, whose pixels are not read."""
    with Image.open(file) as image:
        return image.size


def _fit(text: str, width: int) -> str:
    """A text short enough for `width` pixels in the smallest letters."""
    length = _font(SMALLEST).getlength(text)
    while length > width and len(text) > 1:
        text = shorten(text, max(1, min(len(text) - 1, int(len(text) * width / length))))
        length = _font(SMALLEST).getlength(text)
    return text


def _tile(picture: np.ndarray, name: str, height: int = PANEL) -> Image.Image:
    """One picture at `height` pixels with its name above it."""
    image = Image.fromarray(picture).convert("RGB")
    width = max(1, round(image.width * height / image.height))
    # Small pictures keep their pixels, so that one can count them.
    image = image.resize(
        (width, height), Image.Resampling.NEAREST if image.height <= height else Image.Resampling.LANCZOS
    )
    lines = textwrap.wrap(clean(name), max(8, width // 8)) or [""]
    tile = Image.new("RGB", (width + GAP, height + 16 * len(lines) + GAP), "white")
    draw = ImageDraw.Draw(tile)
    for number, line in enumerate(lines):
        draw.text(((width + 2 * GAP) / 2, 16 * number + 8), line, "black", _font(13), anchor="mm")
    tile.paste(image, (GAP, 16 * len(lines)))
    return tile


def _beside(tiles: Sequence[Image.Image]) -> Image.Image:
    height = max(t.height for t in tiles)
    row = Image.new("RGB", (sum(t.width for t in tiles), height), "white")
    for number, tile in enumerate(tiles):
        row.paste(tile, (sum(t.width for t in tiles[:number]), height - tile.height))
    return row


def _below(rows: Sequence[Image.Image]) -> Image.Image:
    page = Image.new("RGB", (max(r.width for r in rows), sum(r.height for r in rows)), "white")
    for number, row in enumerate(rows):
        page.paste(row, (0, sum(r.height for r in rows[:number])))
    return page


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib's own font, which knows more than Latin letters."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _write(image: Image.Image, path: Path, about: PngImagePlugin.PngInfo | None = None) -> Path:
    return write_whole(path, lambda to: image.save(to, "PNG", pnginfo=about, compress_level=COMPRESSION))


def threshold_curve(curves: Mapping[str, np.ndarray], path: Path) -> Path:
    """mIoU in percent at thresholds 0.00 to 1.00, one line a variant."""
    figure, axis = plt.subplots(figsize=(6, 4))
    for name, values in curves.items():
        axis.plot(np.arange(len(values)) / 100, values, label=_plain(name))
    axis.set(xlabel="threshold", ylabel="mIoU (%)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return _save(figure, path)


def paper_figure(table: pd.DataFrame, title: str, model: str, path: Path) -> Path:
    """mIoU of `model` and the paper's, from `results.paper_table`: over alpha where there are several, else by bars.

    Held-out figures where there are any, else oracle ones; written as PNG.
    """
    ours = table["mIoU held out"].astype(float).fillna(table["mIoU oracle"].astype(float))
    table = table.assign(ours=ours, paper=table["paper"].astype(float))
    many = table["alpha"].nunique() > 2
    figure, axis = plt.subplots(figsize=(7, 4.2) if many else (9, 1 + 0.4 * len(table)))
    (_curves if many else _bars)(axis, table, model)
    axis.set_title(_plain(title), fontsize=11)
    axis.grid(alpha=0.3)
    return _save(figure, path)


def _curves(axis: Axes, table: pd.DataFrame, model: str) -> None:
    for split, part in table.groupby("split", sort=False):
        by_alpha = part.dropna(subset="alpha").sort_values("alpha")
        (line,) = axis.plot(by_alpha["alpha"], by_alpha["ours"], "o-", label=_plain(f"{model}, {split}"))
        for _, base in part[part["alpha"].isna()].iterrows():
            axis.axhline(
                base["ours"], color=line.get_color(), linestyle=":", label=_plain(f"{base['variant']}, {split}")
            )
    paper = table.dropna(subset=["alpha", "paper"]).drop_duplicates("alpha").sort_values("alpha")
    axis.plot(paper["alpha"], paper["paper"], "ks--", label="the paper (Stable Diffusion, RefCOCO)")
    axis.set(xlabel="alpha", ylabel="mIoU (%)")
    axis.legend(fontsize=8)


def _bars(axis: Axes, table: pd.DataFrame, model: str) -> None:
    names = [_plain(f"{r.variant} ({r.split})") for r in table.itertuples()]
    rows = np.arange(len(names))[::-1]
    axis.barh(rows, table["ours"], height=0.6, label=_plain(model))
    axis.plot(table["paper"], rows, "k|", markersize=14, markeredgewidth=3, label="the paper (Stable Diffusion)")
    axis.set_yticks(rows, names, fontsize=8)
    axis.set(xlabel="mIoU (%)")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))


def gain_curves(gains: pd.DataFrame, path: Path) -> Path:
    """mIoU less the baseline's over alpha: a panel a group, a line a method, a band of 95 %; from `binding.gains`."""
    groups = gains["group"].unique()
    figure, axes = plt.subplots(1, len(groups), figsize=(3.2 * len(groups), 3.4), sharey=True, squeeze=False)
    for axis, group in zip(axes[0], groups, strict=True):
        for method, line in gains[gains["group"] == group].groupby("method", sort=False):
            line = line.sort_values("alpha").astype({"low": float, "high": float})
            axis.plot(line["alpha"], line["mean"], "o-", markersize=3, label=_plain(str(method)))
            axis.fill_between(line["alpha"], line["low"], line["high"], alpha=0.2)
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.set(title=_plain(str(group)), xlabel="alpha")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("mIoU less the baseline's")
    axes[0][0].legend(fontsize=7)
    return _save(figure, path)


def _plain(text: str) -> str:
    """A name as a plot may show it: of one line, with dollars that begin no formula."""
    return clean(text, 120).replace("$", r"\$")


def _save(figure: Figure, path: Path) -> Path:
    figure.tight_layout()
    try:
        return write_whole(path, lambda to: figure.savefig(to, dpi=100, format="png"))
    finally:
        plt.close(figure)
