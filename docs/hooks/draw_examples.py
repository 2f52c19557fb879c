"""Draw the pictures of docs/examples.md anew: make examples. Each is what its script saves, in at most 256 colours."""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "images" / "examples"
# What rows_with_pandas.py reads: a fifth of the bundled benchmark.
RUN = "attrbind_exp.run text_processor=paper tracker=none dataset.fraction=0.2 gallery=0 changed=0"
FOLDER = "hydra.run.dir=outputs/first"


def main() -> None:
    """Run every script of examples/ in one temporary folder, and keep its picture."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", *RUN.split(), FOLDER], cwd=folder, check=True)
        for script in sorted((ROOT / "examples").glob("*.py")):
            subprocess.run([sys.executable, str(script)], cwd=folder, check=True)
            with Image.open(Path(folder) / f"{script.stem}.png") as drawn:
                drawn.convert("RGB").quantize(256).save(PICTURES / f"{script.stem}.png", optimize=True)


if __name__ == "__main__":
    main()
