"""What a safetensors file holds, from its header alone."""

from collections import Counter
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from attrbind_exp.backbones.weights import FILES, find_model, weight_files
from attrbind_exp.types import UserError

# Names of types in a header. What is none of them is shown as bytes.
TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "BOOL": torch.bool,
}


def read_header(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, without numbers: shapes and types, on torch's meta device."""
    found = {}
    with safe_open(file, "pt") as content:
        for name in content.keys():  # noqa: SIM118
            about = content.get_slice(name)
            kind = TYPES.get(about.get_dtype(), torch.uint8)
            found[name] = torch.empty(about.get_shape(), dtype=kind, device="meta")
    return found


def stored_types(path: str, half: bool) -> list[torch.dtype]:
    """The types in which the numbers of the model at model.path are stored, the most frequent first; empty where nobody
    says. `half`: as weight_files takes it."""
    try:
        place = find_model(path)
        files = dict.fromkeys(file for part in FILES for file in weight_files(place, part, path, half))
        types = Counter(values.dtype for file in files for values in read_header(file).values())
    except (UserError, OSError, SafetensorError):  # a model of another layout, perhaps of the user's own class
        return []
    return [kind for kind, _ in types.most_common() if kind.is_floating_point]
