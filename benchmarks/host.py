"""What the host computes for a pass while a GPU would make it: processor time by part of the loop.

    OMP_NUM_THREADS=1 python benchmarks/host.py [--images 24] [--counting device|host] [--profile FILE]

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
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
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

from attrbind_exp.backbones.backbone import Observation, Pixels
from attrbind_exp.backbones.cached import CachedBackbone
from attrbind_exp.backbones.loading import load_pipeline
from attrbind_exp.backbones.stable_diffusion import StableDiffusion
from attrbind_exp.cache import Cache
from attrbind_exp.data.dataset import Dataset
from attrbind_exp.edits import Averaging, NounChunk, TextBlind, Variant
from attrbind_exp.evaluation import heat
from attrbind_exp.evaluation.loop import score
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.runs.store import RunStore
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.types import Other, Sample
from benchmarks.models import BUNDLED

P, R = ParamSpec("P"), TypeVar("R")
SIZE, LATENTS = (480, 640), (4, 64, 64)
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
passes = [0]


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
    """The bundled model's text window, and what its passes leave behind: made once, given back at once."""

    def ready(self) -> "Stub":
        """Itself, with all ready made."""
        self.latent_shape = LATENTS
        self.size = (512, 512)
        self._states = torch.randn(8, self.window.tokenizer.model_max_length, 8)
        self.text_encoder = lambda ids: type("Encoded", (), {"last_hidden_state": self._states})
        self._seen: Observation | None = None
        return self

    def encode_pixels(self, pixels: Pixels) -> Tensor:
        return torch.zeros(LATENTS)

    def image_encoder_digest(self) -> str:
        return "stub"

    def observe(self, noisy: Tensor, *rest: object) -> Observation:
        passes[0] += len(noisy)
        if self._seen is None:
            request = rest[2]
            self._seen = Observation({x: torch.rand(len(noisy), 1, 1, (8 // x.ratio) ** 2) for x in request.cross})
        return self._seen
