"""What the host computes for a pass while a GPU would make it: processor time by part of the loop.

    OMP_NUM_THREADS=1 python benchmarks/host.py [--images 24] [--counting device|host] [--profile]

The whole loop runs on the CPU, from JPEGs of 640 x 480 pixels to rows on the disk: seven expressions an image about
three of its eight objects, under the variants of text_processor=ablation and the text-blind floor. A pass is one row of
a batch: one picture under one embedding.

What is counted: all that the process computes, in every thread. Reading and resizing pictures, masks, digests, prompts,
edits, the making of batches, waiting for and unpacking what the device has counted, rows, progress; and of what a GPU
would do the launches: each operation runs, on tensors so small that its arithmetic is nothing.

What is not: the UNet, the VAE and the text encoder, whose results are ready made, so that launching their kernels is
not counted either; parses and latents, which a first run has put into the cache; copies over PCIe, and the wait for
them. `--counting host` is how counting goes where maps are counted on the host: heat maps of the picture's own size lie
there ready made, and what counts them is all in numpy.

Parts overlap in time, not in what is counted: each is the time of its thread, less that of the parts inside it. The last
line is one JSON object.
"""

import argparse
import cProfile
import json
import platform
import pstats
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from pkgutil import resolve_name
from random import Random
from typing import ParamSpec, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attrbind_exp.backbones.backbone import Embedding, Observation, Pixels, Request, SelfAttention
from attrbind_exp.backbones.cached import CachedBackbone
from attrbind_exp.backbones.loading import load_pipeline
from attrbind_exp.backbones.stable_diffusion import StableDiffusion, draw_noise
from attrbind_exp.cache import Cache
from attrbind_exp.data.dataset import Dataset
from attrbind_exp.edits import Averaging, NounChunk, TextBlind, Variant
from attrbind_exp.evaluation import batching, heat, loading, loop
from attrbind_exp.evaluation.loop import score
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.runs.store import RunStore
from attrbind_exp.scoring import counting
from attrbind_exp.scoring.counting import Prepared
from attrbind_exp.tasks import expressions, references
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.types import HeatMap, Other, Sample
from benchmarks.models import BUNDLED

P, R = ParamSpec("P"), TypeVar("R")
SIZE, LATENTS, CORNER = (480, 640), (4, 8, 8), (8, 8)
EXPRESSIONS, NAMED, OBJECTS, CORNERS = 7, 3, 8, 24  # of an image; corners of an object's outline
BATCH = 64
CHUNK, PREFIXED = NounChunk(), NounChunk("template")
VARIANTS = [
    Variant("baseline"),
    Variant("noun_chunk", (CHUNK,)),
    Variant("attribute_binding", (CHUNK, Averaging(0.9)), 0.9),
    Variant("noun_chunk_prefixed", (PREFIXED,)),
    Variant("attribute_binding_prefixed", (PREFIXED, Averaging(0.9)), 0.9),
    Variant("text_blind", (TextBlind(),)),
]
COLOURS, NOUNS = ("red", "white", "black", "striped", "small"), ("dog", "person", "bicycle", "zebra", "teddy bear")
PLACES = ("on the left", "next to the table", "behind the fence", "in front", "with a hat")
PARTS = (
    ("pictures: read, resize", "attrbind_exp.evaluation.loading", "read_picture"),
    ("pictures: read, resize", "attrbind_exp.backbones.cached:CachedBackbone", "pixels"),
    ("masks", "attrbind_exp.evaluation.loading", "decode_mask"),
    ("masks", "attrbind_exp.tasks.expressions", "object_masks"),
    ("prompts (parses cached)", "attrbind_exp.heatmaps.segmenter:Segmenter", "prepare"),
    ("texts and edits", "attrbind_exp.heatmaps.segmenter:Segmenter", "edit"),
    ("batches: complete", "attrbind_exp.evaluation.passes:Batcher", "run"),
    ("references", "attrbind_exp.tasks.expressions", "measure_references"),
    ("counting", "attrbind_exp.tasks.expressions:ExpressionTask", "count"),
    ("rows: write", "attrbind_exp.runs.store:RunStore", "add_rows"),
    ("figures so far", "attrbind_exp.tasks.expressions:ExpressionTask", "add_rows"),
    ("progress", "attrbind_exp.runs.progress:Progress", "update"),
    ("digests", "attrbind_exp.evaluation.loop", "digest_annotations"),
    ("digests", "attrbind_exp.evaluation.loop", "with_digests"),
)
seconds: dict[str, float] = defaultdict(float)
inside = threading.local()


def timed(name: str, function: Callable[P, R]) -> Callable[P, R]:
    """The function, which now adds what its thread computes to `seconds`, less that of the parts inside it."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        outer, inside.parts = getattr(inside, "parts", 0.0), 0.0
        begin = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            took = time.thread_time() - begin
            seconds[name] += took - inside.parts
            inside.parts = outer + took

    return wrapper


class Stub(StableDiffusion):
    """The bundled model's text window, and what its text encoder and its passes give: made once, given back at once."""

    def __init__(self) -> None:
        folder = Path(BUNDLED)
        super().__init__(load_pipeline(folder, BUNDLED, torch.device("cpu"), torch.float32), (512, 512))
        self.latent_shape = LATENTS
        states = torch.randn(8, self.window.tokenizer.model_max_length, 8)
        encoded = type("Encoded", (), {"last_hidden_state": states})
        self.text_encoder = lambda ids: encoded
        self.text_encoder.device = self.device
        self._seen: dict[int, Observation] = {}
        self.rows = 0

    def image_encoder_digest(self) -> str:
        return "stub"

    def encode_pixels(self, pixels: Pixels) -> Tensor:
        return torch.zeros(LATENTS)

    def add_noise(self, latents: Tensor, image_ids: Sequence[str], timestep: int, draw: int, seed: int) -> Tensor:
        for image_id in image_ids:  # drawn on the host, as large as Stable Diffusion's
            draw_noise((4, 64, 64), seed, image_id, timestep, draw)
        return super().add_noise(latents, image_ids, timestep, draw, seed)

    def observe(
        self,
        noisy: Tensor,
        timestep: int,
        embedding: Embedding,
        request: Request,
        pools: Tensor | None = None,
        same_image: Sequence[int] | None = None,
    ) -> Observation:
        count = len(noisy)
        self.rows += count
        if count not in self._seen:
            sides = {layer: LATENTS[1] // layer.ratio for layer in request.layers}
            cross = {layer: torch.rand(count, 1, 1, sides[layer] ** 2) for layer in request.cross}
            # As many as Stable Diffusion 1.5 has at full resolution.
            own = [torch.rand(count, 2, LATENTS[1] * LATENTS[2], 4) for _ in range(2)]
            layers = [
                SelfAttention(replace(request.queries_keys[0], name=f"{n}"), *own, 0.5, range(count)) for n in range(5)
            ]
            self._seen[count] = Observation(cross, layers)
        return self._seen[count]


def make_dataset(folder: Path, images: int) -> Dataset:
    """Expressions about some of the objects of made pictures."""
    random = Random(0)
    samples = []
    for image in range(images):
        file = folder / f"{image}.jpg"
        draw_picture(image).save(file, quality=90)
        objects = [Other(f"{image}:{n}", random.choice(NOUNS), [draw_outline(random)]) for n in range(OBJECTS)]
        words = random.sample([(colour, place) for colour in COLOURS for place in PLACES], EXPRESSIONS)
        for number, (colour, place) in enumerate(words):
            own = objects[number % NAMED]
            others = [other for other in objects if other is not own]
            text = f"{colour} {own.category} {place}"
            sample = Sample(f"{image}/{number}", str(image), file, text, own.category, own.segmentation, SIZE)
            samples.append(replace(sample, object_id=own.object_id, others=others))
    return Dataset("made", samples, [])


def draw_picture(seed: int) -> Image.Image:
    """Coarse colours under finer ones: about as many bytes as a photograph."""
    random = np.random.default_rng(seed)
    total = np.zeros((*SIZE, 3))
    for cells in (6, 24, 96, 384):
        coarse = Image.fromarray(random.integers(0, 255, (cells, cells, 3), np.uint8))
        total += np.asarray(coarse.resize(SIZE[::-1], Image.Resampling.BICUBIC), float) * 4 / cells**0.5
    return Image.fromarray((255 * total / total.max()).astype(np.uint8))


def draw_outline(random: Random) -> list[float]:
    """A polygon of about the area of COCO's median object among those that people speak of: a tenth of the picture."""
    x, y, radius = random.uniform(100, 540), random.uniform(100, 380), random.uniform(60, 140)
    turns = [2 * np.pi * n / CORNERS for n in range(CORNERS)]
    lengths = [radius * random.uniform(0.7, 1.3) for _ in turns]
    points = [(x + r * np.cos(t), y + r * np.sin(t)) for r, t in zip(lengths, turns, strict=True)]
    return [round(min(max(float(v), 0), limit), 2) for p in points for v, limit in zip(p, (640, 480), strict=True)]


def count_on_device() -> None:
    """From here on maps are counted as on a device, on a corner of every picture alone."""
    small: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    count_maps, heat_maps, as_heat_map = counting.count_maps, Segmenter.heat_maps, references.as_heat_map

    def corner(mask: np.ndarray) -> np.ndarray:
        if id(mask) not in small:
            torch.from_numpy(mask).clone()  # what is sent
            small[id(mask)] = mask, mask[: CORNER[0], : CORNER[1]]
        return small[id(mask)][1]

    def count_corners(heats: Tensor, masks: Sequence[np.ndarray], prepared: Prepared | None = None) -> object:
        if prepared == {}:  # another image
            small.clear()
        return count_maps(heats, [corner(mask) for mask in masks], prepared)

    heat.counts_there = lambda _: True
    Segmenter.heat_maps = lambda self, maps, size, readings: heat_maps(self, maps, CORNER, readings)
    references.as_heat_map = lambda cells, size, like: as_heat_map(cells, CORNER, like)
    counting.count_maps = count_corners


def count_on_host() -> None:
    """From here on heat maps lie on the host, ready made."""
    ready = [HeatMap(np.random.default_rng(n).random(SIZE, np.float32)) for n in range(32)]
    Segmenter.start_heat_maps = lambda self, maps, size, readings: lambda: ready[: len(readings)]


def measure_on_full_grid() -> None:
    """From here on references are those of maps of 64 x 64 cells."""
    measure = references.measure_references
    expressions.measure_references = lambda sample, masks, grid, *rest: measure(sample, masks, (64, 64), *rest)


def run_once(segmenter: Segmenter, dataset: Dataset, folder: Path) -> float:
    """Processor time of the whole process in the loop."""
    settings = RunSettings(VARIANTS, batch_size=BATCH)
    with RunStore(folder, "host") as store:
        begin = time.process_time()
        score(dataset, segmenter, settings, store)
        return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--counting", choices=["device", "host"], default="device")
    parser.add_argument("--profile", action="store_true", help="print Python's profile of one more round in one thread")
    args = parser.parse_args()
    torch.set_num_threads(1)
    measure_on_full_grid()
    count_on_device() if args.counting == "device" else count_on_host()
    for name, place, attribute in PARTS:
        owner = resolve_name(place)
        setattr(owner, attribute, timed(name, getattr(owner, attribute)))
    found: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        backbone = Stub()
        cache = Cache(Path(folder) / "cache")
        segmenter = Segmenter(CachedBackbone(backbone, cache), cache=cache)
        dataset = make_dataset(Path(folder), args.images)
        for number in range(args.rounds + 1):  # the first one fills the cache
            seconds.clear()
            backbone.rows = 0
            took = run_once(segmenter, dataset, Path(folder) / f"run{number}")
            cache.flush()
            each = {name: 1000 * value / backbone.rows for name, value in seconds.items()}
            found.append({"total": 1000 * took / backbone.rows, **each})
        if args.profile:
            profile(segmenter, dataset, Path(folder) / "profiled")
    report(args, found[1:], backbone.rows)


def profile(segmenter: Segmenter, dataset: Dataset, folder: Path) -> None:
    """Print Python's profile of one round in which nothing goes on in threads: the functions that take most."""
    loading.map_ahead = loop.map_ahead = batching.map_ahead = lambda function, items, depth: map(function, items)
    profiler = cProfile.Profile()
    profiler.runcall(run_once, segmenter, dataset, folder)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(45)


def report(args: argparse.Namespace, found: Sequence[dict[str, float]], rows: int) -> None:
    """Print milliseconds a pass by part, the median of rounds and their least and most; then one JSON object."""
    for each in found:
        each["everything else"] = 2 * each["total"] - sum(each.values())
    result = {}
    for name in sorted(found[0], key=lambda name: -found[0][name]):
        values = [each.get(name, 0.0) for each in found]
        result[name] = round(statistics.median(values), 3)
        print(f"{name:26} {result[name]:7.3f} ms a pass [{min(values):.3f}, {max(values):.3f}]")
    about = {"benchmark": "host", "counting": args.counting, "images": args.images, "passes": rows}
    print(json.dumps(about | {"ms": result, "machine": platform.processor() or platform.machine()}))


if __name__ == "__main__":
    main()
