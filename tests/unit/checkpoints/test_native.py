"""Files that are whole or not there."""

import errno
from pathlib import Path

import pytest
import torch

from fastlt.checkpoints import native
from fastlt.files import read_json, replacing, write_json
from fastlt.models import create_model
from fastlt.run import Run
from fastlt.training.state import read_last


def test_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "model.safetensors"
    tensors = {
        "a": torch.randn(3, 4),
        "b": torch.arange(5),
        "c": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }
    native.save(path, tensors, {"step": 7, "best": None})
    loaded, metadata = native.load(path)
    assert metadata == {"step": 7, "best": None}
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})

    def fail_halfway() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail_halfway()
    assert read_json(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["value.json"]


@pytest.mark.parametrize("keep", [0, 5, 8, 200, -10])
def test_a_half_written_checkpoint_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "model.safetensors"
    native.save(path, {"a": torch.randn(100)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=rf"^{path}: "):
        native.load(path)


def test_a_half_written_last_checkpoint_says_whether_the_best_is_whole(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for name in ("best", "last"):
        native.save(run.checkpoint(name), {"a": torch.zeros(1)})
    run.checkpoint("last").write_bytes(run.checkpoint("last").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"last\.safetensors: .*best\.safetensors.*--init"):
        read_last(run)
    run.checkpoint("best").write_bytes(b"")
    with pytest.raises(ValueError, match=r"last\.safetensors: (?!.*best\.safetensors)"):
        read_last(run)


def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=rf"^{path}: .*safetensors file"):
        native.load(path)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors: "):
        native.load(tmp_path / "none.safetensors")


def test_another_network_is_refused() -> None:
    state = create_model("resnet10", 5).state_dict()
    with pytest.raises(ValueError, match=r"^x: .*18 not expected .*layer4.*--backbone"):
        native.load_into(create_model("resnet8", 5), state, source=Path("x"))


def test_another_number_of_classes_is_refused() -> None:
    state = create_model("resnet8", 6).state_dict()
    with pytest.raises(ValueError, match=r"^x: .*fc\.weight .*\[6, 128\].*\[5, 128\]"):
        native.load_into(create_model("resnet8", 5), state, source=Path("x"))


def test_json_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": ')
    with pytest.raises(ValueError, match=r"config\.json: .*JSON"):
        read_json(path)
