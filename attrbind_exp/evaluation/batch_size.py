"""How many passes fit into a GPU's memory."""

import torch

from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.types import BoundPrompt

SHARE = 0.8  # of the free memory: kernels of larger batches may want more workspace than the measured ones
MOST = 128


def fit_batch_size(segmenter: Segmenter, default: int) -> int:
    """The largest power of two of passes that fits into free GPU memory, measured on passes of one and two rows;
    `default` on a CPU, where a larger batch gains nothing. Powers of two, so that a little more or less free memory
    does not change the batch, and with it a figure's last digits."""
    device = segmenter.model.device
    if device.type != "cuda":
        return default
    one, two = (measure_peak(segmenter, rows) for rows in (1, 2))
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    rows = SHARE * (torch.cuda.mem_get_info(device)[0] + cached) / max(1, two - one)
    return next((n for n in (MOST, 64, 32, 16, 8, 4, 2) if n <= rows), 1)


def measure_peak(segmenter: Segmenter, rows: int) -> int:
    """Peak of allocated GPU memory in bytes while `rows` images are segmented."""
    model = segmenter.model
    config, (height, width) = model.unet.config, model.size
    latents = torch.zeros(
        rows,
        config.in_channels,
        height // model.vae_scale,
        width // model.vae_scale,
        device=model.device,
        dtype=model.dtype,
    )
    length = model.tokenizer.model_max_length
    weights = torch.zeros(length)
    weights[0] = 1
    prompt = BoundPrompt(torch.zeros(length, config.cross_attention_dim), weights)
    torch.cuda.reset_peak_memory_stats(model.device)
    segmenter.complete(latents, [str(i) for i in range(rows)], [prompt] * rows)
    return torch.cuda.max_memory_allocated(model.device)
