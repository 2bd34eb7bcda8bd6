import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastlt.files import check_empty, make_once, making, replacing, replacing_folder, replacing_set, settle, sweep
from fastlt.files.writing import contents, held, partial_name, replacing_unswept

DEAD = 2**22 + 1  # above the largest process number of Linux


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_failed_write_keeps_the_old_content_and_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("old")
    with pytest.raises(TypeError), replacing(file) as partial:
        partial.write_text(partial.write_text("new"))  # type: ignore[arg-type]
    assert listed(tmp_path) == ["a.json"]
    assert file.read_text() == "old"


def test_a_failed_write_names_the_target(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with pytest.raises(OSError, match="No space") as caught, replacing(file) as partial:
        raise OSError(errno.ENOSPC, "No space left", str(partial))
    assert caught.value.filename == str(file)


def test_a_failed_write_without_a_number_names_the_target_too(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="8 requested") as caught, replacing(tmp_path / "a.npy"):
        raise OSError("8 requested and 0 written")  # as NumPy does
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(tmp_path / "a.npy"))


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_names_the_target(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError) as caught, replacing(tmp_path / "a.json"):
        pass
    assert caught.value.filename == str(tmp_path / "a.json")


@pytest.mark.parametrize("name", [".a.json.{}.partial", ".{}.partial", ".pack.{}.partial"])
def test_left_overs_of_dead_processes_go(tmp_path: Path, name: str) -> None:
    (tmp_path / name.format(DEAD)).write_text("half")
    assert contents(tmp_path) == []
    check_empty("--out", tmp_path)
    sweep(tmp_path)
    assert listed(tmp_path) == []


def test_writing_sweeps_its_own_left_overs_only(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f".{name}.{DEAD}.partial").write_text("half")
    (tmp_path / ".a.tar.partial").write_text("is continued later")
    with replacing(tmp_path / "a") as partial:
        partial.write_text("whole")
    assert listed(tmp_path) == [".a.tar.partial", f".b.{DEAD}.partial", "a"]


def test_a_folder_of_many_files_is_not_searched_for_each(tmp_path: Path) -> None:
    (tmp_path / f".a.{DEAD}.partial").write_text("half")
    with replacing_unswept(tmp_path / "a") as partial:
        sweep(tmp_path)  # as another process would
        partial.write_text("whole")
    assert listed(tmp_path) == ["a"]


def test_left_over_folders_of_dead_processes_go(tmp_path: Path) -> None:
    (tmp_path / f".run.{DEAD}.partial" / "inner").mkdir(parents=True)
    with making(tmp_path / "run") as folder:
        (folder / "file").write_text("whole")
    assert listed(tmp_path) == ["run"]


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_a_living_process_writes_stays(tmp_path: Path, is_folder: bool) -> None:
    path = partial_name(tmp_path / "a")
    if is_folder:
        path.mkdir()
    with held(path):
        sweep(tmp_path)
        assert path.exists()
    sweep(tmp_path)
    assert not path.exists()


def test_a_killed_writer_leaves_what_the_next_one_sweeps(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom fastlt.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half')\n    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=False)
    assert len(listed(tmp_path)) == 1
    with replacing(tmp_path / "a") as partial:
        partial.write_text("whole")
    assert listed(tmp_path) == ["a"]


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with making(tmp_path / "new") as folder:
        (folder / "file").write_text("1")
        assert not (tmp_path / "new").exists()
    assert listed(tmp_path / "new") == ["file"]
    with pytest.raises(RuntimeError), making(tmp_path / "other"):
        raise RuntimeError
    assert listed(tmp_path) == ["new"]


def test_a_folder_that_another_process_made_is_not_replaced(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "theirs").write_text("")
    with pytest.raises(FileExistsError), making(tmp_path / "new"):
        theirs.rename(tmp_path / "new")
    assert listed(tmp_path / "new") == ["theirs"]


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    calls = []
    started = threading.Event()

    def fill(folder: Path) -> None:
        calls.append(folder)
        started.set()
        (folder / "file").write_text("1")

    threads = [threading.Thread(target=make_once, args=(tmp_path / "new", fill)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert listed(tmp_path) == ["new"]


def contents_of(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def write_set(folder: Path, names: tuple[str, ...], last_words: Callable[[], None]) -> None:
    with replacing_set(folder / "mark", ["old.*"]) as partial:
        for name in names:
            (partial / name).write_text("new")
        last_words()


def fail() -> None:
    raise RuntimeError


def test_a_set_of_files_changes_together(tmp_path: Path) -> None:
    old = dict.fromkeys(("a", "mark", "old.1", "mine"), "old")
    for name, text in old.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(RuntimeError):
        write_set(tmp_path, ("a",), fail)
    assert contents_of(tmp_path) == old
    write_set(tmp_path, ("mark", "a", "b"), lambda: None)
    assert contents_of(tmp_path) == {"a": "new", "b": "new", "mark": "new", "mine": "old"}


@pytest.mark.parametrize("calls", range(5))
def test_a_set_that_is_killed_half_way_has_no_mark(tmp_path: Path, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "mark", "old.1"):
        (tmp_path / name).write_text("old")
    left = iter(range(calls))

    def mortal(original: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            if next(left, None) is None:
                raise SystemExit
            return original(*args, **options)

        return call

    def begin() -> None:
        for name in ("replace", "unlink"):
            monkeypatch.setattr(Path, name, mortal(getattr(Path, name)))

    with pytest.raises(SystemExit):
        write_set(tmp_path, ("mark", "a", "b"), begin)
    assert (tmp_path / "mark").exists() == (calls == 0)
    assert calls or set(contents_of(tmp_path).values()) == {"old"}


@pytest.mark.parametrize("make", [making, lambda folder: replacing_set(folder / "mark")])
def test_errors_name_the_folder_that_comes_into_being(
    tmp_path: Path, make: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill() -> None:
        with make(tmp_path / "new") as folder, replacing(folder / "a") as partial:
            raise OSError(errno.ENOSPC, "No space left", str(partial))

    def fail_to_flush() -> None:
        with make(tmp_path / "new") as folder, replacing(folder / "a"):
            monkeypatch.setattr(os, "fsync", full)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left")

    for work in (fill, fail_to_flush):
        with pytest.raises(OSError, match="No space") as caught:
            work()
        assert caught.value.filename == str(tmp_path / "new" / "a")
    with pytest.raises(OSError, match="No space") as caught, make(tmp_path / "new"):
        full(0)
    assert caught.value.filename == str(tmp_path / "new")


def test_a_left_over_link_goes_and_what_it_names_stays(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / f".last.{DEAD}.partial").symlink_to("run")
    sweep(tmp_path)
    assert listed(tmp_path) == ["run"]


def filled(folder: Path, text: str) -> None:
    with replacing_folder(folder) as partial:
        (partial / "a").write_text(text)


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    filled(folder, "old")
    (folder / "b").write_text("gone")
    (tmp_path / "link").symlink_to(folder)
    filled(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert listed(folder) == ["a"]
    assert (folder / "a").read_text() == "new"
    assert listed(tmp_path) == ["link", "out"]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    filled(folder, "old")
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError(errno.EIO, "no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="no"):
        filled(folder, "new")
    assert (folder / "a").read_text() == "old"
    assert listed(tmp_path) == ["out"]


@pytest.mark.parametrize("new_is_there", [False, True])
def test_a_replacement_that_was_killed_is_settled(tmp_path: Path, new_is_there: bool) -> None:
    folder = tmp_path / "out"
    filled(tmp_path / ".out.replaced", "old")
    if new_is_there:
        filled(folder, "new")
    settle(folder)
    assert (folder / "a").read_text() == ("new" if new_is_there else "old")
    assert listed(tmp_path) == ["out"]
