"""What the doctor says of something that is missing: what stands in, what that costs, and how to get it."""

import importlib.metadata
import shutil

import pytest
import torch

from fastlt.commands import doctor
from fastlt.data.loaders import loader
from fastlt.runtime import device as runtime_device


def absent(name: str) -> str:
    raise importlib.metadata.PackageNotFoundError(name)


def test_without_dali_or_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", absent)
    dali, triton = doctor.check_dali(), doctor.check_triton()
    assert (dali.state, triton.state) == ("absent", "absent")
    assert "pip install nvidia-dali-cuda130" in dali.advice
    assert "pip install triton" in triton.advice


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    finding = doctor.check_compiler()
    assert finding.state == "absent"
    assert "slower steps" in finding.advice
    assert "install" in finding.advice


def test_dalis_own_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_backend: str) -> None:
        raise ValueError("--loader dali: does not work") from RuntimeError("the driver is too old\nfor it")

    monkeypatch.setattr(importlib.metadata, "version", lambda _: "2.4")
    monkeypatch.setattr(doctor, "load_test_image", broken)
    finding = doctor.check_dali()
    assert (finding.state, finding.detail) == ("broken", "2.4: the driver is too old")


def test_it_compiles_and_decodes_where_a_training_would(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[torch.device] = []

    def decoded(*_: object, device: torch.device, **__: object) -> None:
        used.append(device)
        raise RuntimeError("seen")

    monkeypatch.setattr(runtime_device, "resolve_device", lambda _: torch.device("meta"))
    monkeypatch.setattr(shutil, "which", lambda _: "g++")
    monkeypatch.setattr(torch, "compile", lambda _: lambda x: used.append(x.device))
    monkeypatch.setattr(loader, "eval_loader", decoded)
    assert doctor.check_compiler().state == "ok"
    with pytest.raises(RuntimeError, match="seen"):
        doctor.load_test_image("dali")
    assert [device.type for device in used] == ["meta", "meta"]
