"""What tells one run from another: a hash over everything that can change a figure."""

import hashlib
import json
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from attrbind_exp import __version__
from attrbind_exp.config.refinement import read_refinement
from attrbind_exp.runs.configuration import counted


def config_hash(cfg: DictConfig) -> str:
    """Twelve hex digits over everything that can change a figure: not the tracker, batch size, device or pictures.
    Files that people edit by hand count by their contents."""
    plain: dict = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    contents = [hashlib.sha256(file.read_bytes()).hexdigest() for file in edited_files(cfg)]
    if refinement := read_refinement(cfg):
        contents += [digest] if (digest := refinement.edited()) else []
    text = json.dumps([__version__, counted(plain), contents], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def edited_files(cfg: DictConfig) -> list[Path]:
    """The files of a configuration that people write by hand: overrides, captions, labels, a folder's table."""
    named = [OmegaConf.select(cfg, key) for key in ("text_processor.overrides", "captioner.file", "dataset.labels")]
    files = [Path(name).expanduser() for name in named if name]
    if "file" in cfg.dataset:  # a folder of pictures with a table
        root = Path(cfg.dataset.root).expanduser()
        table = cfg.dataset.file
        files += [root / table] if table else sorted(f for f in root.glob("*") if f.suffix in (".csv", ".jsonl"))
    return [file for file in files if file.is_file()]
