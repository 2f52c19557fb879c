"""Shared pieces: the bundled model, loaded once; the exact Stable Diffusion 1.5 architecture, where its config is at hand."""

import json
import os
from pathlib import Path

os.environ["WANDB_MODE"] = "offline"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as attrbind_exp sets it, before torch loads
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import numpy as np
import pytest
import torch
from PIL import Image

from attrbind_exp.backbones.backbone import encode_images
from attrbind_exp.backbones.stable_diffusion import load_stable_diffusion
from attrbind_exp.config import CONF, PACKAGE
from attrbind_exp.edits import Averaging, NounChunk, Variant
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.types import LayerChoice, MapSettings, TextSettings

SHARED = CONF.parent.parent / "shared" / "data"


def shared(name: str) -> Path:
    """A folder of sample data that lies beside the checkout on some machines; the test skips where it is absent."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not on this machine")
    return folder


@pytest.fixture(scope="session")
def model():
    return load_stable_diffusion(str(PACKAGE / "assets" / "bundled"), device="cpu")


@pytest.fixture(scope="session")
def exact_model():
    """The bundled model in float64, where rounding hides nothing."""
    model = load_stable_diffusion(str(PACKAGE / "assets" / "bundled"), device="cpu")
    for part in (model.unet, model.vae, model.text_encoder):
        part.double()
    model.dtype = torch.float64
    return model


@pytest.fixture
def segmenter(model):
    return make_segmenter(model)


DIFFSEGMENTER = {8: 0.3, 4: 0.5, 2: 0.1, 1: 0.1}
# All resolutions, but little of the coarse ones: they span a few values, and min-max stretches fp32's rounding there to
# 2e-5. Tests in float64 have DiffSegmenter's own.
ALL_RESOLUTIONS = {8: 0.05, 4: 0.1, 2: 0.45, 1: 0.4}


def make_segmenter(
    model, *, ratios=None, blocks=None, weights=ALL_RESOLUTIONS, text=TextSettings(), methods=None, **settings
):
    """A segmenter at DiffSegmenter's timestep, its layers given one by one."""
    maps = MapSettings(**{"timesteps": (100,), "layers": LayerChoice(ratios, blocks, weights), **settings})
    return Segmenter(model, text, maps, methods)


def make_variant(name, replace=False, alpha=None, prefix="none"):
    """NCR where it says replace, then UEA where there is an alpha."""
    edits = [NounChunk(prefix)] if replace else []
    return Variant(name, (*edits, *([] if alpha is None else [Averaging(alpha)])), alpha)


def states_of(model, texts):
    """Embeddings of texts, (B, L, D)."""
    return torch.stack([encoded.states for encoded in model.encode_text(texts)])


def embeddings_of(segmenter, texts, of):
    """Prompts and their embeddings under one variant."""
    edited = segmenter.edit(segmenter.prepare(texts), [of])
    return [e.prompt for e in edited], [e.embedding(0) for e in edited]


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """A smooth random picture, so that resizing has something to do."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (7, 9, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def completed_maps(segmenter, texts, variants, **given):
    """Completed maps of every text under every variant on a picture of its own: for each text (V, C, h, w)."""
    edited = segmenter.edit(segmenter.prepare(texts), variants)
    latents = encode_images(segmenter.backbone, [picture(64, 64, i) for i in range(len(texts))])
    rows = [(i, item.prompt, item.embedding(v)) for i, item in enumerate(edited) for v in range(len(variants))]
    images, prompts, embeddings = zip(*rows, strict=True)
    made = segmenter.complete(latents, [str(i) for i in range(len(texts))], prompts, embeddings, images=images, **given)
    return made.split([len(variants)] * len(texts))


@pytest.fixture
def refer_folder(tmp_path):
    """A REFER dataset of two small images, three refs and five sentences, to be spoilt by tests."""
    folder = tmp_path / "tiny"
    (folder / "images").mkdir(parents=True)
    images = [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in (1, 2)]
    for i in images:
        picture(40, 60, i["id"]).save(folder / "images" / i["file_name"])
    box = [[10, 10, 30, 10, 30, 30, 10, 30]]
    annotations = [
        {"id": a, "image_id": 1 + (a > 2), "category_id": 1, "segmentation": box, "iscrowd": 0} for a in (1, 2, 3)
    ]
    sentences = [["the white star", "star on the left"], ["a red heart"], ["the black circle", "circle"]]
    refs, count = [], 0
    for annotation, texts in zip(annotations, sentences, strict=True):
        refs.append(
            {
                "ref_id": annotation["id"], "ann_id": annotation["id"], "image_id": annotation["image_id"],
                "category_id": 1, "split": "test", "file_name": f"{annotation['image_id']}.png",
                "sentences": [{"sent_id": count + k, "sent": t, "raw": t, "tokens": t.split()} for k, t in enumerate(texts)],
            }
        )  # fmt: skip
        count += len(texts)
    write_refer(folder, {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "star"}]}, refs)
    return folder


def write_refer(folder: Path, instances: dict, refs: list) -> None:
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "refs(made).json").write_text(json.dumps(refs))
