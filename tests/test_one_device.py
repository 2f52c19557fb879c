"""Everything that a device computes finds its tensors there. No GPU is needed: torch's fake tensors have a device and no
numbers, and refuse what mixes two of them, as CUDA does. The device is called "meta", which every build of torch knows.

What waits for numbers is not reached by this: heat maps that come to the host, counts that are unpacked.
"""

import inspect

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from attrbind_exp import edits
from attrbind_exp.backbones import stable_diffusion, text_encoder
from attrbind_exp.backbones.backbone import Pixels
from attrbind_exp.backbones.stable_diffusion import load_stable_diffusion
from attrbind_exp.config import PACKAGE
from attrbind_exp.edits import Averaging, Edit, NounChunk, Variant
from attrbind_exp.heatmaps import segmenter as segmenter_file
from attrbind_exp.heatmaps.daam import Daam
from attrbind_exp.heatmaps.diffsegmenter import DiffSegmenter
from attrbind_exp.heatmaps.iseg import ISeg
from attrbind_exp.heatmaps.ovam import Ovam
from attrbind_exp.scoring import on_device
from attrbind_exp.types import UserError
from tests.conftest import make_segmenter

THERE = torch.device("meta")
METHODS = {
    "diffsegmenter": DiffSegmenter(),
    "daam": Daam(sigmoid=True),
    "ovam": Ovam(),
    "iseg": ISeg(),
}  # DiffSeg merges by value


def sent(values, device):
    return torch.empty(values.shape, dtype=values.dtype, device=device)


@pytest.fixture(scope="module")
def there():
    """A segmenter whose model lies on the fake device, while that is there."""
    model = load_stable_diffusion(str(PACKAGE / "assets" / "bundled"), device="cpu")
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.MonkeyPatch.context() as patch:
        for module in (m for part in (model.unet, model.vae, model.text_encoder) for m in part.modules()):
            parameters, buffers = module._parameters.items(), module._buffers.items()
            module._parameters |= {k: nn.Parameter(sent(v, THERE), False) for k, v in parameters if v is not None}
            module._buffers |= {k: sent(v, THERE) for k, v in buffers if v is not None}
        model.device = THERE
        for place in (stable_diffusion, text_encoder, segmenter_file):
            patch.setattr(place, "to_device", sent)
        yield make_segmenter(model, methods=METHODS)


def every_edit():
    """Each edit of the package on every side that it takes, with such values as it knows."""
    kinds = [kind for kind in vars(edits).values() if inspect.isclass(kind) and issubclass(kind, Edit)]
    given = ({}, {"alpha": 0.9}, {"weight": 1.2}, {"weight": 0.5}, {"layer": -2}, {"amount": 1.0})
    for kind in kinds:
        for where in ("both", "values", "read"):
            for values in given:
                try:
                    yield kind(where=where, **values)
                except (TypeError, UserError):
                    continue


def test_two_devices_are_told_apart(there):
    with pytest.raises(RuntimeError, match="same device"):
        torch.empty(3, device=THERE) + torch.empty(3)


def test_edits_make_their_texts_where_the_texts_are(there):
    prompts, seen = there.prepare(["the white star next to a blue square", "the star"]), set()
    for edit in every_edit():
        seen.add(type(edit).__name__)
        for edited in there.edit(prompts, [Variant("edited", (edit,))]):
            embedding = edited.embedding(0)
            parts = [part for part in (embedding.keys, embedding.values, embedding.read) if part is not None]
            assert all(part.device == THERE for part in parts), edit
    assert {"NounChunk", "Averaging", "TextBlind", "Weight", "Magnet"} <= seen and len(seen) > 8


def test_a_picture_a_pass_heat_maps_and_counts_stay_where_they_are(there, monkeypatch):
    model = there.backbone
    latents = model.encode_pixels(Pixels(torch.empty(3, 64, 64, dtype=torch.uint8)))
    assert latents.device == THERE
    chain = NounChunk(where="read"), Averaging(0.9, where="read")
    variants = [Variant("baseline"), Variant("ours", (NounChunk(), Averaging(0.9))), Variant("read", chain)]
    edited = there.edit(there.prepare(["the white star next to a blue square", "the star"]), variants)
    rows = [(i, item.prompt, embedding) for i, item in enumerate(edited) for embedding in item.embeddings]
    images, prompts, embeddings = zip(*rows, strict=True)
    both = torch.stack([latents, latents])
    # Methods that pool alike share their poolings, which is asked on the host; fake tensors hold nothing to compare.
    monkeypatch.setattr(torch, "equal", lambda one, other: one.shape == other.shape)
    completed = there.complete(both, ["0", "1"], prompts, embeddings, batch_size=6, images=images)
    readings = [(name, None) for name in METHODS]
    heats = there.heat_maps(completed[: len(METHODS)], (48, 64), readings)
    assert (completed.device, heats.device, len(completed)) == (THERE, THERE, len(rows))
    unpacked = []
    monkeypatch.setattr(on_device, "_thresholds", lambda device: torch.empty(101, device=device))
    monkeypatch.setattr(on_device, "in_parts", lambda work, items, size, _: (unpacked.append(work(items, size)), size))
    monkeypatch.setattr(type(heats), "tolist", lambda self: self)
    on_device.count_maps(heats, [torch.empty(48 * 64, dtype=torch.bool, device=THERE)] * 3)
    assert [(found.device, found.shape) for found in unpacked] == [(THERE, (len(METHODS), 2 + 2 * 101 + 2 * 3))]
