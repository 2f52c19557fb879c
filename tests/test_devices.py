"""Which device computes, and what is said of a card that torch cannot use. CUDA's, MPS' and XPU's answers are faked."""

import warnings
from pathlib import Path

import pytest
import torch

from attrbind_exp import devices
from attrbind_exp.backbones import stable_diffusion, tensors
from attrbind_exp.backbones.cached import computed_by
from attrbind_exp.backbones.stable_diffusion import load_stable_diffusion
from attrbind_exp.commands.doctor import computes, machine
from attrbind_exp.config import PACKAGE
from attrbind_exp.devices import Card, pick_device, pick_dtype, set_tf32
from attrbind_exp.types import UserError

BUNDLED = str(PACKAGE / "assets" / "bundled")


@pytest.fixture(autouse=True)
def no_card(monkeypatch, tmp_path):
    """No accelerator, no card, nothing hidden, whatever this machine has."""
    for module in (torch.cuda, torch.backends.mps, torch.xpu):
        monkeypatch.setattr(module, "is_available", lambda: False)
    monkeypatch.setattr(devices, "CARDS", tmp_path / "dev")
    monkeypatch.setattr(devices, "NVIDIA", tmp_path / "version")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def driver_files(folder: Path, version: str = "535.183.01") -> None:
    """A card as Linux shows it."""
    (folder / "dev").mkdir()
    (folder / "dev" / "nvidia0").touch()
    (folder / "version").write_text(
        f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Thu Jun 1\nGCC version: 12.3\n"
    )


def nvidia_smi(folder: Path, says: str, code: int = 0) -> None:
    """A program nvidia-smi that says something."""
    (folder / "bin").mkdir()
    tool = folder / "bin" / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    tool.chmod(0o755)


def built_for(monkeypatch, cuda: str | None) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch, "__version__", "2.13.0")


def test_auto_takes_the_first_that_works(monkeypatch):
    assert pick_device("auto") == torch.device("cpu")
    for module, name in ((torch.xpu, "xpu"), (torch.backends.mps, "mps"), (torch.cuda, "cuda")):
        monkeypatch.setattr(module, "is_available", lambda: True)
        assert pick_device("auto") == torch.device(name)


def test_a_device_that_is_not_there_names_those_that_are(monkeypatch):
    with pytest.raises(UserError, match=r"no device 'mps' here; choose from auto, cpu$"):
        pick_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("mps") == torch.device("mps")
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 2)
    assert pick_device("xpu:1") == torch.device("xpu:1")
    with pytest.raises(
        UserError, match=r"captioner.device=xpu:2: .* choose from auto, cpu, mps, mps:0, xpu, xpu:0, xpu:1$"
    ):
        pick_device("xpu:2", "captioner.device")


def test_a_job_that_was_given_no_card_takes_the_cpu(tmp_path):
    """Slurm hides cards by cgroups: their files stay, with their rights, and cannot be opened."""
    driver_files(tmp_path)
    nvidia_smi(tmp_path, "No devices were found", code=6)
    assert pick_device("auto") == torch.device("cpu")


def test_half_precision_is_cudas_alone():
    kinds = {name: pick_dtype("auto", torch.device(name)) for name in ("cuda", "mps", "xpu", "cpu")}
    assert kinds == {"cuda": torch.float16, "mps": torch.float32, "xpu": torch.float32, "cpu": torch.float32}
    assert pick_dtype("bf16", torch.device("cuda")) == torch.bfloat16


@pytest.mark.parametrize(
    ("cuda", "driver", "said"),
    [
        ("13.0", "535.183.01", ["built for CUDA 13.0, needs driver 580 or newer", "driver 535.183.01", "whl/cu126"]),
        ("13.0", "470.82.01", ["needs driver 580", "install driver 580 or newer and a torch for CUDA 13"]),
        (None, "535.183.01", ["torch 2.13.0 is built without CUDA", "whl/cu126"]),
        (None, "580.65.06", ["is built without CUDA", "whl/cu130"]),
        ("13.0", "580.65.06", ["cannot use it (Torch not compiled with CUDA enabled); see what nvidia-smi says"]),
    ],
)
def test_a_card_that_torch_cannot_use_stops_auto(tmp_path, monkeypatch, cuda, driver, said):
    driver_files(tmp_path, driver)
    built_for(monkeypatch, cuda)
    monkeypatch.setattr(torch.cuda, "init", lambda: torch.empty(0, device="cuda"))
    for device in ("auto", "cuda"):
        with pytest.raises(UserError) as caught:
            pick_device(device)
        message = str(caught.value)
        assert "\n" not in message and message.endswith("model.device=cpu takes the CPU")
        assert not [part for part in said if part not in message], message
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="is there, but"):
        load_stable_diffusion(BUNDLED)
    for finding in (computes.check_device("auto", "auto"), machine.check_memory(None, "auto", "auto", None, 1)):
        assert finding.status == "MISSING" and said[0] in finding.text


def test_a_card_that_is_hidden_on_purpose_is_left_alone(tmp_path, monkeypatch, capsys):
    driver_files(tmp_path)
    built_for(monkeypatch, "13.0")
    for value in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert pick_device("auto") == torch.device("cpu")
        assert capsys.readouterr().err == f"CUDA_VISIBLE_DEVICES={value!r} hides the GPU: the CPU computes\n"
    assert "CUDA_VISIBLE_DEVICES hides the GPU" in computes.check_device("auto", "auto").text
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    built_for(monkeypatch, "12.6")
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES='7' names none that torch can use; mend or unset it"):
        pick_device("auto")


def test_where_a_card_is_known_from(tmp_path, monkeypatch):
    assert devices.find_card() is None
    nvidia_smi(tmp_path, "NVIDIA H100 80GB HBM3, 550.54.15")
    assert devices.find_card() == Card("NVIDIA H100 80GB HBM3", "550.54.15")
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed, badly'\nexit 9\n")
    assert devices.find_card() is None  # the tool alone is no card
    driver_files(tmp_path)
    assert devices.find_card() == Card("", "535.183.01")
    monkeypatch.setattr(
        devices.os, "access", lambda *_: False
    )  # a job that asked for no card on a machine that has one
    assert devices.find_card() is None and pick_device("auto") == torch.device("cpu")


def test_torchs_own_warning_of_an_old_driver_is_not_said_twice(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(warnings.warn("driver too old", stacklevel=1)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pick_device("auto")
    assert not caught


def test_fp32_is_fp32_on_cuda_unless_tf32_is_asked_for(monkeypatch):
    flags = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [flag.allow_tf32 for flag in flags]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    keys = []
    try:
        set_tf32(torch.device("cpu"), not before[0])
        assert [flag.allow_tf32 for flag in flags] == before
        for allowed in (False, True):
            set_tf32(torch.device("cuda"), allowed)
            assert [flag.allow_tf32 for flag in flags] == [allowed, allowed]
            keys.append(computed_by(torch.device("cuda")))
    finally:
        for flag, value in zip(flags, before, strict=True):
            flag.allow_tf32 = value
    assert keys[0] != keys[1]  # latents of the one are not read by the other
    asked = []
    monkeypatch.setattr(stable_diffusion, "set_tf32", lambda device, allowed: asked.append((device.type, allowed)))
    load_stable_diffusion(BUNDLED, "cpu")
    assert asked == [("cpu", False)]


def test_nothing_of_cuda_is_asked_on_another_device(monkeypatch):
    """Copies to a device that is not CUDA wait: nothing there tells when a copy that nobody waited for has come."""
    asked = []

    class Faked:
        device = torch.device("mps")

        def to(self, *given, **named):
            asked.append((*given, named))
            return torch.ones(1)

        def pin_memory(self):
            pytest.fail("pinned")

    for name in ("Event", "current_stream", "empty_cache", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: pytest.fail("CUDA"))
    assert tensors.to_host(Faked())().item() == 1
    tensors.to_device(Faked(), torch.device("mps"))
    assert asked == [("cpu", {}), (torch.device("mps"), {})]


def test_the_doctor_names_the_build_and_a_precision_that_does_not_suit(monkeypatch):
    assert computes.check_device("cpu", "auto").text.startswith("cpu computes in fp32; torch 2.")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"MI300X-{i}")
    monkeypatch.setattr(torch.version, "hip", "6.4")
    found = computes.check_device("cuda:1", "auto")
    assert found.status == "ok" and "cuda:1 computes in fp16; MI300X-0, MI300X-1; torch" in found.text
    assert "built for ROCm 6.4: to torch, and here, AMD's cards are called cuda" in found.text
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated: emulated)
    assert computes.check_device("cuda", "bf16").status == "WARN"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert "half precision was not tried on mps" in computes.check_device("mps", "fp16").text
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 12 * 10**9)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 2 * 10**9)
    assert "mps has 10.00 GB free" in machine.check_memory(None, "mps", "auto", None, 1).text
