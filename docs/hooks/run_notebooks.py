"""Run the notebooks of notebooks/ and keep their outputs: pictures in at most 256 colours, nothing of the machine.

It needs the extra `notebooks`: pip install '.[notebooks]'
"""

import base64
from io import BytesIO
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def main() -> None:
    """Every notebook, in place."""
    for file in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = nbformat.read(file, as_version=4)
        NotebookClient(notebook, timeout=300, kernel_name="python3", record_timing=False).execute()
        for cell in notebook.cells:
            if cell.cell_type == "code":
                tidy(cell)
        notebook.metadata["language_info"] = {"name": "python"}
        nbformat.write(notebook, file)


def tidy(cell: nbformat.NotebookNode) -> None:
    """Pictures with a palette; what libraries say of this machine on stderr is left out."""
    cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    for output in cell.outputs:
        data = output.get("data", {})
        if "image/png" in data:
            with Image.open(BytesIO(base64.b64decode(data["image/png"]))) as picture:
                picture.convert("RGB").quantize(256).save(file := BytesIO(), "PNG", optimize=True)
            data["image/png"] = base64.b64encode(file.getvalue()).decode()


if __name__ == "__main__":
    main()
