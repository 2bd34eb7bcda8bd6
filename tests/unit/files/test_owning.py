import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fastlt.files import contents, owned, reserved


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with owned(folder):
        with pytest.raises(ValueError, match=str(folder)), owned(folder):
            pass
        (folder / "file").write_text("")
    with owned(folder):
        pass
    assert listed(folder) == ["file"]


def test_a_folder_that_stays_empty_goes_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), owned(tmp_path / "new" / "out"):
        raise RuntimeError
    assert listed(tmp_path) == []


@pytest.mark.parametrize("name", ["new/out", "."])
def test_a_name_has_one_owner_and_nothing_stays_beside_it(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with reserved(Path(name)):
        with pytest.raises(ValueError, match=rf"^{name}: .*another process"), reserved(Path(name)):
            pass
        assert contents(Path(name).parent) == []
    assert listed(tmp_path) == []


def test_a_killed_owner_frees_the_folder(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom fastlt.files import owned\n"
        "with owned(Path(sys.argv[1])):\n    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert listed(tmp_path) == [".lock"]
    with owned(tmp_path):
        pass
    assert listed(tmp_path) == []


def test_owners_wait_for_each_other(tmp_path: Path) -> None:
    owners, most = [0], [0]

    def work() -> None:
        with owned(tmp_path / "out", wait=True):
            owners[0] += 1
            most[0] = max(most[0], owners[0])
            owners[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert not (tmp_path / "out" / ".lock").exists()


@pytest.mark.parametrize("parts", ["taken", "taken/folder"])
def test_what_is_no_folder_cannot_be_owned(tmp_path: Path, parts: str) -> None:
    for make in (Path.touch, lambda path: path.symlink_to("nowhere")):
        make(tmp_path / "taken")
        with pytest.raises(OSError, match=r"directory|exists"), owned(tmp_path / parts):
            pass
        (tmp_path / "taken").unlink()


def test_a_place_that_is_gone_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError), owned(Path("out")):
        pass
