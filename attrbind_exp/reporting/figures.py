"""Pictures: panels side by side under their captions, a key below them; galleries stacked into sheets."""

import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from attrbind_exp.reporting import maps
from attrbind_exp.reporting import panels as panel_texts
from attrbind_exp.reporting.maps import Around, Swatch
from attrbind_exp.runs.shown import clean, shorten
from attrbind_exp.runs.store import write_whole
from attrbind_exp.types import SampleError

GAP = 6
TITLE = 26
ABOUT = 18
NARROWEST = 480  # pixels of a picture with panels, so that a title can be read
LINE = 16  # pixels high, of captions and of the key
LETTERS, SMALLEST = 13, 9  # size of letters
BAR = (14, 46)  # pixels wide: the colour bar, and the place that it takes with its figures
MOST_PIXELS = 100_000_000  # of one sheet: 300 MB while it is made
COMPRESSION = 1  # of PNGs, in a third of the time that the default 6 takes; files are a sixth larger


def panels(
    pictures: Mapping[str, np.ndarray],
    title: str,
    path: Path,
    sample_id: str | None = None,
    around: Around = Around(),
    height: int = maps.HEIGHT,
) -> Path:
    """The picture of `draw_panels`, written as PNG."""
    image, about = draw_panels(pictures, title, sample_id, around, height)
    return _write(image, path, about)


def draw_panels(
    pictures: Mapping[str, np.ndarray],
    title: str,
    sample_id: str | None = None,
    around: Around = Around(),
    height: int = maps.HEIGHT,
) -> tuple[Image.Image, PngImagePlugin.PngInfo]:
    """Pictures (H, W, 3) uint8 side by side at one height under their captions, the title above and the key below
    them.

    Texts are drawn cleaned and shortened. What belongs into the PNG says what is where in it, the whole title among it
    (reporting.panels).
    """
    at = around.thresholds
    said = {name: [f"threshold {at[name]:.2f}"] if name in at else [] for name in pictures}
    tiles = [_tile(picture, [name, *said[name]], height) for name, picture in pictures.items()]
    row = _beside([*tiles, _colour_bar(set(at.values()), height)] if around.bar else tiles)
    width = max(row.width, NARROWEST)
    head = _head(title, around.about, width)
    rights = np.cumsum([tile.width for tile in tiles]).tolist()
    bottom = head.height + row.height - GAP
    boxes = [(r - t.width + GAP, bottom - height, r, bottom) for r, t in zip(rights, tiles, strict=True)]
    places = list(zip(pictures, boxes, strict=True))
    classes = [(s.meaning, s.colour) for s in around.swatches if not s.line]
    about = PngImagePlugin.PngInfo()
    description = panel_texts.Description(sample_id, title, places, around.thresholds, classes)
    about.add_itxt(panel_texts.KEY, panel_texts.encode(description))
    return _below([head, row, *_key(around.swatches, width)]), about


def save_mask(mask: np.ndarray, path: Path) -> Path:
    """A mask (H, W) bool as a black and white PNG of the same size."""
    return _write(Image.fromarray(mask.astype(np.uint8) * 255), path)


def contact_sheet(pictures: Mapping[str, np.ndarray], path: Path, columns: int = 4) -> Path:
    """Many small pictures in a grid, each under its name; written as PNG."""
    tiles = [_tile(picture, [name], height=160) for name, picture in pictures.items()]
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


def _head(title: str, about: str, width: int) -> Image.Image:
    """The title, and below it in smaller letters what the picture is of."""
    head = Image.new("RGB", (width, TITLE + (ABOUT if about else 0)), "white")
    draw = ImageDraw.Draw(head)
    for text, middle, largest in ((title, TITLE / 2, 16), (about, TITLE + ABOUT / 2 - 2, LETTERS)):
        shown = _fit(clean(text), width)
        size = max(SMALLEST, min(largest, int(largest * width / max(1, font(largest).getlength(shown)))))
        draw.text((width / 2, middle), shown, "black", font(size), anchor="mm")
    return head


def _fit(text: str, width: int) -> str:
    """A text short enough for `width` pixels in the smallest letters."""
    length = font(SMALLEST).getlength(text)
    while length > width and len(text) > 1:
        text = shorten(text, max(1, min(len(text) - 1, int(len(text) * width / length))))
        length = font(SMALLEST).getlength(text)
    return text


def _tile(picture: np.ndarray, caption: Sequence[str], height: int) -> Image.Image:
    """One picture at `height` pixels with a caption above it."""
    image = Image.fromarray(maps.scale(Image.fromarray(picture), height))
    letters = max(8, image.width // 8)
    lines = [line for part in caption for line in wrap(clean(part), letters)]
    tile = Image.new("RGB", (image.width + GAP, height + LINE * len(lines) + GAP), "white")
    draw = ImageDraw.Draw(tile)
    for number, line in enumerate(lines):
        place = ((image.width + 2 * GAP) / 2, LINE * number + LINE / 2)
        draw.text(place, line, "black", font(LETTERS), anchor="mm")
    tile.paste(image, (GAP, LINE * len(lines)))
    return tile


def wrap(text: str, letters: int) -> list[str]:
    """A text in lines of at most so many letters; where a name of a method is longer, names are parted behind an
    underscore."""
    wrapper = textwrap.TextWrapper(letters, break_on_hyphens=False)
    if any(len(word) > letters for word in text.split()):
        wrapper.wordsep_simple_re = re.compile(r"(\s+|(?<=_))")
    return wrapper.wrap(text) or [""]


def _colour_bar(thresholds: Collection[float], height: int) -> Image.Image:
    """The scale of heat maps from 0 to 1, with a mark at every threshold."""
    width, place = BAR
    tile = Image.new("RGB", (place + GAP, height + LINE + GAP), "white")
    values = np.linspace(1, 0, height)[:, None].repeat(width, 1)
    tile.paste(Image.fromarray(maps.heat_colours(values)), (GAP, LINE))
    draw = ImageDraw.Draw(tile)
    draw.text((GAP, LINE / 2), "heat", "black", font(LETTERS), anchor="lm")
    for value in (0, 0.25, 0.5, 0.75, 1):
        y = LINE + (1 - value) * (height - 1)
        letter = min(max(y, LINE + LETTERS / 2), LINE + height - LETTERS / 2)
        draw.line((GAP + width, y, GAP + width + 3, y), "black")
        draw.text((GAP + width + 5, letter), f"{value:g}", "black", font(11), anchor="lm")
    for threshold in thresholds:
        y = LINE + (1 - threshold) * (height - 1)
        draw.line((GAP, y, GAP + width - 1, y), maps.BLACK, maps.LINE + 2)
        draw.line((GAP, y, GAP + width - 1, y), maps.MASK, maps.LINE)
    return tile


def _key(swatches: Sequence[Swatch], width: int) -> list[Image.Image]:
    """What the colours mean, in as many lines as that takes."""
    lines: list[Image.Image] = []
    x = width
    for swatch in swatches:
        text = _fit(clean(swatch.meaning), width - 40)
        needed = 34 + int(font(LETTERS).getlength(text)) + 2 * GAP
        if x + needed > width:
            lines.append(Image.new("RGB", (width, LINE + 4), "white"))
            x = GAP
        draw = ImageDraw.Draw(lines[-1])
        box = (x, 2, x + 26, LINE)
        draw.rectangle(box, (128, 128, 128) if swatch.line else swatch.colour, "black" if not swatch.line else None)
        if swatch.line:
            draw.line((x, 9, x + 26, 9), maps.BLACK, maps.LINE + 2)
            draw.line((x, 9, x + 26, 9), swatch.colour, maps.LINE)
        draw.text((x + 34, 9), text, "black", font(LETTERS), anchor="lm")
        x += needed
    return lines


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
def font(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib's own font, which knows more than Latin letters."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _write(image: Image.Image, path: Path, about: PngImagePlugin.PngInfo | None = None) -> Path:
    return write_whole(path, lambda to: image.save(to, "PNG", pnginfo=about, compress_level=COMPRESSION))
