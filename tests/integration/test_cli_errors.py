"""Mistakes and broken input at the command line: one line that says what to do, or images that are left out."""

import dataclasses
import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastlt import Run, TrainConfig, cli
from fastlt.checkpoints.native import load, save

Outcome = tuple[int, str, str]


def train_arguments(data_root: Path, *more: object) -> list[object]:
    flags = "--backbone resnet8 --epochs 2 --batch-size 32 --lr 0.1 --image-size 32 --device cpu --num-threads 1"
    return ["train", "--dataset", "folder", "--data-root", data_root, *flags.split(), *more]


def refused(outcome: Outcome, start: str, *parts: str) -> None:
    """Assert one line on standard error that begins with `start` and has all `parts` in it, and status 2."""
    status, _, error = outcome
    assert status == 2, outcome
    lines = [line for line in error.splitlines() if line]
    assert len(lines) == 1, error
    assert lines[0].startswith(f"fastlt: {start}")
    for part in parts:
        assert part in lines[0]


def test_a_renamed_flag_is_proposed_under_its_new_name(fastlt: Callable[..., Outcome]) -> None:
    refused(fastlt("train", "--dataset", "glyphs_lt", "--trunk-lr", "0.1"), "--trunk-lr: ", "--backbone-lr")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("trian", ["command: got 'trian'", "'train'"]),
        ("data inf", ["command: got 'data inf'", "'data info'"]),
        ("train", ["--dataset: got none", "--data-root DIR"]),
        ("train --datset glyphs_lt", ["--datset: unknown flag; did you mean --dataset?"]),
        ("train --resume --otu nowhere", ["--otu: unknown flag; did you mean --out?"]),
        ("train -dataset glyphs_lt", ["-dataset: unknown flag; did you mean --dataset?"]),
        ("rebalance nowhere --taus 1", ["--taus: unknown flag; did you mean --tau?"]),
        ("predict --metod tau", ["--metod: unknown flag; did you mean --method?"]),
        ("reproduce --datset glyphs_lt", ["--datset: unknown flag; did you mean --dataset?"]),
        ("data synth --clases 3", ["--clases: unknown flag; did you mean --classes?"]),
        ("data split --uot x", ["--uot: unknown flag; did you mean --out?"]),
        ("data info --data-root d", ["--data-root: unknown flag; ROOT is given without a flag; see"]),
        ("evaluate --run r", ["--run: unknown flag; RUN is given without a flag; see"]),
        ("train --dataset glyph_lt", ["--dataset: got 'glyph_lt'", "'glyphs_lt'"]),
        ("train --dataset glyphs_lt --epoch 3", ["--epoch: ", "--epochs"]),
        ("train --dataset glyphs_lt --epochs three", ["--epochs: ", "'three'"]),
        ("train --dataset glyphs_lt --epochs 0", ["--epochs: got 0;"]),
        ("train --dataset glyphs_lt --backbone resnet5", ["--backbone: got 'resnet5'", "'resnet50'"]),
        ("train --dataset glyphs_lt --sampling balanced", ["--sampling: got 'balanced'"]),
        ("train --dataset glyphs_lt --device tpu", ["--device: got 'tpu'", "auto, cpu, cuda"]),
        ("train --dataset glyphs_lt --mean 124 116 104", ["--mean: got 124 116 104;", "--mean 0.486275 0.454902 0.4"]),
        ("train --dataset glyphs_lt --std 58 57 57", ["--std: got 58 57 57;", "--std 0.227451 0.223529 0.223529"]),
        ("train --dataset folder", ["--data-root: got none", "--dataset folder"]),
        ("train --data-root nowhere", ["--data-root: got nowhere,"]),
        ("train --resume", ["RUN: got none", "fastlt train --dataset"]),
        ("rebalance", ["RUN: got none", "fastlt train"]),
        ("evaluate", ["RUN: got none", "fastlt train"]),
        ("report", ["RUN: got none", "fastlt train"]),
        ("rebalance nowhere", ["nowhere: ", "run folder"]),
        ("rebalance --tau nan", ["--tau: got 'nan'"]),
        ("rebalance --tau -1", ["--tau: got '-1'"]),
        ("rebalance --tau inf", ["--tau: got 'inf'"]),
        ("rebalance --method taus", ["--method: got 'taus'", "'tau'"]),
        ("recipes folders", ["--dataset: got 'folders'", "'folder'"]),
        ("data info nowhere", ["--data-root: got nowhere,"]),
        ("data synth made --classes 0 --images 1 --max 1 --min 1", ["--classes: got 0;"]),
        ("data synth made", ["", "--classes"]),
        ("data verify --dataset inat --data-root .", ["--dataset: got 'inat'", "'inat2018'"]),
        ("data verify --dataset inat2018 --data-root nowhere", ["--data-root: got nowhere,"]),
        ("data verify --dataset places_lt --data-root .", ["--data-root: got .,", "Places_LT_train.txt", "--lists"]),
        ("data pack nowhere", ["--data-root: got nowhere,"]),
        ("train --dataset cifar10_lt --data-root .", ["--data-root: got .,", "cifar-10-python.tar.gz"]),
    ],
)
def test_mistakes_on_the_command_line(arguments: str, parts: list[str], fastlt: Callable[..., Outcome]) -> None:
    refused(fastlt(*arguments.split()), *parts)


@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        ("train --dataset glyphs_lt", "with --out"),
        ("demo", "with --out"),
        ("rebalance net.pth --data-root x", "work in"),
    ],
)
def test_a_folder_of_runs_that_cannot_be_written_has_a_way_out(
    command: str, remedy: str, monkeypatch: pytest.MonkeyPatch, fastlt: Callable[..., Outcome]
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "runs")

    monkeypatch.setattr("fastlt.run.begin_unused", denied)
    monkeypatch.setattr("fastlt.rebalancing.checkpoint.import_checkpoint", denied)
    refused(fastlt(*command.split()), "runs: Permission denied; ", remedy)


def test_a_denial_without_a_path_is_one_line(monkeypatch: pytest.MonkeyPatch, fastlt: Callable[..., Outcome]) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("fastlt.rebalancing.checkpoint.import_checkpoint", denied)
    refused(fastlt("rebalance", "net.pth", "--data-root", "x"), "[Errno 1] Operation not permitted")


def test_class_folders_only(data_root: Path, fastlt: Callable[..., Outcome]) -> None:
    shutil.copytree(data_root / "train", "mine/animals")
    refused(fastlt("train", "--data-root", "mine/animals"), "--data-root: got mine/animals,", "fastlt data split")


def test_a_root_one_level_too_deep(data_root: Path, fastlt: Callable[..., Outcome]) -> None:
    refused(
        fastlt("train", "--data-root", data_root / "train"),
        f"--data-root: got {data_root}/train,",
        f"give its parent {data_root}",
    )


def test_val_without_images(data_root: Path, fastlt: Callable[..., Outcome]) -> None:
    root = Path(shutil.copytree(data_root, "copy"))
    for path in (root / "val").rglob("*.jpg"):
        path.unlink()
    refused(fastlt(*train_arguments(root)), f"{root}/val: got an empty val split")


def test_an_error_of_ours_is_no_line_for_the_user(
    monkeypatch: pytest.MonkeyPatch, fastlt: Callable[..., Outcome]
) -> None:
    def mistaken(_argv: object) -> None:
        raise RuntimeError("index 3 is out of range")

    monkeypatch.setattr(cli, "dispatch", mistaken)
    with pytest.raises(RuntimeError, match="index 3"):
        fastlt("train")


def test_a_full_gpu_is_one_line(monkeypatch: pytest.MonkeyPatch, fastlt: Callable[..., Outcome]) -> None:
    def full(_argv: object) -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ..."
        )

    monkeypatch.setattr(cli, "dispatch", full)
    refused(fastlt("evaluate"), "CUDA out of memory. Tried to allocate 2.00 GiB", "--device cpu")


def test_an_existing_run_folder_is_not_overwritten(
    run_copy: Run, data_root: Path, fastlt: Callable[..., Outcome]
) -> None:
    before = run_copy.checkpoint("last").read_bytes()
    refused(fastlt(*train_arguments(data_root, "--out", run_copy.path)), f"--out: got {run_copy.path},", "--resume")
    assert run_copy.checkpoint("last").read_bytes() == before


def test_a_half_written_checkpoint(run_copy: Run, fastlt: Callable[..., Outcome]) -> None:
    for name in ("best", "last"):
        path = run_copy.checkpoint(name)
        path.write_bytes(path.read_bytes()[:-1000])
    refused(fastlt("rebalance", run_copy.path), str(run_copy.checkpoint("best")), "cannot be read")
    refused(
        fastlt("train", "--resume", "--out", run_copy.path, "--device", "cpu"),
        str(run_copy.checkpoint("last")),
        "cannot be read",
    )


def test_a_checkpoint_of_another_network(run_copy: Run, fastlt: Callable[..., Outcome]) -> None:
    path = run_copy.path / "config.json"
    config = dataclasses.replace(run_copy.config, backbone="resnet10")
    path.write_text(json.dumps(config.to_json()))
    refused(fastlt("evaluate", run_copy.path), f"{run_copy.checkpoint('best')}: ", "--backbone")


def test_a_checkpoint_of_another_number_of_classes(run_copy: Run, fastlt: Callable[..., Outcome]) -> None:
    tensors, metadata = load(run_copy.checkpoint("best"))
    tensors["fc.weight"], tensors["fc.bias"] = tensors["fc.weight"][:7], tensors["fc.bias"][:7]
    save(run_copy.checkpoint("best"), tensors, metadata)
    refused(fastlt("evaluate", run_copy.path), f"{run_copy.checkpoint('best')}: ", "fc.weight", "[7, 128]", "[10, 128]")


def test_a_run_without_checkpoint(run_copy: Run, fastlt: Callable[..., Outcome]) -> None:
    run_copy.checkpoint("best").unlink()
    refused(fastlt("rebalance", run_copy.path), f"{run_copy.path}: ", "fastlt train --resume")
    run_copy.checkpoint("last").unlink()
    refused(fastlt("rebalance", run_copy.path), f"{run_copy.path}: ", "fastlt train --resume")


def test_a_split_the_data_lack(run_copy: Run, fastlt: Callable[..., Outcome]) -> None:
    data = json.loads((run_copy.path / "data.json").read_text())
    del data["splits"]["test"]
    (run_copy.path / "data.json").write_text(json.dumps(data))
    refused(fastlt("evaluate", run_copy.path, "--split", "test"), "--split: got test", "expected val or all;")


def test_a_classifier_that_was_not_made(run_copy: Run, fastlt: Callable[..., Outcome]) -> None:
    refused(fastlt("evaluate", run_copy.path, "--method", "tau"), "--method: got tau, ", "fastlt rebalance")


def test_a_full_disk(run_copy: Run, monkeypatch: pytest.MonkeyPatch, fastlt: Callable[..., Outcome]) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")  # as a failed write, without a name

    before = sorted(path for path in run_copy.path.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr("fastlt.checkpoints.native.write_tensors", full)
        refused(
            fastlt("rebalance", run_copy.path, "--tau", "0.7"),
            str(run_copy.method("tau") / "model.safetensors: "),
            "No space left",
            "--resume",
        )
    left = {path.name for path in run_copy.path.rglob("*")} - {path.name for path in before} - {".lock"}
    assert not any(name.endswith(".safetensors") or name.startswith(".") for name in left)


def test_diverging_training_says_what_to_lower(data_root: Path, fastlt: Callable[..., Outcome]) -> None:
    refused(fastlt(*train_arguments(data_root, "--lr", "1e30", "--precision", "fp32")), "--lr: got ", "1e+30")


def test_an_image_that_breaks_during_training_is_replaced_and_named(
    small_config: TrainConfig, data_root: Path, fastlt: Callable[..., Outcome]
) -> None:
    root = Path(shutil.copytree(data_root, "copy")).resolve()
    status, _, err = fastlt("data", "info", root)  # index the files while they are whole
    assert status == 0, err
    victim = sorted((root / "train").rglob("*.jpg"))[0]
    stat = victim.stat()
    victim.write_bytes(bytes(stat.st_size))
    import os

    os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    status, out, err = fastlt(*train_arguments(root))
    assert status == 0, err
    assert victim.name in out


def test_all_kinds_of_images_train(tmp_path: Path, fastlt: Callable[..., Outcome]) -> None:
    rng = np.random.default_rng(0)

    def picture() -> Image.Image:
        return Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))

    def write(folder: Path, start: int) -> None:
        folder.mkdir(parents=True)
        exif = Image.Exif()
        exif[0x0112] = 6
        picture().save(folder / f"{start}-plain.jpg")
        picture().convert("CMYK").save(folder / f"{start}-cmyk.jpg")
        picture().convert("L").save(folder / f"{start}-grey.jpg")
        picture().save(folder / f"{start}-rotated.jpg", exif=exif)
        picture().save(folder / f"{start}-progressive.jpg", progressive=True)
        picture().convert("RGBA").save(folder / f"{start}-alpha.png")
        picture().convert("P").save(folder / f"{start}-palette.png")
        Image.fromarray(rng.integers(0, 65536, (40, 50), dtype=np.uint16)).save(folder / f"{start}-deep.png")
        picture().save(folder / f"{start}-animated.gif", save_all=True, append_images=[picture()])
        picture().save(folder / f"{start}-misnamed.jpg", format="PNG")

    for index, name in enumerate(("cat", "dog")):
        write(Path("images/train") / name, index)
        write(Path("images/val") / name, index + 10)
    (Path("images/train/cat") / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (Path("images/train/cat") / "empty.jpg").write_bytes(b"")
    losses = {}
    for loader in ("memory", "device", "pillow", "dali"):
        status, out, err = fastlt(
            *train_arguments(Path("images"), "--batch-size", 10, "--loader", loader, "--out", f"run-{loader}")
        )
        assert status == 0, (loader, err)
        assert "skipped" in out
        records = Path(f"run-{loader}/metrics.jsonl").read_text().splitlines()
        losses[loader] = [json.loads(line)["loss"] for line in records]
    assert losses["device"] == losses["memory"] == losses["pillow"]  # whoever jitters and normalises
    refused(
        fastlt(*train_arguments(Path("images"), "--strict", "--out", "strict")),
        f"{Path.cwd()}/images/train: got 2 of ",
        "broken.jpg",
    )


def test_a_file_in_the_way_of_out_is_named_with_a_way_out(fastlt: Callable[..., Outcome]) -> None:
    Path("afile").write_text("")
    refused(fastlt(*["train", "--dataset", "glyphs_lt", "--out", "afile/run"]), "afile", "another path with --out")


def test_lists_that_cannot_be_written_have_a_way_out(
    monkeypatch: pytest.MonkeyPatch, fastlt: Callable[..., Outcome]
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "set/lists")

    monkeypatch.setattr("fastlt.data.layouts.split.split_folder", denied)
    monkeypatch.setattr("fastlt.data.split_folder", denied)
    refused(fastlt("data", "split", "set"), "set/lists: Permission denied; ", "with --out")
