"""The whole loop on a GPU, from pictures to counts: rows a second by batch size, and where the host's time goes.

    python benchmarks/gpu_loop.py --config-dir DIR --out FOLDER [--images 40] [--parses FILE]
    python benchmarks/gpu_loop.py --config-dir DIR --out FOLDER --device cpu --images 2     # a dry run

Stable Diffusion 1.5's architecture (random weights, fp16) under three variants, seven expressions an image, no cache of
latents or texts. FOLDER/host_profile.txt has Python's profile of the host. The last line is one JSON object.
"""

import argparse
import cProfile
import io
import json
import os
import pstats
import sys
import time
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from benchmarks.parses import use_parses

PER_IMAGE = 7
SHOWN = 28  # functions of the profile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--config-dir", type=Path, required=True, help="a folder with SD 1.5's configs and tokenizer")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the profile")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 64, 128], help="rows of a pass")
    parser.add_argument("--parses", type=Path, metavar="FILE", help="parses in the place of spaCy (see gpu.py)")
    args = parser.parse_args()
    use_parses(args.parses)
    measure(args)


def measure(args: argparse.Namespace) -> None:
    """Run the loop once for every batch size, and once more under the profiler."""
    import torch

    from attrbind_exp.edits import Averaging, NounChunk, Variant
    from attrbind_exp.heatmaps.segmenter import Segmenter
    from attrbind_exp.tasks.settings import RunSettings
    from benchmarks.ablation import pick_samples, run_ours
    from benchmarks.models import build_sd15

    args.out.mkdir(parents=True, exist_ok=True)
    segmenter = Segmenter(build_sd15(args.config_dir, args.device))
    chunk = NounChunk()
    variants = [Variant("baseline"), Variant("ncr", (chunk,)), Variant("ours", (chunk, Averaging(0.9)), 0.9)]
    run_ours(pick_samples(min(4, args.images), PER_IMAGE), segmenter, RunSettings(variants, batch_size=args.batches[0]))
    dataset, speeds = pick_samples(args.images, PER_IMAGE), {}
    for size in args.batches:
        start = time.perf_counter()
        rows = run_ours(dataset, segmenter, RunSettings(variants, batch_size=size))
        took = time.perf_counter() - start
        speeds[size] = rows / took
        print(f"batch {size}: {rows} rows in {took:.1f} s = {speeds[size]:.0f} rows a second", flush=True)
    middle = RunSettings(variants, batch_size=args.batches[len(args.batches) // 2])
    latents = torch.zeros(segmenter.backbone.latent_shape, device=args.device, dtype=segmenter.backbone.dtype)
    with mock.patch.object(segmenter.backbone, "encode_pixels", lambda _: latents):
        start = time.perf_counter()
        cached = run_ours(dataset, segmenter, middle) / (time.perf_counter() - start)
    print(
        f"batch {middle.batch_size}, no autoencoder, as with latents from the cache: {cached:.0f} rows a second",
        flush=True,
    )
    profile = cProfile.Profile()
    profile.runcall(run_ours, dataset, segmenter, middle)
    text = "\n".join(describe(profile, key) for key in ("tottime", "cumtime"))
    (args.out / "host_profile.txt").write_text(text)
    print(text)
    found = {str(size): round(speed, 1) for size, speed in speeds.items()}
    print(json.dumps({"images": args.images, "rows_a_second": found, "without_autoencoder": round(cached, 1)}))


def describe(profile: cProfile.Profile, key: str) -> str:
    """The functions of a profile that take most, by a key of pstats."""
    stream = io.StringIO()
    pstats.Stats(profile, stream=stream).sort_stats(key).print_stats(SHOWN)
    return "\n".join(line[:150] for line in stream.getvalue().splitlines()[6:])


if __name__ == "__main__":
    main()
