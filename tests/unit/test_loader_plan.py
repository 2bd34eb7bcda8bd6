"""What stands in for broken samples, what evaluation batches hold, and how much memory is free."""

import errno
from pathlib import Path

import numpy as np
import pytest

from fastlt.data import memory
from fastlt.data.augmentation import EvalTransform
from fastlt.data.dataset import LongTailedDataset
from fastlt.data.plan import EvalPlan, Replacement, StandIns, UnreadableImageError, read_image

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
    with pytest.raises(ValueError, match=r"class c: none of its 1 train images can be read, .*5\.jpg for one \(torn\)"):
        StandIns(dataset).mark({5: "torn"})


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

    def out_of_descriptors(path: Path) -> np.ndarray:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("fastlt.data.plan.decode_rgb", out_of_descriptors)
    with pytest.raises(OSError, match="Too many open files"):
        read_image(dataset, 1)


def test_the_control_groups_round_the_process_limit_the_free_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, groups = tmp_path / "own", tmp_path / "groups"
    monkeypatch.setattr(memory, "_OWN_GROUPS", own)
    monkeypatch.setattr(memory, "_GROUPS", groups)
    free = memory.available_bytes()
    assert free > 10**6
    job = groups / "slice" / "job"
    job.mkdir(parents=True)
    own.write_text("1:cpu:/elsewhere\n0::/slice/job\n")
    for folder, limit in ((job, "max"), (job.parent, "1000000")):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text("700000\n")
        (folder / "memory.stat").write_text("anon 1\ninactive_file 50000\n")
    assert memory.available_bytes() == 350_000
    (job.parent / "memory.max").write_text("max\n")
    assert memory.available_bytes() > 10**6


def test_the_older_kind_of_control_group_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    (tmp_path / "own").write_text("7:cpu,memory:/\n")
    folder = tmp_path / "memory"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text("900000\n")
    (folder / "memory.usage_in_bytes").write_text("600000\n")
    (folder / "memory.stat").write_text("total_inactive_file 100000\n")
    assert memory.available_bytes() == 400_000
