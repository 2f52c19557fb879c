"""Completion of maps by self-attention on a CPU, two ways: the fused kernel, and the softmax's sums that a pass keeps.

    python benchmarks/completion.py [--threads 2] [--rounds 7]

Layers as Stable Diffusion has them at full resolution, four columns as all four resolutions give them. The ways take
turns, and a ratio is taken within a round. The last line is one JSON object.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from attrbind_exp.backbones.backbone import Layer, SelfAttention
from attrbind_exp.heatmaps.score_map import attend
from benchmarks.core import spread

LAYERS = (  # heads, queries, width of a head, images
    ("SD 1.5, 512 px", 8, 4096, 40, 1),
    ("SD 1.5, 512 px, four images", 8, 4096, 40, 4),
    ("SD 1.5, 256 px", 8, 1024, 40, 4),
    ("SD 2.1, 512 px", 5, 4096, 64, 1),
    ("SD 2.1, 768 px", 5, 9216, 64, 1),
)
COLUMNS = 4


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    found = {}
    for name, heads, cells, width, images in LAYERS:
        query, key = (torch.randn(images, cells, heads * width).unflatten(-1, (heads, -1)) for _ in range(2))
        fused = SelfAttention(
            Layer(name, "down", 1, False), query.transpose(1, 2), key.transpose(1, 2), width**-0.5, range(images)
        )
        by_sums = replace(fused, log_sums=log_sums(fused))
        columns = torch.rand(images, COLUMNS, cells)
        gap = (attend(fused, columns) - attend(by_sums, columns)).abs().max().item()
        ratios, times = [], []
        for _ in range(args.rounds):
            one, other = (seconds(layer, columns) for layer in (fused, by_sums))
            times.append(one)
            ratios.append(other / one)
        found[name] = sorted(ratios)[len(ratios) // 2]
        print(f"{name}: fused {1000 * min(times):.0f} ms; by sums / fused {spread(ratios)}; difference {gap:.0e}")
    print(json.dumps({"threads": torch.get_num_threads(), "by_sums_over_fused": found}))


def log_sums(layer: SelfAttention) -> torch.Tensor:
    """(b, heads, N), head by head, as the matrix of all heads takes gigabytes."""
    pairs = zip(layer.query.flatten(0, 1), layer.key.flatten(0, 1), strict=True)
    sums = torch.stack([(query @ key.T * layer.scale).logsumexp(-1) for query, key in pairs])
    return sums.view(layer.query.shape[:3])


def seconds(layer: SelfAttention, columns: torch.Tensor) -> float:
    start = time.perf_counter()
    attend(layer, columns)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
