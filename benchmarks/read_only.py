"""What nine alphas cost that are only read (where=read), beside one plain pass and beside nine edited ones.

    python benchmarks/read_only.py --model bundled
    python benchmarks/read_only.py --model sd15 --config-dir DIR    # SD 1.5's configs and tokenizer; weights are random

Each goes from latents and text embeddings to completed maps, in turn within each round, and a ratio is taken within a
round: the plain prompts' maps; those with nine alphas of noun chunk replacement and averaging read beside, ten texts a
row; and, with --edited, the nine as edits of what the pass is conditioned on. The last line is one JSON object.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from attrbind_exp.backbones.stable_diffusion import StableDiffusion
from attrbind_exp.edits import Averaging, NounChunk, Variant
from attrbind_exp.edits.edit import Where
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.types import LayerChoice, MapSettings
from benchmarks.core import spread
from benchmarks.measure import seconds, wait_for
from benchmarks.models import EXPRESSIONS, TIMESTEP, WEIGHTS, build_model

ALPHAS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)


def nine_alphas(where: Where) -> list[Variant]:
    """The paper's alphas."""
    return [Variant("ours", (NounChunk(where=where), Averaging(alpha, where=where)), alpha) for alpha in ALPHAS]


def build_work(model: StableDiffusion, batch: int) -> dict[str, Callable[[], None]]:
    """What is compared: "plain", "read" and "edited", each for so many expressions, two of them on one picture."""
    segmenter = Segmenter(model, maps=MapSettings((TIMESTEP,), layers=LayerChoice(weights=WEIGHTS)))
    prompts = segmenter.prepare([EXPRESSIONS[i % len(EXPRESSIONS)] for i in range(batch)])
    latents = torch.randn(-(-batch // 2), *model.latent_shape, device=model.device, dtype=model.dtype)
    ids = [str(i) for i in range(len(latents))]

    def work(variants: list[Variant], rows_each: int) -> Callable[[], None]:
        edited = segmenter.edit(prompts, variants)
        rows = [(i // 2, item.prompt, e) for i, item in enumerate(edited) for e in item.embeddings]
        together = batch * rows_each  # embeddings of a pass of `batch` rows

        def run() -> None:
            for start in range(0, len(rows), together):
                images, mine, embeddings = zip(*rows[start : start + together], strict=True)
                segmenter.complete(latents, ids, mine, embeddings, 0, batch, images)
            wait_for(model.device)

        return run

    plain, read, edited = [Variant("baseline")], nine_alphas("read"), nine_alphas("both")
    return {"plain": work(plain, 1), "read": work(plain + read, 1 + len(read)), "edited": work(edited, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["bundled", "sd15"], default="bundled")
    parser.add_argument("--config-dir", help="SD 1.5's configs and tokenizer, for --model sd15")
    parser.add_argument("--batch", type=int, help="expressions at once (bundled 32, sd15 2)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--cpu-time", action="store_true", help="as in core.py: for a machine that others use")
    parser.add_argument("--edited", action="store_true", help="time the nine edited passes, too")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    batch = args.batch or (32 if args.model == "bundled" else 2)
    works = build_work(build_model(args.model, args.config_dir, args.device, args.dtype), batch)
    if not args.edited:
        del works["edited"]
    clock = time.process_time if args.cpu_time else time.perf_counter
    works["plain"]()  # warms up
    works["read"]()
    times = [{name: seconds(work, clock) for name, work in works.items()} for _ in range(args.rounds)]
    found = {f"{name}_over_plain": [t[name] / t["plain"] for t in times] for name in works if name != "plain"}
    for name, ratios in found.items():
        print(f"{name}: {spread(ratios)}")
    print(f"plain: {statistics.median(t['plain'] for t in times) / batch:.4f} s an expression")
    medians = {name: round(statistics.median(ratios), 3) for name, ratios in found.items()}
    print(json.dumps({"benchmark": "read_only", "model": args.model, "batch": batch, "rounds": args.rounds, **medians}))


if __name__ == "__main__":
    main()
