"""What each way of reading attention costs beside the pass that all of them share.

    python benchmarks/readings.py --model bundled
    python benchmarks/readings.py --model sd15 --config-dir DIR    # SD 1.5's configs and tokenizer; weights are random

One run of all options of conf/heatmap: a pass of --batch rows leaves behind what any of them asks for, then each makes its
maps. The last line is one JSON object: for every method its time over the pass's, and the whole over the pass of
diffsegmenter alone.
"""

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from attrbind_exp.edits import Variant
from attrbind_exp.heatmaps.daam import Daam
from attrbind_exp.heatmaps.diffseg import DiffSeg
from attrbind_exp.heatmaps.diffsegmenter import DiffSegmenter
from attrbind_exp.heatmaps.iseg import ISeg
from attrbind_exp.heatmaps.method import HeatMapMethod
from attrbind_exp.heatmaps.ovam import Ovam
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.types import MapSettings
from benchmarks.measure import wait_for
from benchmarks.models import EXPRESSIONS, TIMESTEP, build_model

METHODS: dict[str, HeatMapMethod] = {
    "diffsegmenter": DiffSegmenter(),
    "cross_only": DiffSegmenter(power=0),
    "self_attention_power": DiffSegmenter(power=2),
    "daam": Daam(),
    "daam_normalized": Daam(normalize=True),
    "ovam": Ovam(),
    "iseg": ISeg(),
    "diffseg": DiffSeg(),
}


class Timed(Segmenter):
    """A segmenter that notes how long each method's maps took, and the whole."""

    clock = staticmethod(time.perf_counter)

    def _maps(self, name, texts, grid, count):
        start = self.clock()
        made = super()._maps(name, texts, grid, count)
        wait_for(self.backbone.device)
        self.spent[name] = self.clock() - start
        return made

    def measure(self, batch: int) -> dict[str, float]:
        """Seconds of each method, and of the pass."""
        self.spent: dict[str, float] = {}
        prompts = self.prepare([EXPRESSIONS[i % len(EXPRESSIONS)] for i in range(batch)])
        embeddings = [item.embedding(0) for item in self.edit(prompts, [Variant("baseline")])]
        model = self.backbone
        latents = torch.randn(batch, *model.latent_shape, device=model.device, dtype=model.dtype)
        start = self.clock()
        self.complete(latents, [str(i) for i in range(batch)], prompts, embeddings, 0, batch)
        wait_for(model.device)
        return self.spent | {"pass": self.clock() - start - sum(self.spent.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["bundled", "sd15"], default="bundled")
    parser.add_argument("--config-dir", help="SD 1.5's configs and tokenizer, for --model sd15")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], default="fp32")
    parser.add_argument("--cpu-time", action="store_true", help="as in core.py: for a machine that others use")
    args = parser.parse_args()
    model = build_model(args.model, args.config_dir, args.device, args.dtype)
    if args.cpu_time:
        Timed.clock = staticmethod(time.process_time)
    maps = MapSettings((TIMESTEP,))
    alone, every = Timed(model, maps=maps), Timed(model, maps=maps, methods=METHODS)
    alone.measure(args.batch)  # warms up
    ratios = defaultdict(list)
    for _ in range(args.rounds):
        plain, found = sum(alone.measure(args.batch).values()), every.measure(args.batch)
        for name in METHODS:
            ratios[name].append(found[name] / found["pass"])
        ratios["whole over diffsegmenter alone"].append(sum(found.values()) / plain)
    medians = {name: round(statistics.median(values), 3) for name, values in ratios.items()}
    for name, ratio in medians.items():
        print(f"{name}: {ratio}")
    about = {"benchmark": "readings", "model": args.model, "batch": args.batch, "rounds": args.rounds}
    print(json.dumps(about | medians))


if __name__ == "__main__":
    main()
