"""Pickled checkpoints (*.ckpt, *.bin), which are not read: loading one can run any code that its maker put into it."""

from pathlib import Path

from attrbind_exp.types import UserError

ENDINGS = (".ckpt", ".bin", ".pt", ".pth")
# weights_only: torch then builds numbers alone, and refuses a file that asks for more.
ONE_FILE = (
    "import torch; from safetensors.torch import save_file; "
    "d = torch.load('{file}', map_location='cpu', weights_only=True); d = d.get('state_dict', d); "
    "save_file({{k: v.clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}}, '{saved}')"
)
FOLDER = (
    "from diffusers import StableDiffusionPipeline as P; P.from_pretrained('{folder}', use_safetensors=False, "
    "safety_checker=None).save_pretrained('{saved}', safe_serialization=True)"
)


def refuse_pickle(file: Path) -> None:
    """Raise UserError for a single file that is no safetensors, with the command that makes one of it."""
    if file.suffix == ".safetensors":
        return
    if file.suffix not in ENDINGS:
        raise UserError(f"model.path='{file}' is a file, but no safetensors; give FILE.safetensors, a folder or a name")
    saved = file.with_suffix(".safetensors")
    raise UserError(
        f"model.path='{file}' is a pickle, which could run any code and is not read; save it once as safetensors by "
        f'python -c "{ONE_FILE.format(file=file, saved=saved)}", then give model.path={saved}'
    )


def save_again(folder: Path) -> str:
    """The command that saves a folder of pickles as safetensors: a part of an error's line."""
    saved = folder.with_name(f"{folder.name}-safetensors")
    code = FOLDER.format(folder=folder, saved=saved)
    return f'save them once as safetensors by python -c "{code}", then give model.path={saved}'
