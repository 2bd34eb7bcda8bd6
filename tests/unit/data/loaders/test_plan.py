"""What stands in for broken samples, what evaluation batches hold, and how much memory is free."""

import errno
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastlt.data.dataset import LongTailedDataset
from fastlt.data.loaders.plan import EvalPlan, Replacement, StandIns, UnreadableImageError, ViewPlan, read_image
from fastlt.data.transforms.augmentation import Augmentation, EvalTransform
from fastlt.runtime import machine

LABELS = np.array([0, 1, 0, 1, 0, 2])


@pytest.fixture
def dataset(tmp_path: Path) -> LongTailedDataset:
    return LongTailedDataset(
        root=tmp_path,
        paths=tuple(f"{index}.jpg" for index in range(6)),
        labels=LABELS,
        sizes=np.full((6, 2), 10, np.int32),
        native=np.ones(6, np.bool_),
        class_names=("a", "b", "c"),
        split="train",
        fingerprint="0",
    )


def test_the_next_of_the_class_stands_in_and_the_first_follows_the_last(dataset: LongTailedDataset) -> None:
    stand_ins = StandIns(dataset)
    everything = np.arange(6)
    assert stand_ins.resolve(everything) is everything
    stand_ins.mark({4: "torn", 1: "burnt"})
    assert stand_ins.resolve(everything).tolist() == [0, 3, 2, 3, 0, 5]
    stand_ins.mark({0: "lost"})
    assert stand_ins.resolve(everything).tolist() == [2, 3, 2, 3, 2, 5]
    assert stand_ins.replaced == [
        Replacement("4.jpg", "torn", "2.jpg"),
        Replacement("1.jpg", "burnt", "3.jpg"),
        Replacement("0.jpg", "lost", "2.jpg"),
    ]


def test_a_sample_is_named_once(dataset: LongTailedDataset, caplog: pytest.LogCaptureFixture) -> None:
    stand_ins = StandIns(dataset)
    stand_ins.mark({4: "torn"})
    stand_ins.mark({4: "torn again"})
    assert len(stand_ins.replaced) == 1
    assert len(caplog.records) == 1


def test_a_class_with_nothing_left_is_an_error(dataset: LongTailedDataset) -> None:
    with pytest.raises(ValueError, match=r"/5\.jpg: got .*\(torn\).*\bclass c\b"):
        StandIns(dataset).mark({5: "torn"})


def test_jitter_goes_with_its_order_or_not_at_all(dataset: LongTailedDataset) -> None:
    for jitter in (0.0, 0.4):
        view = ViewPlan(dataset=dataset, augmentation=Augmentation(size=8, jitter=jitter), batch_size=4, seed=1, view=2)
        works = [view.work(position, StandIns(dataset)) for position in range(len(view))]
        assert [work.ids.tolist() for work in works] == [[0, 1, 2, 3], [4, 5]]
        for work in works:
            assert (work.jitter is None, work.order is None) == (jitter == 0, jitter == 0)
            assert work.windows is not None
            assert work.boxes is None


def test_a_view_is_keyed_by_its_number_and_the_sample(dataset: LongTailedDataset) -> None:
    def windows(view: int, **options: int) -> np.ndarray:
        augmentation = Augmentation(size=8)
        plan = ViewPlan(dataset=dataset, augmentation=augmentation, seed=1, view=view, **{"batch_size": 6, **options})
        found = [plan.work(position, StandIns(dataset)).windows for position in range(len(plan))]
        return np.concatenate([each for each in found if each is not None])

    np.testing.assert_array_equal(windows(1), windows(1, batch_size=2))
    np.testing.assert_array_equal(windows(1)[3:], windows(1, start=3, batch_size=2))
    expected = Augmentation(size=8).draw(3 << 44, dataset.sizes, seed=1).windows
    np.testing.assert_array_equal(windows(3), expected)
    assert (windows(1) != windows(2)).any()


def test_an_image_of_another_size_than_when_it_was_indexed_is_broken(dataset: LongTailedDataset) -> None:
    Image.new("RGB", (10, 10)).save(dataset.path(0))
    assert read_image(dataset, 0).shape == (10, 10, 3)
    Image.new("RGB", (10, 11)).save(dataset.path(0))
    with pytest.raises(UnreadableImageError, match=r"^10 x 11 pixels.*\b10 x 10\b"):
        read_image(dataset, 0)


def test_a_plan_for_evaluation_cuts_its_samples_into_batches(dataset: LongTailedDataset) -> None:
    indices = np.array([5, 0, 2, 2])
    plan = EvalPlan(dataset=dataset, transform=EvalTransform(size=4, resize=5), batch_size=3, indices=indices)
    assert len(plan) == 2
    assert plan.samples.tolist() == [0, 2, 5]
    works = [plan.work(position, StandIns(dataset)) for position in range(2)]
    assert [work.ids.tolist() for work in works] == [[5, 0, 2], [2]]
    assert works[0].boxes is not None
    assert works[0].boxes.shape == (3, 4)


def test_only_the_files_own_faults_make_it_unreadable(
    dataset: LongTailedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnreadableImageError, match="No such file"):
        read_image(dataset, 0)
    dataset.path(1).write_bytes(b"nonsense")
    with pytest.raises(UnreadableImageError, match=r"^not an image"):
        read_image(dataset, 1)

    def out_of_descriptors(_data: bytes, _name: str) -> np.ndarray:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("fastlt.data.loaders.plan.decode_bytes", out_of_descriptors)
    with pytest.raises(OSError, match="Too many open files"):
        read_image(dataset, 1)


def test_the_control_groups_round_the_process_limit_the_free_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, groups = tmp_path / "own", tmp_path / "groups"
    monkeypatch.setattr(machine, "OWN_GROUPS", own)
    monkeypatch.setattr(machine, "GROUPS", groups)
    free = machine.available_bytes()
    assert free > 10**6
    job = groups / "slice" / "job"
    job.mkdir(parents=True)
    own.write_text("1:cpu:/elsewhere\n0::/slice/job\n")
    for folder, limit in ((job, "max"), (job.parent, "1000000")):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text("700000\n")
        (folder / "memory.stat").write_text("anon 1\ninactive_file 50000\n")
    assert machine.available_bytes() == 350_000
    (job.parent / "memory.max").write_text("max\n")
    assert machine.available_bytes() > 10**6


def test_the_older_kind_of_control_group_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(machine, "GROUPS", tmp_path)
    (tmp_path / "own").write_text("7:cpu,memory:/\n")
    folder = tmp_path / "memory"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text("900000\n")
    (folder / "memory.usage_in_bytes").write_text("600000\n")
    (folder / "memory.stat").write_text("total_inactive_file 100000\n")
    assert machine.available_bytes() == 400_000
