import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fastlt.files import check_empty, make_once, making, replacing, sweep
from fastlt.files.writing import contents, held, partial_name

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
