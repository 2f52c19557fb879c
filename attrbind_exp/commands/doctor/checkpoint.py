"""The model: where its files are looked for, which are there, in which precision, and what is missing of them.

Nothing is loaded: each part is built without numbers, and compared with the headers of its files.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from attrbind_exp.backbones import stable_diffusion
from attrbind_exp.backbones.loading import configs_of, match_part
from attrbind_exp.backbones.lora import read_lora
from attrbind_exp.backbones.weights import FILES, find_place, read_object, weight_files
from attrbind_exp.backbones.window import load_tokenizer
from attrbind_exp.commands.doctor.finding import Finding, storage
from attrbind_exp.evaluation.provenance import dtype_name
from attrbind_exp.hub import PLACES, WITHDRAWN, cache_folder, has_token, is_hub_name, split_name
from attrbind_exp.types import UserError


def check_model(path: str) -> tuple[Finding, Path | None]:
    """Is there a Stable Diffusion 1.x or 2.x at model.path, whole or not? The folder or file comes back."""
    try:
        place = find_place(path)
        configs_of(place, path)
    except UserError as error:
        return Finding("MISSING", "model", f"{searched(path)}: {error}{access(path)}"), None
    local = Path(path).expanduser().exists()
    return Finding("ok", "model", str(place.absolute()) if local else f"found {place}; {searched(path)}"), place


def searched(path: str) -> str:
    """Where the files of model.path are looked for."""
    local = Path(path).expanduser()
    if local.exists() or not is_hub_name(path):
        return f"looked at {local.absolute()}"
    by = next((f"by {name}" for name in PLACES if os.environ.get(name)), "HF_HOME is not set")
    name, revision = split_name(path)
    folder = cache_folder(name)
    named = folder / "refs" / (revision or "main")
    if named.is_file():
        asked = f"revision {revision or 'main'}, {named.read_text(encoding='utf-8').strip()[:12]}"
    else:
        asked = f"revision {revision or 'main'}, of which nothing is there" if folder.is_dir() else "which is not there"
    return f"looked in the hub's cache, {folder} ({by}), {asked}"


def access(path: str) -> str:
    """What to do where the hub refuses to give the files of a hub name; whether a token is known, never the token."""
    name, _ = split_name(path)
    if not is_hub_name(path) or Path(path).expanduser().exists():
        return ""
    token = "a token is set here" if has_token() else "no token is set here"
    page = f"https://huggingface.co/{WITHDRAWN.get(name, name)}"
    return f"; if the hub asks for more (401, 403): accept the licence at {page}, then 'hf auth login' ({token})"


def check_parts(place: Path, path: str, half: bool) -> Iterator[Finding]:
    """Is every part whole: all tensors that its configuration asks for, each in its shape? A line for each part that is
    not, or one for all of them. `half`: whether weights in half precision are taken where there are two sets."""
    seen, whole = [], True
    for part in (*FILES, "tokenizer", "scheduler"):
        try:
            seen.append(f"{part}: {describe(place, part, path, half)}")
        except UserError as error:
            whole = False
            yield Finding("MISSING", "parts", f"{part}: {error}{access(path)}")
    if whole:
        numbers, files = count_parameters(place, half), files_of(place, half)
        size = sum(file.stat().st_size for file in files)
        seen.append(f"{numbers / 1e6:,.1f} M parameters, {storage(size)} on disk")
    if seen:
        yield Finding("ok", "parts", "; ".join(seen))


def describe(place: Path, part: str, path: str, half: bool) -> str:
    """What a part is: its numbers and precision, or its words, or its steps. Raises UserError where it is not whole."""
    if part == "tokenizer":
        tokenizer = load_tokenizer(str(place))
        return f"{len(tokenizer):,} tokens, window {tokenizer.model_max_length}"
    if part == "scheduler":
        settings = read_object(configs_of(place, path) / part / "scheduler_config.json")
        kind = settings.get("prediction_type", "epsilon")
        return f"{settings.get('num_train_timesteps', 1000)} steps, {kind}, which maps do not depend on"
    _, tensors, _ = match_part(place, part, path, half, headers=True)
    kinds = Counter(values.dtype for values in tensors.values())
    stored = " and ".join(dtype_name(kind) for kind, _ in kinds.most_common())
    numbers, size = _numbers(tensors), sum(v.numel() * v.element_size() for v in tensors.values())
    return f"{numbers / 1e6:,.1f} M in {stored}, {storage(size)}"


def _numbers(tensors: dict[str, Tensor]) -> int:
    return sum(values.numel() for values in tensors.values())


def files_of(place: Path, half: bool = False) -> list[Path]:
    """The files that hold UNet, autoencoder and text encoder, each once; copies beside them are not read, so they do
    not count."""
    return list(dict.fromkeys(file for part in FILES for file in weight_files(place, part, str(place), half)))


def count_parameters(place: Path, half: bool = False) -> int:
    """Parameters of UNet, autoencoder and text encoder, from the headers of their files."""
    return sum(_numbers(match_part(place, part, str(place), half, headers=True)[1]) for part in FILES)


def takes_half(device: str, dtype: str) -> bool:
    """Whether passes will be made in fp16; of a device that is not here check_memory speaks."""
    try:
        target = stable_diffusion.pick_device(device)
    except UserError:
        return False
    return stable_diffusion.pick_dtype(dtype, target) == torch.float16


def check_loras(loras: Sequence[str]) -> Iterator[Finding]:
    """Is every file of model.lora a LoRA? Nothing where there is none."""
    for lora in loras:
        try:
            yield Finding("ok", "lora", f"{lora}: changes {len(read_lora(lora))} layers")
        except UserError as error:
            yield Finding("MISSING", "lora", str(error))
