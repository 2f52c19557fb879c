"""How many rows of a pass fit into a GPU's memory."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch

from attrbind_exp.backbones.backbone import Embedding
from attrbind_exp.edits import Variant
from attrbind_exp.edits.chain import acting_on_pass
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.latent_steps.take import EXAMPLE
from attrbind_exp.memory import in_parts

SHARE = 0.8  # of the free memory: kernels of larger batches may want more workspace than the measured ones
MOST = 128


def fit_batch_size(segmenter: Segmenter, default: int, variants: Sequence[Variant] = ()) -> int:
    """The largest power of two of rows that fits into free GPU memory, measured on passes of one and two rows as the
    `variants` need them; `default` elsewhere: on a CPU a larger batch gains nothing. Powers of two, so that a little
    more or less free memory does not change the batch, and with it a figure's last digits."""
    device = segmenter.backbone.device
    if device.type != "cuda":
        return default
    reads = count_reads(variants)
    (one,), _ = in_parts(lambda rows, _: [measure_peak(segmenter, len(rows), reads)], [0], 1, "batch_size")
    try:
        two = measure_peak(segmenter, 2, reads)
    except torch.OutOfMemoryError:
        return 1
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    rows = SHARE * (torch.cuda.mem_get_info(device)[0] + cached) / max(1, two - one)
    return next((n for n in (MOST, 64, 32, 16, 8, 4, 2) if n <= rows), 1)


def count_reads(variants: Sequence[Variant]) -> int:
    """How many texts are read on a row besides its keys, at most: variants whose edits differ in what is read alone
    share a row."""
    reading = {v.edits for v in variants if any(edit.where == "read" for edit in v.edits)}
    return max(Counter(acting_on_pass(edits) for edits in reading).values(), default=0)


def measure_peak(segmenter: Segmenter, rows: int, reads: int = 0) -> int:
    """Peak of allocated GPU memory in bytes while `rows` empty pictures are segmented, with so many `reads` a row
    besides its keys. Flat maps are not counted."""
    backbone = segmenter.backbone
    latents = torch.zeros(rows, *backbone.latent_shape, device=backbone.device, dtype=backbone.dtype)
    prompts = segmenter.prepare([EXAMPLE if segmenter.latent_steps else "dog"] * rows)
    encoded = backbone.encode_text([prompts[0].text])[0]
    plain = Embedding(encoded.states, None, encoded.pooled)
    embeddings = [plain, *[replace(plain, read=encoded.states)] * reads]
    images = [i for i in range(rows) for _ in embeddings]
    counted = segmenter.flat
    torch.cuda.reset_peak_memory_stats(backbone.device)
    ids, mine = [str(i) for i in range(rows)], [prompts[i] for i in images]
    segmenter.complete(latents, ids, mine, embeddings * rows, images=images)
    segmenter.flat = counted
    return torch.cuda.max_memory_allocated(backbone.device)
