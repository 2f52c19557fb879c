"""The memory that pictures with many expressions, or many variants, take: the evaluation loop with a model that is faked.

    python benchmarks/scale.py                                   # 40 pictures of 150 expressions; 3 of 12 under 90 variants
    python benchmarks/scale.py --pictures 4 --expressions 150 --variants 11

Texts, latents and maps have the sizes of SD 1.5's (77 x 768, 64 x 64, four maps a pass), pictures 640 x 480 pixels and
eight objects each; all is random, so that only the loop, the heat maps and the counting cost. Each case is a fresh
process. "peak_MB": of the process; "idle_MB": before the loop begins, most of it torch. The last line is one JSON object.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attrbind_exp.backbones.backbone import Embedding
from attrbind_exp.data.dataset import Dataset
from attrbind_exp.edits import Variant
from attrbind_exp.edits.chain import EditedPrompt
from attrbind_exp.evaluation.loop import score
from attrbind_exp.heatmaps import score_map
from attrbind_exp.runs.store import RunStore
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.types import HeatMap, Other, Parse, Prompt, Sample
from benchmarks.measure import resident_peak

SIZE = (480, 640)
OBJECTS, CORNERS = 8, 30
CASES = ((40, 150, 11), (3, 12, 90))  # pictures, expressions of each, variants


class FakedBackbone:
    """Pictures become nothing, latents are empty."""

    device = torch.device("cpu")

    def pixels(self, image: Image.Image) -> Tensor:
        return torch.zeros(3, 512, 512)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        return torch.zeros(4, 64, 64)


class FakedSegmenter:
    """What the loop asks of a Segmenter, with random maps."""

    backbone = FakedBackbone()
    compare_texts = SimpleNamespace(timesteps={})

    def prepare(self, texts: Sequence[str], categories: object = None, captions: object = None) -> list[Prompt]:
        parses = [Parse(text, (0, len(text)), (0, len(text)), modified=True) for text in texts]
        return [Prompt(p.text, p, (4,), (4,), (4,), bind=True) for p in parses]

    def edit(self, prompts: Sequence[Prompt], variants: Sequence[Variant]) -> list[EditedPrompt]:
        numbers = range(len(variants))
        return [
            EditedPrompt(
                p,
                [Embedding(torch.rand(77, 768)) for _ in numbers],
                numbers,
                [(p, n) for n in numbers],
                [False] * len(numbers),
            )
            for p in prompts
        ]

    def complete(self, latents: Tensor, ids: object, prompts: Sequence[Prompt], *_: object) -> Tensor:
        return torch.rand(len(prompts), 4, 64, 64)

    def start_heat_maps(
        self, completed: Tensor, size: tuple[int, int], readings: Sequence[object]
    ) -> Callable[[], list[HeatMap]]:
        score = score_map.combine(completed, torch.ones(len(readings), 4))
        heats = score_map.heat_map(score, size)
        return lambda: [HeatMap(values) for values in heats.numpy()]


def make_dataset(folder: Path, pictures: int, expressions: int) -> Dataset:
    """Expressions on made pictures, each about one of a picture's objects."""
    draw = random.Random(0)
    file = folder / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)).save(file)
    samples = []
    for image in range(pictures):
        outlines = [[[round(480 * draw.random(), 2) for _ in range(2 * CORNERS)]] for _ in range(OBJECTS)]
        objects = [Other(str(n), "dog", outline) for n, outline in enumerate(outlines)]
        for number in range(expressions):
            own = objects[number % OBJECTS]
            samples.append(
                Sample(
                    f"{image}:{number}", str(image), file, f"the dog number {number}", "dog", own.segmentation, SIZE,
                    object_id=own.object_id, others=[o for o in objects if o is not own],
                )
            )  # fmt: skip
    return Dataset("made", samples, [])


def run_case(pictures: int, expressions: int, variants: int) -> None:
    """One case, here; prints its seconds and memory."""
    torch.set_num_threads(1)
    settings = RunSettings([Variant(f"v{n}") for n in range(variants)], batch_size=32)
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder), pictures, expressions)
        idle, started = resident_peak(), time.perf_counter()
        with RunStore(Path(folder) / "run", "made") as store:
            scored = score(dataset, FakedSegmenter(), settings, store)  # type: ignore[arg-type]
        took = time.perf_counter() - started
    rows = scored.task.tally().n_scored * variants
    found = {"pictures": pictures, "expressions": expressions, "variants": variants, "rows": rows}
    print(json.dumps(found | {"s": round(took, 1), "idle_MB": round(idle), "peak_MB": round(resident_peak())}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int)
    parser.add_argument("--expressions", type=int, default=150)
    parser.add_argument("--variants", type=int, default=11)
    args = parser.parse_args()
    if args.pictures:
        return run_case(args.pictures, args.expressions, args.variants)
    found = []
    for case in CASES:
        given = [f"--{name}={value}" for name, value in zip(("pictures", "expressions", "variants"), case, strict=True)]
        done = subprocess.run([sys.executable, __file__, *given], check=True, stdout=subprocess.PIPE, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(found[-1], flush=True)
    print(json.dumps({"benchmark": "scale", "cases": found}))


if __name__ == "__main__":
    main()
