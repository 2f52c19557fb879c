"""What computes: the device, torch's build for it, and whether the precision suits both."""

import torch

from attrbind_exp.commands.doctor.finding import Finding
from attrbind_exp.devices import find_card, hidden, pick_device, pick_dtype
from attrbind_exp.evaluation.provenance import dtype_name
from attrbind_exp.types import UserError


def check_device(device: str, dtype: str) -> Finding:
    """The device that a run would take, by name, and in which precision."""
    try:
        target = pick_device(device)
    except UserError as error:
        return Finding("MISSING", "device", str(error))
    precision = pick_dtype(dtype, target)
    text = f"{target} computes in {dtype_name(precision)}; {_name(target)}torch {torch.__version__}{_build()}"
    if target.type == "cuda" and precision == torch.bfloat16 and not torch.cuda.is_bf16_supported(False):
        return Finding("WARN", "device", f"{text}; this card has no bf16 and imitates it; take model.dtype=fp16")
    if target.type not in ("cpu", "cuda") and precision != torch.float32:
        return Finding("WARN", "device", f"{text}; half precision was not tried on {target.type}: model.dtype=fp32")
    if device == "auto" and target.type == "cpu" and hidden() and find_card():
        return Finding("WARN", "device", f"{text}; CUDA_VISIBLE_DEVICES hides the GPU")
    return Finding("ok", "device", text)


def _name(device: torch.device) -> str:
    """ "NAME, NAME; " of the cards that torch sees, "" on other devices."""
    if device.type not in ("cuda", "xpu"):
        return ""
    module = getattr(torch, device.type)
    return ", ".join(module.get_device_name(i) for i in range(module.device_count())) + "; "


def _build() -> str:
    if torch.version.cuda:
        return f", built for CUDA {torch.version.cuda}"
    if torch.version.hip:
        return f", built for ROCm {torch.version.hip}: to torch, and here, AMD's cards are called cuda"
    return ", built for no CUDA"
