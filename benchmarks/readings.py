"""What each way of reading attention costs beside the pass that all of them share.

    python benchmarks/readings.py --model bundled
    python benchmarks/readings.py --model sd15 --config-dir DIR    # SD 1.5's configs and tokenizer; weights are random

One run of all options of conf/heatmap: a pass of --batch rows leaves behind what any of them asks for, then each makes its
maps. The last line is one JSON object: for every method its time over the pass's, and the whole over the pass of
diffsegmenter alone.

With --alone each reading is a run of its own, pass and maps, over one bare conditional pass of the same batch; what was counted
from its products stands beside it. --out FILE keeps that as JSON: docs/readings-cost.json is made so.
"""

import argparse
import json
import platform
import shlex
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from attrbind_exp.backbones.backbone import Embedding
from attrbind_exp.backbones.stable_diffusion import StableDiffusion
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
    "diffsegmenter_notebook": DiffSegmenter(sigmoid=True),
    "cross_only": DiffSegmenter(power=0),
    "self_attention_power": DiffSegmenter(power=2),
    "daam": Daam(),
    "daam_normalized": Daam(normalize=True),
    "ovam": Ovam(),
    "iseg": ISeg(),
    "diffseg": DiffSeg(),
}

# Multiply-adds of a reading on SD 1.5 at 512 pixels, over those of P, a bare conditional pass of one text. S c, the product of all
# five finest layers with four maps, is 0.08 P; their S entry by entry is 0.07 P, and of all layers, with distances between its
# rows, 0.11 P. elbo makes 20 passes of each text before its own, and is not measured here. tests/test_costs.py counts all that.
PRODUCT = 0.08
COUNTED = {
    "diffsegmenter": 1 + PRODUCT,
    "diffsegmenter_notebook": 1 + PRODUCT,
    "cross_only": 1.0,
    "self_attention_power": 1 + 2 * PRODUCT,
    "daam": 1.0,
    "daam_normalized": 1.0,
    "ovam": 1.0,
    "iseg": 1.07,
    "diffseg": 1.11,
    "elbo": 20 + 1 + PRODUCT,
}


class Timed(Segmenter):
    """A segmenter that notes how long each method's maps took, and the whole."""

    clock = staticmethod(time.perf_counter)

    def _maps(self, name, *given):
        start = self.clock()
        made = super()._maps(name, *given)
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


@torch.no_grad()
def bare_pass(model: StableDiffusion, batch: int) -> float:
    """Seconds of one conditional pass that leaves nothing behind."""
    embeddings = model.encode_text([EXPRESSIONS[i % len(EXPRESSIONS)] for i in range(batch)])
    states = torch.stack([encoded.states for encoded in embeddings])
    latents = torch.randn(batch, *model.latent_shape, device=model.device, dtype=model.dtype)
    start = Timed.clock()
    model.denoise(latents, TIMESTEP, Embedding(states))
    wait_for(model.device)
    return Timed.clock() - start


def measure_alone(model: StableDiffusion, batch: int, rounds: int) -> dict[str, dict[str, float | None]]:
    """For each reading its own pass and maps over a bare pass of the same round: median, least and most, None for what is
    only counted; and counted."""
    maps = MapSettings((TIMESTEP,))
    readers = {name: Timed(model, maps=maps, methods={name: method}) for name, method in METHODS.items()}
    bare_pass(model, batch)  # warms up, as the next
    readers["diffsegmenter"].measure(batch)
    ratios = defaultdict(list)
    for _ in range(rounds):
        bare = bare_pass(model, batch)
        for name, reader in readers.items():
            ratios[name].append(sum(reader.measure(batch).values()) / bare)
    kinds = {"measured": statistics.median, "low": min, "high": max}
    found = {
        name: {kind: round(of(ratios[name]), 3) if name in ratios else None for kind, of in kinds.items()}
        for name in COUNTED
    }
    return {name: figures | {"counted": round(COUNTED[name], 3)} for name, figures in found.items()}


def report_alone(found: dict[str, dict[str, float | None]], machine: str, out: Path | None) -> None:
    """Print what each reading alone costs, and keep it in a file where one is named."""
    for name, cost in found.items():
        print("{}: {measured} [{low}, {high}], counted {counted}".format(name, **cost))
    command = "python " + shlex.join(["benchmarks/readings.py", *sys.argv[1:]])
    about = {"machine": machine, "command": command, "readings": found}
    if out:
        out.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(about))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["bundled", "sd15"], default="bundled")
    parser.add_argument("--config-dir", help="SD 1.5's configs and tokenizer, for --model sd15")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], default="fp32")
    parser.add_argument("--cpu-time", action="store_true", help="as in core.py: for a machine that others use")
    parser.add_argument("--alone", action="store_true", help="each reading by itself, over a bare pass")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where --alone keeps what it found, as JSON")
    args = parser.parse_args()
    if args.out and not args.alone:
        parser.error("--out keeps what --alone finds; add --alone")
    model = build_model(args.model, args.config_dir, args.device, args.dtype)
    if args.cpu_time:
        Timed.clock = staticmethod(time.process_time)
    if args.alone:
        clock = "CPU time" if args.cpu_time else "wall clock"
        cuda = model.device.type == "cuda"
        device = torch.cuda.get_device_name() if cuda else f"CPU ({platform.processor() or platform.machine()})"
        machine = f"{device}, {torch.get_num_threads()} threads, {args.dtype}, {clock}"
        report_alone(measure_alone(model, args.batch, args.rounds), machine, args.out)
        return
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
