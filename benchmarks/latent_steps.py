"""What a gradient step on the noisy latents costs beside a pass: time and memory.

    python benchmarks/latent_steps.py --model bundled
    python benchmarks/latent_steps.py --model sd15 --config-dir DIR    # SD 1.5's configs and tokenizer; weights are random

Memory is what the process, or the CUDA device, holds at its peak beyond the loaded model. The last line is one JSON object.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from attrbind_exp.backbones.backbone import Embedding
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.latent_steps.syngen import Syngen
from attrbind_exp.latent_steps.take import EXAMPLE, make_steps
from attrbind_exp.latent_steps.words import find_words
from attrbind_exp.types import MapSettings
from benchmarks.measure import forget_peak, resident_peak, seconds, wait_for
from benchmarks.models import TIMESTEP, build_model


def held(device: torch.device) -> float:
    """MB at the peak since the last call, which the next one forgets."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 2**20
        torch.cuda.reset_peak_memory_stats(device)
        return peak
    peak = resident_peak()
    forget_peak()
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["bundled", "sd15"], default="bundled")
    parser.add_argument("--config-dir", help="SD 1.5's configs and tokenizer, for --model sd15")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], default="fp32")
    args = parser.parse_args()
    model = build_model(args.model, args.config_dir, args.device, args.dtype)
    segmenter = Segmenter(model, maps=MapSettings((TIMESTEP,)))
    prompt = segmenter.prepare([EXAMPLE])[0]
    encoded = model.encode_text([prompt.text])[0]
    embeddings = [Embedding(encoded.states, None, encoded.pooled)] * args.batch
    latents = torch.randn(args.batch, *model.latent_shape, device=model.device, dtype=model.dtype)
    ids = [str(i) for i in range(args.batch)]
    words, step = [find_words(prompt, model.window)] * args.batch, make_steps(Syngen(), model)

    def read() -> None:
        segmenter.complete(latents, ids, [prompt] * args.batch, embeddings)
        wait_for(model.device)

    def take() -> None:
        step(latents, TIMESTEP, Embedding.stack(embeddings), words)
        wait_for(model.device)

    held(model.device)  # forgets the peak of loading
    before, peaks = held(model.device), {}
    for name, action in (("pass", read), ("step", take)):  # the smaller first: what it frees serves again
        action()
        peaks[name] = held(model.device) - before
    times = {name: statistics.median(seconds(action) for _ in range(args.rounds)) for name, action in
             (("pass", read), ("step", take))}  # fmt: skip
    for name in ("pass", "step"):
        print(f"{name}: {times[name]:.2f} s, {peaks[name]:.0f} MB beyond the model")
    about = {"benchmark": "latent_steps", "model": args.model, "batch": args.batch, "dtype": args.dtype}
    ratios = {f"step over pass, {what}": round(of["step"] / of["pass"], 2) for what, of in
              (("time", times), ("memory", peaks))}  # fmt: skip
    print(json.dumps(about | ratios))


if __name__ == "__main__":
    main()
