import errno
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastlt.data import image as image_module
from fastlt.data import index as index_module
from fastlt.data.index import fingerprint, index_files
from fastlt.files import replacing


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (10 + number, 20)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def probed(monkeypatch):
    names = []
    probe = index_module.probe

    def spy(path):
        names.append(Path(path).name)
        return probe(path)

    monkeypatch.setattr(index_module, "probe", spy)
    return names


PATHS = tuple(f"{number}.png" for number in range(6))


def test_sizes_are_width_and_height(root):
    index = index_files(root, PATHS, source="list")
    assert index.sizes.dtype == np.int32
    assert index.sizes.tolist() == [[10 + number, 20] for number in range(6)]
    assert index.native.all()
    assert not index.reasons


def test_nothing_is_probed_twice_until_it_changes(root, probed):
    index_files(root, PATHS, source="list")
    assert sorted(probed) == list(PATHS)
    probed.clear()
    index_files(root, PATHS, source="list")
    assert probed == []
    Image.new("RGB", (99, 98)).save(root / "3.png")
    (root / "4.png").write_bytes(b"")
    index = index_files(root, PATHS, source="list")
    assert sorted(probed) == ["3.png", "4.png"]
    assert index.sizes[3].tolist() == [99, 98]
    assert index.reasons == {4: "empty file"}
    probed.clear()
    assert index_files(root, PATHS, source="list").reasons == {4: "empty file"}
    assert probed == []
    Image.new("RGB", (5, 6)).save(root / "4.png")
    assert not index_files(root, PATHS, source="list").reasons


def test_the_cache_can_be_left_out(root, cache, probed):
    for _ in range(2):
        index_files(root, PATHS, source="list", cache=False)
    assert len(probed) == 2 * len(PATHS)
    assert not cache.exists()


def test_the_number_of_threads_changes_nothing(tmp_path):
    paths = [f"{number}.png" for number in range(1500)]
    for number, path in enumerate(paths):
        (tmp_path / path).write_bytes(b"" if number % 7 == 0 else _png(number % 50 + 1))
    one, many = (index_files(tmp_path, paths, source="list", cache=False, num_threads=n) for n in (1, 7))
    assert (one.sizes == many.sizes).all()
    assert one.reasons == many.reasons
    assert list(many.reasons) == list(range(0, 1500, 7))


def test_files_that_have_to_be_waited_for_are_probed_by_many_threads(root, monkeypatch):
    probe, threads = index_module.probe, set()

    def wait(path):
        time.sleep(0.002)
        threads.add(threading.get_ident())
        return probe(path)

    monkeypatch.setattr(index_module, "probe", wait)
    index = index_files(root, PATHS * 50, source="list", cache=False)
    assert index.sizes.tolist() == [[10 + number, 20] for number in range(6)] * 50
    assert len(threads) > 1


def test_no_more_threads_decode_than_there_are_processors(root, monkeypatch):
    for number in range(6):
        Image.new("L", (9, 9)).save(root / f"{number}.png", "GIF")
    running, most = [], []

    def decode(data, _name):
        running.append(data)
        most.append(len(running))
        time.sleep(0.002)
        running.pop()
        return np.zeros((9, 9, 3), np.uint8)

    monkeypatch.setattr(image_module, "decode_bytes", decode)
    monkeypatch.setattr(image_module, "resolve_threads", lambda _number: 2)
    image_module._decoders.cache_clear()
    try:
        index_files(root, PATHS * 50, source="list", cache=False, num_threads=8)
    finally:
        image_module._decoders.cache_clear()
    assert max(most) == 2


def test_what_the_disk_refuses_is_tried_again_next_time(root, monkeypatch):
    probe = index_module.probe

    def fail(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(index_module, "probe", fail)
    assert set(index_files(root, PATHS, source="list").reasons.values()) == {"cannot be read (Input/output error)"}
    monkeypatch.setattr(index_module, "probe", probe)
    assert not index_files(root, PATHS, source="list").reasons


def test_too_many_open_files_break_no_image(root, monkeypatch):
    def fail(path):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(index_module, "probe", fail)
    with pytest.raises(OSError, match="Too many open files"):
        index_files(root, PATHS, source="list")


def test_a_name_that_no_file_can_have_is_of_no_file(root):
    with pytest.raises(FileNotFoundError, match="list: got 2 of 3 files"):
        index_files(root, ("0.png", "a\0b", "\ud800"), source="list", cache=False)


def test_a_damaged_cache_is_built_again(root, cache, probed):
    index_files(root, PATHS, source="list")
    (file,) = (cache / "index").glob("*.npz")
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(b"stats.npy") + 150] ^= 1
    bomb = io.BytesIO()
    np.savez(bomb, reasons=np.frombuffer(b"[" * 100_000, np.uint8))
    far = io.BytesIO()
    with np.load(file) as arrays:
        np.savez(far, **{**arrays, "reasons": np.frombuffer(b'{"99": "broken"}', np.uint8)})
    for content in (b"", b"nonsense", whole[:200], bytes(flipped), bomb.getvalue(), far.getvalue()):
        probed.clear()
        file.write_bytes(content)
        assert index_files(root, PATHS, source="list").native.all()
        assert len(probed) == len(PATHS)


def test_a_pipe_in_the_place_of_the_cache_is_not_opened(root, cache):
    index_files(root, PATHS, source="list")
    (file,) = (cache / "index").glob("*.npz")
    file.unlink()
    os.mkfifo(file)
    assert index_files(root, PATHS, source="list").native.all()


def test_no_two_processes_probe_the_same_files_at_once(root, cache, monkeypatch):
    probe, names = index_module.probe, []

    def spy(path):
        names.append(path)
        time.sleep(0.01)
        return probe(path)

    monkeypatch.setattr(index_module, "probe", spy)
    threads = [threading.Thread(target=index_files, args=(root, PATHS), kwargs={"source": "list"}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == len(PATHS)
    assert [file.suffix for file in (cache / "index").iterdir()] == [".npz"]


def test_a_cache_that_cannot_be_written_only_warns(root, tmp_path, monkeypatch, caplog):
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    monkeypatch.setenv("FASTLT_CACHE", str(blocker / "cache"))
    assert index_files(root, PATHS, source="list").native.all()
    assert "FASTLT_CACHE" in caplog.text


def test_absent_files_are_counted_and_the_first_named(root):
    paths = (*PATHS, *(f"gone/{number}.png" for number in range(20)))
    with pytest.raises(FileNotFoundError, match=r"train.txt: got 20 of 26 files .*gone/0.png.* 15 more") as error:
        index_files(root, paths, source="train.txt")
    assert "gone/9.png" not in str(error.value)
    assert "\n" not in str(error.value)


def test_the_fingerprint_is_of_content_and_the_same_in_every_process():
    paths, labels, stats = ["a b", "c"], np.array([0, 1]), np.array([[1, 2], [3, 4]])
    mine = fingerprint(paths, labels, stats)
    assert fingerprint(["a b", "d"], labels, stats) != mine
    assert fingerprint(["a b", "c"], labels[::-1], stats) != mine
    assert fingerprint(["a b", "c"], labels, stats + 1) != mine
    assert fingerprint(tuple(paths), labels.astype(np.int32), stats) == mine
    program = (
        "import numpy as np; from fastlt.data.index import fingerprint; "
        "print(fingerprint(['a b', 'c'], np.array([0, 1]), np.array([[1, 2], [3, 4]])))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert output.stdout.strip() == mine


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path):
    file = tmp_path / "some.txt"
    with pytest.raises(FileNotFoundError) as caught, replacing(file) as partial:
        partial.rename(tmp_path / "elsewhere")
    assert caught.value.filename == str(file)


def test_replacing_leaves_the_old_file_when_writing_fails(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")

    def fail():
        with replacing(file) as partial:
            partial.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["file"]
    assert file.read_text() == "old"


def _png(width):
    import io

    file = io.BytesIO()
    Image.new("L", (width, 1)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("cache", [False, True])
def test_pipes_and_links_to_nothing_are_skipped_unopened(tmp_path, monkeypatch, cache):
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "cache"))
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "folder.jpg").mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "image.jpg")
    names = ["pipe.jpg", "image.jpg", "link.jpg", "folder.jpg"]
    for _ in range(2):
        index = index_files(tmp_path, names, source="test", cache=cache)
        assert index.reasons == {0: "no regular file", 2: "a link to a file that does not exist", 3: "no regular file"}
        assert index.sizes[1].tolist() == [4, 3]
