"""Drawn scenes: which objects are in them, how they look, and which pixels belong to each.

A scene is a handful of coloured shapes on a textured ground. As in the world, a shape has some colours far more often
than others (`pair_weights`). So a model trained on these scenes meets some pairs of shape and colour often and some
hardly ever. A scene depends on its split and index alone and is the same on every machine.
"""

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")
COLOURS = {
    "red": (214, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 210),
    "yellow": (240, 215, 50),
    "purple": (140, 50, 170),
    "orange": (245, 135, 30),
    "white": (242, 242, 242),
    "black": (22, 22, 22),
}
USUAL = {
    "circle": "blue",
    "square": "green",
    "triangle": "orange",
    "star": "yellow",
    "heart": "red",
    "cross": "white",
    "ring": "black",
    "moon": "purple",
}
RARE = {
    "circle": ("orange", "white"),
    "square": ("purple", "yellow"),
    "triangle": ("blue", "black"),
    "star": ("green", "black"),
    "heart": ("green", "white"),
    "cross": ("purple", "orange"),
    "ring": ("yellow", "red"),
    "moon": ("red", "blue"),
}
SPLITS = {"train": 0, "val": 1, "test": 2}


@dataclass(frozen=True)
class Object:
    """One coloured shape. Centre (x, y) and radius are in units of the image's side, the angle in radians."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    angle: float

    @property
    def pair(self) -> str:
        """How often training scenes give this shape this colour: "usual", "common" or "rare"."""
        if self.colour == USUAL[self.shape]:
            return "usual"
        return "rare" if self.colour in RARE[self.shape] else "common"


@dataclass(frozen=True)
class Scene:
    """Objects that do not overlap, and the seed of everything else that is drawn: ground and shades."""

    objects: tuple[Object, ...]
    paint_seed: tuple[int, ...]


def scene_rng(split: str, index: int, purpose: int = 0) -> np.random.Generator:
    """The random numbers of one scene. Those of another split or purpose are independent of them."""
    return np.random.default_rng([SPLITS[split], index, purpose])


def pair_weights(shape: str) -> dict[str, float]:
    """The probability of each colour in training: 0.35 for the usual one, 0.01 for each of the two rare ones, and the
    five others share the rest evenly."""
    common = (1 - 0.35 - 2 * 0.01) / (len(COLOURS) - 3)
    return {c: 0.35 if c == USUAL[shape] else 0.01 if c in RARE[shape] else common for c in COLOURS}


def training_scene(index: int) -> Scene:
    """Training scene number `index`, of one to four objects.

    Of the scenes with two or more objects, four in ten have two of the same shape and four in ten two of the same
    colour. So neither the shape's word nor the colour's is enough to tell objects apart.
    """
    rng = scene_rng("train", index)
    count = rng.choice([1, 2, 3, 4], p=[0.1, 0.3, 0.35, 0.25])
    pairs = [draw_pair(rng, [])]
    shared = rng.choice(["shape", "colour", "none"], p=[0.4, 0.4, 0.2])
    while len(pairs) < count:
        first = pairs[0] if len(pairs) == 1 else (None, None)  # only the second object shares anything with the first
        shape, colour = first[0] if shared == "shape" else None, first[1] if shared == "colour" else None
        pairs.append(draw_pair(rng, pairs, shape, colour))
    return place(rng, pairs, (SPLITS["train"], index, 1))


def draw_pair(
    rng: np.random.Generator, taken: list[tuple[str, str]], shape: str | None = None, colour: str | None = None
) -> tuple[str, str]:
    """A random (shape, colour) that is not in `taken`, by `pair_weights`. A given shape or colour is kept."""
    free = [
        (s, c) for s in SHAPES for c in COLOURS if (s, c) not in taken and shape in (None, s) and colour in (None, c)
    ]
    chances = np.array([pair_weights(s)[c] for s, c in free])
    return free[rng.choice(len(free), p=chances / chances.sum())]


def place(rng: np.random.Generator, pairs: list[tuple[str, str]], paint_seed: tuple[int, ...]) -> Scene:
    """A scene with an object for each (shape, colour), at random places where no two touch."""
    while True:
        objects: list[Object] = []
        for shape, colour in pairs:
            for _ in range(60):
                radius = rng.uniform(0.11, 0.19)
                x, y = rng.uniform(radius + 0.01, 0.99 - radius, 2)
                if all((x - o.x) ** 2 + (y - o.y) ** 2 > (1.05 * (radius + o.radius)) ** 2 for o in objects):
                    angle = rng.uniform(-0.25, 0.25)
                    objects.append(Object(shape, colour, float(x), float(y), float(radius), float(angle)))
                    break
        if len(objects) == len(pairs):
            return Scene(tuple(objects), paint_seed)


def outlines(obj: Object) -> tuple[np.ndarray, np.ndarray | None]:
    """The outline of an object and that of its hole (rings have one), as points (n, 2) in units of the image's side."""
    points, hole = unit_outlines(obj.shape)
    turn = np.array([[cos(obj.angle), sin(obj.angle)], [-sin(obj.angle), cos(obj.angle)]])
    centre = np.array([obj.x, obj.y])
    outer_points = points @ turn * obj.radius + centre
    return outer_points, None if hole is None else hole @ turn * obj.radius + centre


def unit_outlines(shape: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The outline of a shape of radius 1 around (0, 0), upright, and that of its hole, as points (n, 2)."""
    turns = np.linspace(0, 2 * pi, 48, endpoint=False)
    circle = np.stack([np.cos(turns), np.sin(turns)], 1)
    hole = None
    if shape == "circle":
        points = circle
    elif shape == "ring":
        points, hole = circle, circle * 0.5
    elif shape == "square":
        points = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.82
    elif shape == "triangle":
        points = np.array([[0, -1], [0.95, 0.75], [-0.95, 0.75]])
    elif shape == "star":
        spokes = [(1.0 if k % 2 == 0 else 0.45, k * pi / 5 - pi / 2) for k in range(10)]
        points = np.array([[r * cos(a), r * sin(a)] for r, a in spokes])
    elif shape == "cross":
        a, b = 0.33, 0.95
        points = np.array(
            [[-a, -b], [a, -b], [a, -a], [b, -a], [b, a], [a, a], [a, b], [-a, b], [-a, a], [-b, a], [-b, -a], [-a, -a]]
        )
    elif shape == "heart":
        x = 16 * np.sin(turns) ** 3
        y = -(13 * np.cos(turns) - 5 * np.cos(2 * turns) - 2 * np.cos(3 * turns) - np.cos(4 * turns))
        points = np.stack([x, y - 2.5], 1) / 16.5
    elif shape == "moon":
        # The unit circle less a circle of radius 0.75 around (0.5, 0); the two meet at (0.6875, +-0.726).
        a, b = np.arctan2(0.726, 0.6875), np.arctan2(0.726, 0.1875)
        far, near = np.linspace(a, 2 * pi - a, 36), np.linspace(2 * pi - b, b, 36)
        bite = 0.75 * np.stack([np.cos(near), np.sin(near)], 1) + [0.5, 0]
        points = np.concatenate([np.stack([np.cos(far), np.sin(far)], 1), bite]) + [0.2, 0]
    else:
        raise ValueError(f"unknown shape {shape!r}; choose from {', '.join(SHAPES)}")
    return points, hole


def object_mask(obj: Object, size: int, supersample: int = 4) -> np.ndarray:
    """How much of each pixel the object covers, (size, size) float32 in [0, 1]."""
    canvas = Image.new("L", (size * supersample,) * 2, 0)
    pen = ImageDraw.Draw(canvas)
    outer, hole = outlines(obj)
    pen.polygon([tuple(p) for p in outer * size * supersample], fill=255)
    if hole is not None:
        pen.polygon([tuple(p) for p in hole * size * supersample], fill=0)
    return np.asarray(canvas.reduce(supersample), np.float32) / 255


def ground(rng: np.random.Generator, size: int) -> np.ndarray:
    """A muted, textured background, (size, size, 3) float32 in [0, 255]."""
    tint = rng.uniform(0.38, 0.68) + rng.uniform(-0.08, 0.08, 3)
    y, x = np.mgrid[0:size, 0:size] / size
    angle, waves, phase = rng.uniform(0, pi), rng.uniform(3, 9), rng.uniform(0, 2 * pi)
    along = x * cos(angle) + y * sin(angle)
    across = y * cos(angle) - x * sin(angle)
    kind = rng.integers(4)
    if kind == 0:
        texture = np.sin(2 * pi * waves * along + phase)
    elif kind == 1:
        texture = np.sign(np.sin(2 * pi * waves * along) * np.sin(2 * pi * waves * across + phase))
    elif kind == 2:
        texture = 2 * along - 1
    else:
        coarse = Image.fromarray(rng.normal(size=(9, 9)).astype(np.float32))
        texture = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    value = tint + (rng.uniform(0.03, 0.09) * texture)[..., None] + rng.normal(0, 0.02, (size, size, 1))
    return (value * 255).astype(np.float32)


def draw(scene: Scene, size: int) -> np.ndarray:
    """The picture of a scene, (size, size, 3) uint8."""
    rng = np.random.default_rng(list(scene.paint_seed))
    picture = ground(rng, size)
    y, x = np.mgrid[0:size, 0:size] / size
    for obj in scene.objects:
        cover = object_mask(obj, size, supersample=2)[..., None]
        lean = rng.uniform(0, 2 * pi)
        shade = 1 + 0.35 * (cos(lean) * (x - obj.x) + sin(lean) * (y - obj.y))
        paint = (np.array(COLOURS[obj.colour]) + rng.normal(0, 8, 3)) * shade[..., None]
        picture = picture * (1 - cover) + paint * cover
    return np.clip(picture, 0, 255).astype(np.uint8)
