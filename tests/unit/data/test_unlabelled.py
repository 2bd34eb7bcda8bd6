"""Images without labels, from files and folders."""

from pathlib import Path

import pytest
from PIL import Image

from fastlt.data.unlabelled import unlabelled_images

NAMES = ("ant", "bee")


def test_images_are_found_at_any_depth_and_broken_ones_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for path in (tmp_path / "x.png", tmp_path / "a" / "b" / "y.png"):
        Image.new("RGB", (8, 6)).save(path)
    (tmp_path / "broken.png").write_bytes(b"no image")
    found = unlabelled_images([tmp_path], NAMES, flag="IMAGES")
    assert (found.root, found.paths) == (tmp_path, ("x.png", "a/b/y.png"))
    assert [file.path for file in found.skipped] == ["broken.png"]
    assert found.sizes.tolist() == [[8, 6], [8, 6]]
    assert caplog.messages == ["IMAGES: 1 of 3 files are not complete images"]
    mixed = unlabelled_images([tmp_path / "a", tmp_path / "x.png"], NAMES, flag="IMAGES")
    assert (mixed.root, mixed.paths) == (tmp_path, ("a/b/y.png", "x.png"))
    monkeypatch.chdir(tmp_path)
    apart = unlabelled_images([Path("a"), tmp_path / "x.png"], NAMES, flag="IMAGES")
    assert (apart.root, apart.paths) == (tmp_path, ("a/b/y.png", "x.png"))
    near = unlabelled_images([Path("a"), Path("x.png")], NAMES, flag="IMAGES")
    assert (near.root, near.paths) == (Path(), ("a/b/y.png", "x.png"))
    assert len(caplog.messages) == 1  # nothing is wrong with these


def test_what_holds_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^IMAGES: .*{tmp_path}"):
        unlabelled_images([tmp_path], NAMES, flag="IMAGES")
    with pytest.raises(FileNotFoundError, match=rf"^IMAGES: got {tmp_path}/absent\b"):
        unlabelled_images([tmp_path / "absent"], NAMES, flag="IMAGES")
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"^IMAGES: .*\b1 file.*broken\.png"):
        unlabelled_images([tmp_path / "broken.png"], NAMES, flag="IMAGES")
