import errno
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlt.data import describe, open_splits, synthesize
from fastlt.data.inspection.summary import gini
from fastlt.data.layouts.layout import UNFINISHED
from fastlt.data.synthetic import processes
from fastlt.data.synthetic.any_shape import MAX_CLASSES, class_name, class_style, count_profile
from fastlt.files import owned

SHAPE = {"num_classes": 7, "num_images": 60, "max_count": 20, "min_count": 2, "size": 16}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("classes", "images", "largest", "smallest"),
    [(1000, 115_846, 1280, 5), (365, 62_500, 4980, 5), (8142, 437_513, 1000, 2), (10, 100, 10, 10), (1, 9, 9, 9)],
)
def test_profiles_of_the_known_data_sets_are_met_exactly(classes, images, largest, smallest):
    counts = count_profile(classes, images, max_count=largest, min_count=smallest)
    assert (counts.size, counts.sum(), counts.max(), counts.min()) == (classes, images, largest, smallest)
    assert (np.diff(counts) <= 0).all()


@given(st.data())
def test_every_possible_profile_is_met_exactly(data):
    classes = data.draw(st.integers(2, 400))
    smallest = data.draw(st.integers(1, 50))
    largest = data.draw(st.integers(smallest, 5000))
    images = data.draw(
        st.integers(largest + (classes - 1) * smallest, (classes - 1) * largest + smallest), label="images"
    )
    counts = count_profile(classes, images, max_count=largest, min_count=smallest)
    assert (counts.size, counts.sum(), counts[0], counts[-1]) == (classes, images, largest, smallest)
    assert (np.diff(counts) <= 0).all()


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        ((10, 50, 20, 5), r"^--images: got 50;.*\b65 to 185\b"),
        ((10, 500, 20, 5), r"^--images: got 500;.*\b65 to 185\b"),
        ((10, 100, 5, 20), "^--min: got 20 with --max 5 "),
        ((10, 100, 5, 0), "^--min: got 0 with --max 5 "),
        ((1, 5, 5, 4), "^--min: got 4 with --max 5 "),
    ],
)
def test_impossible_profiles_say_what_is_possible(arguments, pattern):
    classes, images, largest, smallest = arguments
    with pytest.raises(ValueError, match=pattern):
        count_profile(classes, images, max_count=largest, min_count=smallest)


@pytest.mark.parametrize("classes", [100, 101, 1000, 8142, MAX_CLASSES])
def test_no_two_classes_look_the_same(classes):
    assert len({class_style(label, classes) for label in range(classes)}) == classes
    assert len({class_name(label, classes) for label in range(classes)}) == classes


def test_the_counts_of_an_exponential_sum_are_exponential():
    assert count_profile(5, 31, max_count=16, min_count=1).tolist() == [16, 8, 4, 2, 1]
    flat, steep = (count_profile(5, total, max_count=16, min_count=1).tolist() for total in (40, 26))
    # max (min / max)^(x^p), of the p that meets the sum
    assert flat == [16, 13, 7, 3, 1]
    assert steep == [16, 5, 3, 1, 1]


def test_a_small_set_has_its_shape(tmp_path):
    done = []
    root = synthesize(tmp_path / "out", **SHAPE, val_per_class=2, test_per_class=1, num_workers=2, progress=done.append)
    splits = open_splits(root)
    assert sum(done) == 60 + 14 + 7
    facts = describe(splits)
    assert facts["num_classes"] == 7
    assert facts["imbalance_ratio"] == 10
    assert [facts["splits"][split]["num_images"] for split in splits] == [60, 14, 7]
    assert (splits["train"].class_counts.max(), splits["train"].class_counts.min()) == (20, 2)
    assert (splits["train"].sizes == 16).all()
    assert facts["splits"]["train"]["num_native"] == 60
    assert sorted(folder.name for folder in (root / "val").iterdir()) == [f"{label:04}" for label in range(7)]
    falling = sorted(splits["train"].class_counts.tolist(), reverse=True)
    assert [count for _, count in facts["largest"]] == falling[:5]
    assert [count for _, count in facts["smallest"]] == falling[:1:-1]


def test_more_classes_than_characters_and_colours(tmp_path):
    root = synthesize(
        tmp_path / "out",
        num_classes=1010,
        num_images=1010,
        max_count=1,
        min_count=1,
        size=16,
        val_per_class=1,
        test_per_class=0,
    )
    splits = open_splits(root)
    assert list(splits) == ["train", "val"]
    assert splits["train"].class_names[1003] == class_name(1003, 1010) == "E black 1"
    assert set(splits["train"].class_counts) == {1}


def test_an_interrupted_call_goes_on_where_it_stopped(tmp_path):
    whole = synthesize(tmp_path / "whole", **SHAPE, num_workers=1)

    def interrupt(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "part", **SHAPE, num_workers=1, progress=interrupt)
    aside = tmp_path / "part" / UNFINISHED
    there = {file.relative_to(aside): file.stat().st_mtime_ns for file in aside.rglob("*.jpg")}
    assert 0 < len(there) < len(list(whole.rglob("*.jpg")))
    part = synthesize(tmp_path / "part", **SHAPE, num_workers=1)
    assert all((part / file).stat().st_mtime_ns == time for file, time in there.items())

    assert contents(part) == contents(whole)


def contents(root):
    return {file.relative_to(root): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def test_a_call_killed_at_any_point_goes_on_and_its_half_is_no_data_set(tmp_path, killed_at):
    shape = {"num_classes": 2, "num_images": 3, "max_count": 2, "min_count": 1, "size": 8, "num_workers": 1}
    whole = contents(synthesize(tmp_path / "whole", **shape, val_per_class=1, test_per_class=1))
    for number in range(0, 1000, 3):
        out = tmp_path / f"out{number}"
        if not killed_at(number, lambda out=out: synthesize(out, **shape, val_per_class=1, test_per_class=1)):
            break
        if (out / "train").is_dir():
            assert list(open_splits(out)) == ["train", "val", "test"]
        else:
            with pytest.raises((ValueError, FileNotFoundError), match=f"^--data-root: got {out}"):
                open_splits(out)
        synthesize(out, **shape, val_per_class=1, test_per_class=1)
        assert contents(out) == whole, number
    assert number > 20


def test_a_set_that_an_earlier_version_left_half_painted_goes_on(tmp_path):
    whole = contents(synthesize(tmp_path / "out", **SHAPE, num_workers=1))
    for file in sorted((tmp_path / "out").rglob("*.jpg"))[::2]:
        file.unlink()
    (tmp_path / "out" / "train" / "0001" / f".{2**22 + 1}.partial").write_bytes(b"half")
    assert contents(synthesize(tmp_path / "out", **SHAPE, num_workers=1)) == whole


def test_two_calls_into_one_folder_do_not_mix(tmp_path):
    with owned(tmp_path / "out"), pytest.raises(ValueError, match=f"^{tmp_path / 'out'}: .*process"):
        synthesize(tmp_path / "out", **SHAPE)
    assert not (tmp_path / "out").exists()


def test_painters_end_with_a_parent_that_is_killed(tmp_path):
    # Images so large that a painter would take long to finish what it has been given
    program = (
        "import sys; from fastlt.data import synthesize; "
        "synthesize(sys.argv[1], num_classes=2, num_images=200, max_count=100, min_count=100, size=1024, num_workers=2)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "out")]) as parent:
        while len(list(tmp_path.rglob("*.jpg"))) < 2:
            time.sleep(0.001)
        painters = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        parent.kill()
    assert len(painters) == 2
    for _ in range(1000):
        if not any(is_alive(painter) for painter in painters):
            return
        time.sleep(0.001)
    pytest.fail("a painter is still alive")


def is_alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_full_disk_is_one_clear_line(tmp_path, monkeypatch):
    def fail(self, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match=r"No space left.*repeat") as caught:
        synthesize(tmp_path / "out", **SHAPE, num_workers=1)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "out/.unfinished/train/0000"))
    assert "partial" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_painting_process_cannot_write_is_reported(tmp_path):
    task = processes.Task(style=processes.Style(character="A"), folder="absent", stream=0, label=0, start=0, stop=200)
    with pytest.raises(OSError, match=rf"{tmp_path}/absent\b"):
        processes.paint_all([task], tmp_path, look=processes.Look(), fonts=_fonts(), seed=0, num_workers=2)


def test_painting_processes_that_die_are_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(processes.sys, "executable", "/bin/false")
    task = processes.Task(style=processes.Style(character="A"), folder=".", stream=0, label=0, start=0, stop=200)
    with pytest.raises(OSError, match=rf"painting process.*{tmp_path}"):
        processes.paint_all([task], tmp_path, look=processes.Look(), fonts=_fonts(), seed=0, num_workers=2)


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"num_classes": MAX_CLASSES + 1}, r"^--classes: got 256001;.*\b256000\b"),
        ({"num_classes": 0}, "^--classes: got 0;"),
        ({"size": 4}, "^--size: got 4;"),
        ({"val_per_class": 0}, "^--val-per-class: got 0;"),
    ],
)
def test_shapes_out_of_range(change, pattern, tmp_path):
    with pytest.raises(ValueError, match=pattern):
        synthesize(tmp_path / "out", **{**SHAPE, **change})
    assert not (tmp_path / "out").exists()


def test_other_data_are_never_mixed_in(tmp_path):
    synthesize(tmp_path / "out", **SHAPE, num_workers=1)
    with pytest.raises(ValueError, match=rf"{tmp_path / 'out'}\b.*shape"):
        synthesize(tmp_path / "out", **{**SHAPE, "num_images": 61})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=rf"{tmp_path / 'mine'}\b.*empty"):
        synthesize(tmp_path / "mine", **SHAPE)


def test_gini():
    assert gini(np.array([5, 5, 5])) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 12])) == pytest.approx(0.75)
    assert gini(np.array([1, 3])) == pytest.approx(0.25)
    assert gini(np.zeros(3)) == 0


def _fonts():
    from fastlt.data.synthetic.glyphs import font_folder

    return font_folder()
