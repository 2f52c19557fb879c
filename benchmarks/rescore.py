"""What rescoring costs by the number of images: class-wise, the bundled model, the commands as they are typed.

    python benchmarks/rescore.py                    # 500, 1,000 and 2,000 images
    python benchmarks/rescore.py --images 100 200

The bundled scenes are repeated under other names. A run keeps the maps of all images (keep_maps=true); every rescoring
is a fresh process over a part of them. Time and memory should grow with the number of images, time in proportion: the
last line, one JSON object, holds the milliseconds of one more image between each size and the next.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from attrbind_exp.paths import PACKAGE

PART = "made"


def make_dataset(root: Path, count: int) -> None:
    """COCO's layout: the scenes of the bundled benchmark, one after the other and again, until there are `count`."""
    shapes = PACKAGE / "assets" / "shapes"
    known = json.loads((shapes / "instances.json").read_text())
    images, annotations = [], []
    of_image: dict[int, list[dict]] = {}
    for annotation in known["annotations"]:
        of_image.setdefault(annotation["image_id"], []).append(annotation)
    (root / PART).mkdir(parents=True)
    for number in range(count):
        image = known["images"][number % len(known["images"])]
        name = f"{number:06d}.png"
        shutil.copy(shapes / "images" / image["file_name"], root / PART / name)
        images.append(image | {"id": number, "file_name": name})
        for annotation in of_image[image["id"]]:
            annotations.append(annotation | {"id": len(annotations), "image_id": number})
    (root / "annotations").mkdir()
    content = {"images": images, "annotations": annotations, "categories": known["categories"]}
    (root / "annotations" / f"instances_{PART}.json").write_text(json.dumps(content))


def run(folder: Path, root: Path, limit: int) -> None:
    """Score the first images class-wise with the bundled model, and keep their maps."""
    given = ["dataset=coco", "model=bundled", f"dataset.root={root}", f"dataset.split={PART}", f"dataset.limit={limit}"]
    given += ["text_processor=paper", "keep_maps=true", "gallery=0", "changed=0", "tracker=none", "cache.folder=null"]
    command = [sys.executable, "-m", "attrbind_exp.run", *given, f"hydra.run.dir={folder}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def rescore(folder: Path) -> dict[str, float]:
    """Seconds and peak memory of rescoring a run, the start of the process among both."""
    command = [sys.executable, "-m", "attrbind_exp.rescore", str(folder), "threshold=0.5"]
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return {"s": round(time.perf_counter() - started, 1), "peak_MB": round(used.ru_maxrss / 1024)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 1000, 2000])
    sizes = sorted(parser.parse_args().images)
    found: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_dataset(root / "data", sizes[-1])
        for size in sizes:
            run(root / str(size), root / "data", size)
            found[size] = rescore(root / str(size))
            print(f"{size} images: {found[size]}", flush=True)
    more = {f"{a} to {b}": round(1000 * (found[b]["s"] - found[a]["s"]) / (b - a), 2) for a, b in pairwise(sizes)}
    print(json.dumps({"benchmark": "rescore", "found": found, "ms_an_image": more}))


if __name__ == "__main__":
    main()
