"""The machine: disk, memory, spaCy's model, the tracker's account."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from attrbind_exp.backbones.loading import configs_of
from attrbind_exp.commands.doctor.checkpoint import count_parameters
from attrbind_exp.commands.doctor.finding import Finding, storage
from attrbind_exp.data.refer import read_json
from attrbind_exp.devices import pick_device, pick_dtype
from attrbind_exp.types import UserError

WANDB_MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")  # what WANDB_MODE may be
ROW_BYTES = 2_000  # of expressions.jsonl an expression and variant, measured on pictures of 640 x 480


def check_disk(folder: Path, expressions: int, variants: int, seeds: int) -> Finding:
    """Free space where `folder` will lie, against what a run writes."""
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())
    free, needed = shutil.disk_usage(existing).free, expressions * variants * seeds * ROW_BYTES
    text = (
        f"{storage(free)} free at {existing}; expressions.jsonl of this run takes about {storage(needed)} "
        f"({expressions:,} expressions x {variants} variants x {seeds} seeds x {ROW_BYTES / 1000:g} KB)"
    )
    if free < 2 * needed + 10**8:  # the tracker keeps tables and pictures of its own
        return Finding("WARN", "disk", f"{text}; free some, or run from another disk")
    return Finding("ok", "disk", text)


def estimate_memory(place: Path, size: tuple[int, int] | None, batch_size: int, precision: int) -> tuple[int, str]:
    """Bytes that a run of the model at `place` needs, and the formula. `precision`: bytes a number; `size`: (height,
    width) in pixels.

    The autoencoder's first block and the largest attention matrix that is had in the open stand for all activations.
    Measured on Stable Diffusion 1.5's autoencoder, encoding holds 5 of its full-size feature maps at once.
    """
    configs = configs_of(place, str(place))
    unet, vae, text = (read_json(configs / part / "config.json") for part in ("unet", "vae", "text_encoder"))
    scale = 2 ** (len(vae["block_out_channels"]) - 1)
    height, width = size or (unet["sample_size"] * scale,) * 2
    cells, channels = (height // scale) * (width // scale), vae["block_out_channels"][0]
    heads, tokens = _heads(unet), text["max_position_embeddings"]
    parameters = count_parameters(place)
    maps, scores = 5 * height * width * channels * precision, heads * cells * tokens * 4
    matrix = f"{heads} heads x {cells} cells x {tokens} tokens"
    formula = (
        f"{parameters / 1e6:,.1f} M parameters x {precision} bytes + batch {batch_size} x (5 feature maps of "
        f"{height} x {width} x {channels} x {precision} bytes + {matrix} x 4 bytes)"
    )
    return parameters * precision + batch_size * (maps + scores), formula


def _heads(unet: Mapping[str, int | list[int]]) -> int:
    # diffusers reads Stable Diffusion's attention_head_dim as the number of heads, one for all blocks or a list.
    heads = unet.get("num_attention_heads") or unet["attention_head_dim"]
    return heads[0] if isinstance(heads, list) else heads


def check_memory(place: Path | None, device: str, dtype: str, size: tuple[int, int] | None, batch_size: int) -> Finding:
    """Free memory of the device that a run would take, against an estimate for the model at `place`, if any."""
    try:
        target = pick_device(device)
    except UserError as error:
        return Finding("MISSING", "memory", str(error))
    free = free_on(target)
    text = f"{target} has {'unknown' if free is None else storage(free)} free"
    if place is None:
        return Finding("ok", "memory", f"{text}; what the model needs can be estimated once its files are there")
    width = pick_dtype(dtype, target).itemsize
    needed, formula = estimate_memory(place, size, batch_size, width)
    text += f", about {storage(needed)} needed (an estimate: {formula})"
    half_helps = target.type == "cuda" and width > 2
    if free is not None and free < needed:
        mends = [f"lower batch_size={batch_size}"] * (batch_size > 1) + ["take model.dtype=fp16 or bf16"] * half_helps
        mend = ", or ".join(mends or ["take a device with more memory (model.device)"])
        return Finding("WARN", "memory", f"{text}; {mend}")
    return Finding("ok", "memory", text)


def free_on(device: torch.device) -> int | None:
    """Bytes that are free where a device computes; None where that cannot be known."""
    if device.type in ("cuda", "xpu"):
        return getattr(torch, device.type).mem_get_info(device)[0]
    if device.type == "mps":  # shares the main memory, of which Metal recommends to take no more than this
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return free_memory()


def free_memory() -> int | None:
    """Bytes of main memory that a process could take; None where the system does not say."""
    file = Path("/proc/meminfo")
    if not file.is_file():
        return None
    lines = dict(line.split(":", 1) for line in file.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def check_spacy() -> Finding:
    """Does spaCy's English model load?"""
    from attrbind_exp.language.parse import load_spacy

    try:
        meta = load_spacy().meta
    except UserError as error:
        return Finding("MISSING", "spacy", str(error))
    return Finding("ok", "spacy", f"{meta['lang']}_{meta['name']} {meta['version']} loads")


def check_tracker(mode: str | None) -> Finding:
    """Where figures will be reported to. `mode` is tracker.mode of W&B, None for any other tracker. No key is shown."""
    if mode is None:
        return Finding("ok", "tracker", "none that needs an account: the run folder holds everything")
    netrc = Path(os.path.expanduser(os.environ.get("NETRC", "~/.netrc")))  # noqa: PTH111, Path's raises for ~nobody
    account = (
        "the key in WANDB_API_KEY"
        if os.environ.get("WANDB_API_KEY")
        else f"the login in {netrc}"
        if os.access(netrc, os.R_OK) and netrc.is_file() and "api.wandb.ai" in netrc.read_text(errors="replace")
        else None
    )
    mode = (os.environ.get("WANDB_MODE") or ("online" if account else "offline")) if mode == "auto" else mode
    if mode not in WANDB_MODES:
        known = ", ".join(WANDB_MODES)
        return Finding("WARN", "tracker", f"W&B knows no mode '{mode}' and stays offline; choose from {known}")
    if mode == "online" and not account:
        return Finding("WARN", "tracker", "W&B online, but no account is known here; log in by 'wandb login'")
    return Finding("ok", "tracker", f"W&B {mode}" + (f", with {account}" if account and mode == "online" else ""))
