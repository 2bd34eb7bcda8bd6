"""A published set that is not lists is one object and one row of the registry."""

from pathlib import Path

import numpy as np
import pytest

from fastlt.cli import dispatch
from fastlt.config import TrainConfig
from fastlt.data import GlyphSpec, LongTailedDataset, glyphs_lt
from fastlt.data.inspection.verification import Verification, check_count
from fastlt.data.published.interface import DataOptions, PublishedSet
from fastlt.data.registry import PUBLISHED, open_data
from fastlt.data.synthetic.published_shape import Shape

SPEC = GlyphSpec(max_count=2, min_count=1, val_per_class=1, test_per_class=1)


class Glyphs:
    """A set of its own kind: it is painted."""

    name, title, contents, remedy = "my_glyphs", "My Glyphs", "the glyphs", "paint them again"

    def open(self, root: Path, options: DataOptions) -> dict[str, LongTailedDataset]:
        return glyphs_lt(SPEC, num_workers=1)

    def shape(self, options: DataOptions) -> Shape:
        return Shape(counts=np.array([3, 2]), held={"val": 1})

    def verify(self, root: Path, options: DataOptions) -> Verification:
        checks = (check_count("train images", 7, 3 + options.seed),)
        return Verification(
            dataset=self.name,
            root=root,
            num_images={"train": 3},
            checks=checks,
            missing={},
            unreadable=(),
            num_bytes=0,
            decode_ms=None,
            num_sampled=0,
        )


@pytest.fixture(autouse=True)
def glyphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PublishedSet:
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "cache"))
    published = Glyphs()
    monkeypatch.setitem(PUBLISHED, published.name, published)
    return published


def test_it_opens_and_is_made_up(tmp_path: Path) -> None:
    config = TrainConfig(dataset="my_glyphs", data_root=tmp_path)
    assert open_data(config)["val"].num_classes == 100
    made_up = open_data(TrainConfig(dataset="my_glyphs", synthetic=True, num_threads=1))
    assert sorted(made_up["train"].class_counts.tolist()) == [2, 3]
    with pytest.raises(ValueError, match=r"^--data-root: got none\b.*--dataset my_glyphs\b.*\bglyphs, or --synthetic"):
        open_data(TrainConfig(dataset="my_glyphs"))


def test_it_is_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "verify", "--dataset", "my_glyphs", "--data-root", str(tmp_path)]
    with pytest.raises(ValueError, match=rf"^--data-root: got {tmp_path}, .*train images 3, expected 7.*paint them"):
        dispatch(command)
    dispatch([*command, "--data-seed", "4"])
    assert f"--dataset my_glyphs --data-root {tmp_path} --data-seed 4" in capsys.readouterr().out.replace("\n", "")
