"""Pictures of every kind come out of every loader, to the same pixels within the decoders' tolerance."""

import importlib.util
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastlt.data.dataset import LongTailedDataset
from fastlt.data.loaders.loader import eval_loader
from fastlt.data.transforms.augmentation import EvalTransform
from fastlt.runtime.cache import cache_dir

needs_dali = pytest.mark.skipif(importlib.util.find_spec("nvidia.dali") is None, reason="DALI is not installed")


@pytest.fixture
def odd_dataset(tmp_path: Path) -> LongTailedDataset:
    """One picture in many formats, each a file of the only class."""
    folder = tmp_path / "odd" / "picture"
    folder.mkdir(parents=True)
    ramp = np.linspace(0, 255, 96 * 64).reshape(64, 96)
    picture = Image.fromarray(np.stack([ramp, ramp[::-1], np.roll(ramp, 30, 1)], 2).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter turn
    picture.save(folder / "a_plain.jpg", quality=95)
    picture.save(folder / "b_progressive.jpg", quality=95, progressive=True)
    picture.save(folder / "c_rotated.jpg", quality=95, exif=exif)
    picture.convert("L").save(folder / "d_grey.jpg", quality=95)
    picture.convert("CMYK").save(folder / "e_cmyk.jpg", quality=95)
    Image.fromarray((ramp * 257).astype(np.uint16)).save(folder / "f_sixteen_bits.png")
    picture.save(folder / "g_plain.png")
    picture.convert("RGBA").save(folder / "h_alpha.png")
    picture.quantize(64).save(folder / "i_palette.png")
    picture.save(folder / "j_animated.gif", save_all=True, append_images=[picture.rotate(180)])
    picture.save(folder / "k_really_a.jpg", format="PNG")
    picture.save(folder / "l_really_a.png", format="JPEG", quality=95)
    picture.save(folder / "m.webp", quality=95)
    picture.save(folder / "n.bmp")
    return LongTailedDataset.from_folder(folder.parent, cache=False)


def load(dataset: LongTailedDataset, backend: str) -> torch.Tensor:
    with eval_loader(
        dataset, EvalTransform(size=32, resize=36), batch_size=5, backend=backend, num_threads=2
    ) as loader:
        images = torch.cat([batch.images for batch in loader])
        assert loader.replaced == []
    return images


def test_pillow_and_memory_agree_in_every_bit(odd_dataset: LongTailedDataset) -> None:
    assert not odd_dataset.native.all()
    assert torch.equal(load(odd_dataset, "pillow"), load(odd_dataset, "memory"))


@needs_dali
def test_dali_agrees_within_tolerance(odd_dataset: LongTailedDataset) -> None:
    error = (load(odd_dataset, "dali").int() - load(odd_dataset, "memory").int()).abs()
    for index, path in enumerate(odd_dataset.paths):
        assert error[index].max() <= 4, path
        assert error[index].float().mean() < 0.5, path


@needs_dali
def test_what_dali_cannot_decode_is_converted_once_and_said(
    odd_dataset: LongTailedDataset, caplog: pytest.LogCaptureFixture
) -> None:
    count = int((~odd_dataset.native).sum())
    folder = cache_dir() / "converted-2" / odd_dataset.fingerprint
    folder.mkdir(parents=True)
    (folder / f".0.png.{2**22 + 1}.partial").write_bytes(b"of a process that was killed")
    with caplog.at_level(logging.INFO, "fastlt"):
        first = load(odd_dataset, "dali")
        assert f"converted {count} images" in caplog.text
        caplog.clear()
        assert torch.equal(load(odd_dataset, "dali"), first)
        assert "converted" not in caplog.text
    assert len(list(folder.iterdir())) == count


@needs_dali
@pytest.mark.parametrize("damage", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_a_converted_file_that_is_damaged_is_made_anew(damage: bytes, odd_dataset: LongTailedDataset) -> None:
    first = load(odd_dataset, "dali")
    for file in (cache_dir() / "converted-2" / odd_dataset.fingerprint).iterdir():
        file.write_bytes(damage)
    assert torch.equal(load(odd_dataset, "dali"), first)


@needs_dali
def test_a_broken_file_among_the_converted_is_replaced(
    odd_dataset: LongTailedDataset, caplog: pytest.LogCaptureFixture
) -> None:
    at = odd_dataset.paths.index("picture/j_animated.gif")
    odd_dataset.path(at).write_bytes(b"GIF89a")
    with eval_loader(
        odd_dataset, EvalTransform(size=32, resize=36), batch_size=5, backend="dali", num_threads=1
    ) as loader:
        ids = np.concatenate([batch.ids for batch in loader])
    assert ids[at] == at + 1
    assert [found.path for found in loader.replaced] == ["picture/j_animated.gif"]


@pytest.mark.parametrize("backend", ["memory", "pillow", pytest.param("dali", marks=needs_dali)])
def test_fine_stripes_shrink_to_grey(backend: str, tmp_path: Path) -> None:
    folder = tmp_path / "fine" / "stripes"
    folder.mkdir(parents=True)
    stripes = np.zeros((600, 900, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(folder / "0.png")
    inner = load(LongTailedDataset.from_folder(folder.parent, cache=False), backend)[0, 4:-4, 4:-4].int()
    assert (inner - 127).abs().max() <= 6
