"""Which device computes and how exactly, and why a card that is there does not."""

import os
import shutil
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from attrbind_exp.log import log
from attrbind_exp.types import UserError

# Their order is that in which "auto" takes them. torch calls AMD's cards cuda, too.
ACCELERATORS: dict[str, Callable[[], bool]] = {
    "cuda": lambda: _quietly(torch.cuda.is_available),
    "mps": lambda: torch.backends.mps.is_available(),
    "xpu": lambda: torch.xpu.is_available(),
}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NVIDIA = Path("/proc/driver/nvidia/version")
CARDS = Path("/dev")  # nvidia0, nvidia1, ..
SECONDS = 10.0  # that nvidia-smi may take
NONE_FOUND = "No devices were found"  # so it says in a Slurm job that asked for no card, though the files are there
# NVIDIA's table of the oldest driver that programs built for a CUDA of this major version can use.
DRIVERS = {11: 450, 12: 525, 13: 580}
INSTALL = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl"


@dataclass(frozen=True)
class Card:
    """An NVIDIA card as the system tells of it: its name and the version of its driver, "" where it does not say."""

    name: str
    driver: str


def pick_device(device: str, key: str = "model.device") -> torch.device:
    """The device that computes. "auto" is the first of CUDA (which AMD's cards are to torch, too), MPS and XPU that
    torch can use, else the CPU. `key`: the key that `device` is the value of.

    Raises UserError for a device that is not there, and for "auto" where an NVIDIA card is there that torch cannot use.
    A card that CUDA_VISIBLE_DEVICES hides is left alone, in one line.
    """
    if device == "auto":
        return _first_that_works(key)
    if device not in (here := devices_here()):
        why = why_no_cuda() if device.startswith("cuda") and "cuda" not in here else None
        mend = f"{why}; {key}=cpu takes the CPU" if why else f"choose from auto, {', '.join(here)}"
        raise UserError(f"{key}={device}: no device '{device}' here; {mend}")
    return torch.device(device)


def devices_here() -> list[str]:
    """The names of all devices that torch can use: cpu, then cuda, cuda:0, cuda:1, .."""
    names = ["cpu"]
    for name, works in ACCELERATORS.items():
        if works():
            count = 1 if name == "mps" else getattr(torch, name).device_count()
            names += [name, *(f"{name}:{i}" for i in range(count))]
    return names


def _first_that_works(key: str) -> torch.device:
    if (found := next((name for name, works in ACCELERATORS.items() if works()), None)) is not None:
        return torch.device(found)
    if hidden():
        if find_card():
            log.info(f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']!r} hides the GPU: the CPU computes")
    elif why := why_no_cuda():
        raise UserError(f"{key}=auto: {why}; {key}=cpu takes the CPU")
    return torch.device("cpu")


def _quietly(works: Callable[[], bool]) -> bool:
    """What it answers, without torch's warning of an old driver: why_no_cuda says that in full."""
    with warnings.catch_warnings(action="ignore"):
        return works()


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The precision that model.dtype names; "auto" is half precision on CUDA alone, where it was made for this."""
    return DTYPES["fp16" if device.type == "cuda" else "fp32"] if dtype == "auto" else DTYPES[dtype]


def set_tf32(device: torch.device, allowed: bool) -> None:
    """Whether fp32 may be computed with TF32's ten bits of mantissa on CUDA, by convolutions and matrix products. torch
    allows it to convolutions unless it is told. It holds for all that this process computes."""
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed


def hidden() -> bool:
    """Whether CUDA_VISIBLE_DEVICES says that no card shall be used: it is empty, or its first entry names none."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    return first in ("", "NoDevFiles") or first.startswith("-")


def why_no_cuda() -> str | None:
    """Why torch cannot use the NVIDIA card that is there, and what helps; None where there is none."""
    if (card := find_card()) is None:
        return None
    built, version = torch.version.cuda, torch.__version__.partition("+")[0]
    there = f"{card.name or 'an NVIDIA card'} with driver {card.driver or 'of unknown version'} is there, but"
    first = card.driver.partition(".")[0]
    driver = int(first) if first.isdecimal() else None
    if built is None:
        return f"{there} this torch {version} is built without CUDA; {_install(driver)}"
    needed = DRIVERS.get(int(built.partition(".")[0]), 0)
    if driver is not None and driver < needed:
        return f"{there} torch {version}, built for CUDA {built}, needs driver {needed} or newer; {_install(driver)}"
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return f"{there} CUDA_VISIBLE_DEVICES={chosen!r} names none that torch can use; mend or unset it"
    return (
        f"{there} torch {version}, built for CUDA {built}, cannot use it ({_torchs_words()}); see what nvidia-smi says"
    )


def _install(driver: int | None) -> str:
    """The mend for a driver of this number, None = unknown."""
    if driver is not None and driver >= DRIVERS[13]:
        return f"install one for CUDA 13: {INSTALL}/cu130"
    if driver is not None and driver < DRIVERS[12]:
        return f"install driver {DRIVERS[13]} or newer and a torch for CUDA 13: {INSTALL}/cu130"
    return f"install one for CUDA 12 ({INSTALL}/cu126), or driver {DRIVERS[13]} and one for CUDA 13 (/cu130)"


def _torchs_words() -> str:
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return _first_sentence(error)
    return "it says no reason"


def _first_sentence(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].partition(". ")[0][:200]


def find_card() -> Card | None:
    """An NVIDIA card that this process may use, by nvidia-smi or, on Linux, by the driver's files.

    A card whose device file may not be opened belongs to others: a job on a shared machine that asked for none.
    """
    if tool := shutil.which("nvidia-smi"):
        asked = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
        try:
            answer = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            answer = None
        if answer is not None and answer.returncode == 0 and "," in answer.stdout:
            name, _, driver = answer.stdout.splitlines()[0].rpartition(",")
            return Card(name.strip(), driver.strip())
        if answer is not None and NONE_FOUND in answer.stdout + answer.stderr:
            return None
    if not any(os.access(file, os.R_OK | os.W_OK) for file in CARDS.glob("nvidia[0-9]*")):
        return None
    try:
        first = NVIDIA.read_text(encoding="utf-8", errors="replace").splitlines()[0]
    except (OSError, IndexError):
        return Card("", "")
    numbers = [word for word in first.split() if word[0].isdecimal() and "." in word]
    return Card("", numbers[0] if numbers else "")
