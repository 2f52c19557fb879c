"""A task's panels -> pictures of the height at which they are shown.

A heat map stands alone, in the colours of its bar. Laid over a picture, the picture's own hue and shade would be read
as heat: an orange object would look hot. All is scaled first and painted then, so that lines are equally wide on small
pictures and large ones, and no colour is mixed with another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib
import numpy as np
from PIL import Image
from scipy import ndimage

from attrbind_exp.reporting.panels import Colour
from attrbind_exp.tasks.task import Panel
from attrbind_exp.types import IGNORED

HEIGHT = 240  # pixels
LINE = 2  # pixels; a black pixel on either side parts a line from whatever colour lies there
DIM = 0.3  # of the brightness, outside a mask
HEAT = matplotlib.colormaps["viridis"]  # perceptually even, and without the two colours of the outlines
DIFFERENCE = matplotlib.colormaps["berlin"]  # even too, dark where nothing differs: blue for less heat, red for more

# Okabe and Ito's colours, which the colour-blind can tell apart.
BLACK, ORANGE, SKY, GREEN = (0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115)
YELLOW, BLUE, VERMILLION, PURPLE = (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)
WHITE = (255, 255, 255)
TRUTH, MASK = WHITE, VERMILLION  # of outlines
_STRONG = (ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE)


def _mix(colour: Colour, other: Colour) -> Colour:
    red, green, blue = ((a + b) // 2 for a, b in zip(colour, other, strict=True))
    return red, green, blue


CLASSES = (*_STRONG, BLACK, *(_mix(c, WHITE) for c in _STRONG), *(_mix(c, BLACK) for c in _STRONG))


@dataclass(frozen=True)
class Swatch:
    """What a colour means: that of an outline, or of a class."""

    meaning: str
    colour: Colour
    line: bool = False


@dataclass(frozen=True)
class Around:
    """What stands around the panels of a picture. `about`: the line below its title; `thresholds`: at which a panel
    shows a mask or classes, by its name; `swatches`: the key below; `bar`: whether there is a colour bar of heat."""

    about: str = ""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    swatches: Sequence[Swatch] = ()
    bar: bool = False


def render(
    panels: Mapping[str, Panel], photo: Image.Image, about: str = "", height: int = HEIGHT
) -> tuple[dict[str, np.ndarray], Around]:
    """Panels as pictures (height, w, 3) uint8, and what is to be said around them. All of them belong to `photo`."""
    scaled = scale(photo, height)
    labels = [p.values for p in panels.values() if p.kind == "labels" and p.values is not None]
    colours = class_colours(labels)
    pictures = {name: _paint(panel, scaled, colours) for name, panel in panels.items()}
    names = {label: name for panel in panels.values() for label, name in panel.names.items()}
    swatches = [Swatch(names.get(label, f"class {label}"), colour) for label, colour in colours.items()]
    if any(p.truth is not None for p in panels.values()):
        swatches.append(Swatch("ground truth", TRUTH, line=True))
    if any(p.kind in ("heat", "mask") and p.threshold is not None for p in panels.values()):
        swatches.append(Swatch("mask: heat at or above the threshold", MASK, line=True))
    if any((values == IGNORED).any() for values in labels):
        swatches.append(Swatch("not scored", WHITE))
    bar = any(p.kind == "heat" for p in panels.values())
    thresholds = {name: panel.threshold for name, panel in panels.items() if panel.threshold is not None}
    none = "; no threshold was chosen: no masks" if bar and not thresholds else ""
    return pictures, Around(about + none, thresholds, swatches, bar)


def _paint(panel: Panel, photo: np.ndarray, colours: Mapping[int, Colour]) -> np.ndarray:
    """One panel at the size of the scaled `photo` (h, w, 3)."""
    size = photo.shape[:2]
    truth = None if panel.truth is None else scale_mask(panel.truth, size)
    if panel.values is None:
        return draw_outlines(photo, truth, None)
    if panel.kind == "labels":
        return paint_labels(photo, _nearest(panel.values, size), colours)
    if panel.kind == "mask":
        inside = scale_mask(panel.values, size)
        return draw_outlines(dim_outside(photo, inside), truth, None if panel.threshold is None else inside)
    mask = None if panel.threshold is None else scale_mask(panel.values >= np.float32(panel.threshold), size)
    return draw_outlines(heat_colours(scale_values(panel.values, size)), truth, mask)


def scale(photo: Image.Image, height: int) -> np.ndarray:
    """A picture at `height` pixels, (height, w, 3) uint8. A small one keeps its pixels, so that one can count them."""
    size = (max(1, round(photo.width * height / photo.height)), height)
    small = 2 * photo.height <= height or photo.height == height
    how = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    return np.asarray(photo.convert("RGB").resize(size, how))


def scale_values(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map (H, W) at `size` (h, w), float32: enlarged pixel by pixel, reduced by means."""
    if values.shape[0] <= size[0]:
        return _nearest(values.astype(np.float32), size)
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize(size[::-1], Image.Resampling.BOX))


def scale_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask (H, W) bool at `size` (h, w): where at least half of what lies beneath a pixel is in it."""
    return scale_values(mask, size) >= 0.5


def _nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(values).resize(size[::-1], Image.Resampling.NEAREST))


def heat_colours(heat: np.ndarray) -> np.ndarray:
    """A heat map (H, W) in [0, 1] in the colours of the bar, (H, W, 3) uint8. The scale is 0 to 1 for every map."""
    return HEAT(np.clip(heat, 0, 1), bytes=True)[..., :3]


def as_hex(colour: Colour) -> str:
    """A colour as a style sheet names it, such as "#d55e00"."""
    return "#" + bytes(colour).hex()


def bar_colours(stops: int = 11) -> list[str]:
    """The colours of the bar at even steps from 0 to 1, as a style sheet names them."""
    red_green_blue = heat_colours(np.linspace(0, 1, stops)[None])[0].tolist()
    return [as_hex((r, g, b)) for r, g, b in red_green_blue]


def dim_outside(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An image (H, W, 3), dark and grey outside `mask` (H, W) bool; uint8."""
    grey = DIM * image.mean(-1, keepdims=True).repeat(3, -1)
    return np.where(mask[..., None], image, grey).astype(np.uint8)


def draw_outlines(image: np.ndarray, truth: np.ndarray | None, mask: np.ndarray | None) -> np.ndarray:
    """An image (H, W, 3) uint8 with the outlines of the truth and of a mask, both (H, W) bool or None.

    The mask's line lies just inside of its boundary, the truth's just outside: where both agree, both can be seen.
    """
    if truth is None and mask is None:
        return image
    none = np.zeros(image.shape[:2], bool)
    inside = none if mask is None else mask & ~_shrink(mask, LINE)
    outside = none if truth is None else _grow(truth, LINE) & ~truth
    drawn = image.copy()
    drawn[_grow(inside | outside, 1)] = BLACK
    drawn[outside] = TRUTH
    drawn[inside] = MASK
    return drawn


def _grow(mask: np.ndarray, pixels: int) -> np.ndarray:
    return ndimage.binary_dilation(mask, iterations=pixels)


def _shrink(mask: np.ndarray, pixels: int) -> np.ndarray:
    return ndimage.binary_erosion(mask, iterations=pixels)


def class_colours(maps: Sequence[np.ndarray]) -> dict[int, Colour]:
    """A colour for every class that stands in label maps (0: background). A class has the same colour on every
    picture, unless another one of the picture has it already: then it takes the next that is free."""
    found = sorted({int(label) for labels in maps for label in np.unique(labels)} - {0, IGNORED})
    taken: dict[int, int] = {}
    for label in found:
        wanted = [(label - 1 + step) % len(CLASSES) for step in range(len(CLASSES))]
        taken[label] = next((place for place in wanted if place not in taken.values()), wanted[0])
    return {label: CLASSES[place] for label, place in taken.items()}


def paint_labels(image: np.ndarray, labels: np.ndarray, colours: Mapping[int, Colour]) -> np.ndarray:
    """A label map (H, W) in the very colours of its key; the background is the image in pale grey, ignored pixels are
    white."""
    painted = (0.5 * 255 + 0.4 * image.mean(-1, keepdims=True)).repeat(3, -1).astype(np.uint8)
    for label, colour in colours.items():
        painted[labels == label] = colour
    painted[labels == IGNORED] = WHITE
    return painted
