"""The checks of gpu.py. The docstring of each says what is expected. Each returns whether that holds (None: not
measured) and what was seen.

Their order: what would make all else wrong comes first.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend

from attrbind_exp.backbones.backbone import Embedding
from attrbind_exp.backbones.stable_diffusion import draw_noise, load_stable_diffusion
from attrbind_exp.backbones.tensors import to_device
from attrbind_exp.config import PACKAGE
from attrbind_exp.data.dataset import Dataset, by_image
from attrbind_exp.data.refer import load_refer
from attrbind_exp.edits import Averaging, NounChunk, Variant
from attrbind_exp.evaluation.batch_size import fit_batch_size
from attrbind_exp.evaluation.batching import segment_images
from attrbind_exp.evaluation.loading import LoadedSample
from attrbind_exp.evaluation.passes import Batcher, PassRow
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.scoring import metrics
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.types import Sample
from benchmarks.gpu_counts import check_counts, check_rows
from benchmarks.gpu_machine import SIZE, Batch, Machine
from benchmarks.gpu_options import check_options
from benchmarks.measure import wait_for
from benchmarks.models import BUNDLED, TIMESTEP, WEIGHTS
from tests.oracle import reference_heat_map

Found = tuple[bool | None, str]
VARIANTS = [Variant("baseline"), Variant("ours", (NounChunk(), Averaging(0.9)), 0.9)]
# Every call of attention in Stable Diffusion 1.5 and 2.1: heads, queries, keys, width of a head, and the layout: values
# are "apart" for each head, or all heads have "one"; where further texts are "read", rows have one, too, and one query.
# Cross-attention is wider than the model's own by the columns that pool probabilities.
ATTENTION_CALLS = (
    (8, 4096, 4096, 40, "apart"),
    (8, 4096, 4096, 40, "one"),
    (8, 4096, 77, 48, "apart"),
    (8, 1024, 1024, 80, "apart"),
    (8, 1024, 77, 88, "apart"),
    (8, 256, 256, 160, "apart"),
    (8, 256, 77, 168, "apart"),
    (8, 64, 64, 160, "apart"),
    (8, 64, 77, 168, "apart"),
    (5, 9216, 9216, 64, "apart"),
    (5, 9216, 9216, 64, "one"),
    (5, 9216, 77, 72, "apart"),
    (1, 4096, 4096, 512, "apart"),
    (8, 4096, 77, 40, "read"),
    (8, 1024, 77, 80, "read"),
    (8, 256, 77, 160, "read"),
    (5, 9216, 77, 64, "read"),
)


def check_environment(machine: Machine) -> Found:
    """CUDA is available (torch's default build for CUDA 13 needs driver 580)."""
    if not machine.on_cuda:
        return True, f"torch {torch.__version__}, dry run on a CPU"
    card, backends = torch.cuda.get_device_properties(0), torch.backends
    return torch.cuda.is_available(), (
        f"torch {torch.__version__} cuda {torch.version.cuda} cudnn {backends.cudnn.version()} {card.name} "
        f"sm_{card.major}{card.minor} {card.total_memory / 1e9:.0f} GB; TF32 of convolutions "
        f"{backends.cudnn.allow_tf32}, of matrix products {backends.cuda.matmul.allow_tf32}"
    )


def check_attention_kernels(machine: Machine) -> Found:
    """No attention call takes the math kernel; errors against fp64 below 2e-3 (fp16, fp32) and 2e-2 (bf16)."""
    names = {backend.value: name for name, backend in SDPBackend.__members__.items()}
    bad, seen = [], []
    for dtype, tolerance in ((torch.float16, 2e-3), (torch.bfloat16, 2e-2), (torch.float32, 2e-3)):
        for heads, queries, keys, width, layout in ATTENTION_CALLS:
            query, key, value = _attention_inputs(heads, queries, keys, width, layout, dtype)
            scale = width**-0.5
            chosen = names[torch._fused_sdp_choice(query, key, value, scale=scale)]
            found = F.scaled_dot_product_attention(query, key, value, scale=scale)[:, :1, :64].double()
            products = query[:, :1, :64].double() @ key[:, :1].double().transpose(-1, -2)
            error = (found - torch.softmax(products * scale, -1) @ value[:, :1].double()).abs().max().item()
            call = f"{str(dtype)[6:]} {queries}x{keys}x{width} {layout} {chosen} {error:.0e}"
            seen.append(call)
            if chosen == "MATH" or not error < tolerance:
                bad.append(call)
    (machine.out / "sdpa.txt").write_text("\n".join(seen) + "\n")
    return not bad, "; ".join(bad) or f"{len(seen)} calls, such as {seen[0]}; {seen[1]}"


def _attention_inputs(
    heads: int, queries: int, keys: int, width: int, layout: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Random queries, keys and values of two rows, laid out in memory as the model's are."""

    def by_head(count: int, draw: Callable[..., Tensor] = torch.randn) -> Tensor:
        values = draw(2, count, heads * width, device="cuda", dtype=dtype)
        return values.unflatten(-1, (heads, width)).transpose(1, 2)

    query, key = by_head(queries), by_head(keys)
    if layout == "one":
        values = torch.rand(2, keys, width, device="cuda", dtype=dtype)
        return query, key, values[:, None].expand(-1, heads, -1, -1)
    if layout == "read":
        values = torch.rand(keys, width, device="cuda", dtype=dtype)
        return query[:1].expand(2, -1, -1, -1), key, values.expand(2, heads, -1, -1)
    return query, key, by_head(keys, torch.rand)


def check_bundled_model(machine: Machine) -> Found:
    """The bundled model's heat maps are the CPU's in fp32: within 2e-3 in fp32 without TF32, 2e-2 with it and in fp16,
    1e-1 in bf16; mIoU within 0.3; two runs alike, and no row depends on its batch."""
    dataset = load_refer(str(PACKAGE / "assets"), "shapes", "made", "val")
    some = replace(dataset, samples=dataset.samples[:120])
    base, base_miou = _segment_bundled("cpu", "fp32", some)
    passed, lines = True, []
    for dtype, tf32, tolerance in (
        ("fp32", False, 2e-3),
        ("fp32", True, 2e-2),
        ("fp16", True, 2e-2),
        ("bf16", True, 0.1),
    ):
        heats, miou = _segment_bundled(machine.device.type, dtype, some, tf32)
        gap, change = np.abs(heats - base).max(), np.abs(miou.max(1) - base_miou.max(1)).max()
        passed &= bool(gap < tolerance and change < 0.3)
        lines.append(f"{dtype}{' TF32' if tf32 and dtype == 'fp32' else ''} {gap:.1e} mIoU {change:.2f}")
    first, second = (_segment_bundled(machine.device.type, "fp16", some)[0] for _ in range(2))
    tail = _segment_bundled(machine.device.type, "fp16", replace(some, samples=some.samples[60:]))[0]
    alike, alone = bool((first == second).all()), bool((first[-len(tail) :] == tail).all())
    lines.append(f"two runs alike {alike}, a row does not depend on its batch {alone}")
    return passed and alike and alone, ", ".join(lines)


def _segment_bundled(device: str, dtype: str, dataset: Dataset, tf32: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """All heat maps of a dataset in one row (pixels,), and mIoU in percent of each variant (variants, K)."""
    segmenter = Segmenter(load_stable_diffusion(BUNDLED, device, dtype, tf32=tf32))
    images = segment_images(by_image(dataset), segmenter, RunSettings(VARIANTS, batch_size=32))
    items = [item for image in images for item in image.items]
    heats = [[item.heat(v, 0).values for v in range(len(VARIANTS))] for item in items]
    iou = [
        [metrics.iou(*metrics.count_overlap(heat, item.truth)) for heat in row]
        for item, row in zip(items, heats, strict=True)
    ]
    return np.concatenate([heat.ravel() for row in heats for heat in row]), 100 * np.array(iou).mean(0)


def check_noise(machine: Machine) -> Found:
    """Noise on the device equals the CPU's."""
    noise = draw_noise((4, 64, 64), 0, "1", TIMESTEP, 0)
    return torch.equal(to_device(noise, machine.device).cpu(), noise), "compared"


def check_sd15_loads(machine: Machine) -> Found:
    """Stable Diffusion 1.5 (random weights; fp16 on CUDA) loads, and a picture's latents are finite."""
    backbone, latents = machine.segmenter.backbone, machine.latents
    return bool(latents.isfinite().all()), f"{backbone.device} {backbone.dtype}, deviation {latents.std().item():.2f}"


def check_hidden_waits(machine: Machine) -> Found:
    """A pass, a picture and a heat map are queued without waiting for the device."""
    segmenter, batch = machine.segmenter, machine.batch(16)
    machine.complete(batch)
    wait_for(machine.device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        completed = machine.complete(batch)
        segmenter.start_heat_maps(completed[:3], SIZE, [(None, None)] * 3)
        segmenter.backbone.encode_pixels(segmenter.backbone.pixels(machine.picture))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return True, "none"


def check_against_recipe(machine: Machine) -> Found:
    """A heat map of Stable Diffusion 1.5 is that of the published recipe, within 2e-2."""
    segmenter, batch = machine.segmenter, machine.batch(1)
    model = segmenter.backbone
    noisy = model.add_noise(batch.latents, batch.ids, TIMESTEP, 0, 0)
    uncond, columns = model.encode_text([""])[0].states, list(batch.prompts[0].q)
    expected = reference_heat_map(
        model.unet, noisy, TIMESTEP, batch.embeddings[0].keys, uncond, columns, WEIGHTS, model.size
    )
    found = segmenter.heat_map(machine.complete(batch)[0], model.size).values
    gap = float(np.abs(expected.float().cpu().numpy() - found).max())
    return gap < 2e-2, f"{gap:.1e}"


def check_batch_size(machine: Machine) -> Found:
    """batch_size=auto (128 on 24 GB and more) peaks below 80 % of what was free, and counts no flat maps."""
    if not machine.on_cuda:
        return True, f"{fit_batch_size(machine.segmenter, 8)} on a CPU"
    free, counted = torch.cuda.mem_get_info()[0], machine.segmenter.flat.clone()
    rows = machine.rows
    unchanged = torch.equal(machine.segmenter.flat, counted)
    batch, before = machine.batch(rows), torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    machine.complete(batch)
    wait_for(machine.device)
    peak = torch.cuda.max_memory_allocated() - before
    return peak < 0.8 * free and unchanged, (
        f"{rows} rows, {peak / 1e9:.1f} GB beyond {before / 1e9:.1f}, {peak / rows / 1e6:.0f} MB a row, reserved "
        f"{torch.cuda.memory_reserved() / 1e9:.1f}; no flat maps counted: {unchanged}"
    )


def check_speed(machine: Machine) -> Found:
    """Ours takes 1.1 to 1.25 times as long as a bare pass (for the report; nothing fails)."""
    model, rows = machine.segmenter.backbone, machine.rows
    batch, lines = machine.batch(rows), []
    keys = Embedding(torch.stack([e.keys for e in batch.embeddings]))
    noisy = model.add_noise(batch.latents, batch.ids, TIMESTEP, 0, 0)[batch.owner]

    @torch.no_grad()
    def bare() -> Tensor:
        return model.denoise(noisy, TIMESTEP, keys)

    def ours() -> Tensor:
        return machine.complete(batch)

    for tuned in (False, True):
        torch.backends.cudnn.benchmark = tuned
        for layout in (torch.channels_last, torch.contiguous_format):
            model.unet.to(memory_format=layout)
            mine, theirs = machine.seconds(ours), machine.seconds(bare)
            name = f"{str(layout)[6:]}{', cudnn.benchmark' if tuned else ''}"
            lines.append(f"{name}: ours {rows / mine:.0f}/s, bare {rows / theirs:.0f}/s, ratio {mine / theirs:.2f}")
    torch.backends.cudnn.benchmark = False
    start = time.perf_counter()
    ours()
    queued = time.perf_counter() - start
    wait_for(machine.device)
    lines.append(f"the host's time of a pass {1000 * queued:.0f} ms")
    return True, "; ".join(lines)


def check_picture(machine: Machine) -> Found:
    """What a picture costs: its resizing, which is the host's, and the autoencoder (for the report; nothing fails)."""
    model = machine.segmenter.backbone
    start = time.perf_counter()
    pixels = model.pixels(machine.picture)
    lines = [f"resizing on the host {1000 * (time.perf_counter() - start):.1f} ms"]
    for tuned in (False, True):
        torch.backends.cudnn.benchmark = tuned
        for layout in (torch.contiguous_format, torch.channels_last):
            model.vae.to(memory_format=layout)
            took = machine.seconds(lambda: model.encode_pixels(pixels))
            name = f"{str(layout)[6:]}{', cudnn.benchmark' if tuned else ''}"
            lines.append(f"{name}: autoencoder {1000 * took:.1f} ms")
    torch.backends.cudnn.benchmark = False
    model.vae.to(memory_format=torch.contiguous_format)  # as every other check has it
    return True, "; ".join(lines)


def check_out_of_memory(machine: Machine) -> Found:
    """Where memory runs out the batch is halved, and the maps stay the same within 2e-2."""
    settings, batch = RunSettings(VARIANTS, batch_size=64), machine.batch(64)
    torch.cuda.empty_cache()
    _, whole = _run_batcher(machine, batch, settings)
    torch.cuda.empty_cache()
    limit = torch.cuda.memory_allocated() + 2.5e9
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
    try:
        size, maps = _run_batcher(machine, batch, settings)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    gap = (maps - whole).abs().max().item()
    return size < 64 and gap < 2e-2, f"batch fell to {size}, difference {gap:.1e}"


def _run_batcher(machine: Machine, batch: Batch, settings: RunSettings) -> tuple[int, Tensor]:
    """The batch size that a Batcher ends with, and the maps (n, C, h, w) that it makes."""
    samples = [
        Sample(str(i), batch.ids[image], Path(), prompt.text, None, None, SIZE)
        for i, (image, prompt) in enumerate(zip(batch.owner, batch.prompts, strict=True))
    ]
    rows = [
        PassRow(LoadedSample(sample, machine.picture, "", machine.latents, None, prompt), [embedding])
        for sample, prompt, embedding in zip(samples, batch.prompts, batch.embeddings, strict=True)
    ]
    batcher = Batcher(machine.segmenter, settings)
    batcher.run(rows)
    return batcher.size, torch.cat([row.maps[0] for row in rows])


def check_by_reading(machine: Machine) -> Found:
    """BLIP's and the autoencoder's out of memory."""
    return None, "not measured: pictures are encoded one by one, and captions captioner.batch_size at a time"


CHECKS: Sequence[Callable[[Machine], Found]] = (
    check_environment,
    check_attention_kernels,
    check_bundled_model,
    check_counts,
    check_rows,
    check_options,
    check_noise,
    check_sd15_loads,
    check_hidden_waits,
    check_against_recipe,
    check_batch_size,
    check_speed,
    check_picture,
    check_out_of_memory,
    check_by_reading,
)
CUDA_ONLY = (check_attention_kernels, check_hidden_waits, check_out_of_memory)
