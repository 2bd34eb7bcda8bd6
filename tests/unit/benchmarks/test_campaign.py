"""The campaign itself: its mutations repeat, its library fails the call that it is told, planted faults are found."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
Script = Callable[[str], ModuleType]

WRITER = """
import os, sys
with open(os.path.join(sys.argv[1], "a"), "wb", buffering=0) as file:
    file.write(b"one")
    file.write(b"two")
os.rename(os.path.join(sys.argv[1], "a"), os.path.join(sys.argv[1], "b"))
"""

# A command that keeps what it has written and, unlike ours, refuses to go on with it
PLANTED = """
import sys
from pathlib import Path
from benchmarks.campaign import faults
from benchmarks.campaign.cases import Case

def command(argv, folder, environment):
    file = folder / "out"
    if file.exists():
        print("fastlt: out: got a file; expected none; remove it", file=sys.stderr)
        raise SystemExit(2)
    with file.open("wb", buffering=0) as stream:
        stream.write(b"whole")

faults.command = command
bench = faults.Bench(Path(sys.argv[1]))
case = Case(name="planted", command=())
bench.refer(case)
print(bench.counts, [bench.trial(case, mode, 2) for mode in ("before", "full")], bench.trial(case, "before", 1))
"""

READERS = """
import sys
from pathlib import Path
from benchmarks.campaign import fuzz
from benchmarks.campaign.readers import Reader

def read(folder):
    content = (folder / "file").read_bytes()
    if content == b"key":
        raise KeyError("key")
    if content == b"bad":
        raise ValueError("file: got bad; expected good; mend it")
    if content == b"big":
        return len(b"x" * (700 << 20))
    return content

folder = Path(sys.argv[1])
(folder / "kept").mkdir()
(folder / "kept" / "file").write_bytes(b"good")
reader = Reader(name="planted", folder="kept", file="file", kind="bytes", read=read, sealed=True)
value = fuzz.digest(b"good")
target = fuzz.Target(reader, folder / "read", folder / "kept", b"good", value, ())
print([(target.trial(content) or ["nothing"])[0] for content in (b"key", b"bad", b"big", b"other", b"good")])
"""


@pytest.fixture(scope="module")
def library(script: Script, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("no compiler")
    built: Path = script("campaign.shim").build(tmp_path_factory.mktemp("library"))
    return built


def run(library: Path, code: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    loaded = {"LD_PRELOAD": str(library), "FAULTS_LIBRARY": str(library), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env={**os.environ, **loaded, **environment},
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )


@pytest.mark.parametrize("kind", ["json", "lines", "zip", "gzip", "bytes"])
def test_mutations_are_functions_of_their_seed(script: Script, kind: str) -> None:
    mutations = script("campaign.mutations")
    content = {
        "json": b'{"a": [1, 2], "b": {"c": "d"}}',
        "lines": b"a 0\nb 1\n",
        "zip": zipped(),
        "gzip": mutations.gzip.compress(b"content"),
        "bytes": bytes(100),
    }[kind]

    def mutated(number: int) -> bytes:
        result: bytes = mutations.mutate(content, kind, random.Random(number), b"other")
        return result

    results = [mutated(number) for number in range(40)]
    assert results == [mutated(number) for number in range(40)]
    assert len({*results, content}) > 20


def zipped() -> bytes:
    import io
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a"), "content")
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "at", "status", "left"),
    [
        ("none", 0, 0, {"b": b"onetwo"}),
        ("full", 1, 1, {}),
        ("full", 3, 1, {"a": b"one"}),
        ("eio", 4, 1, {"a": b"onetwo"}),
        ("short", 3, 0, {"b": b"onet"}),
        ("before", 4, -9, {"a": b"onetwo"}),
        ("after", 4, -9, {"b": b"onetwo"}),
    ],
)
def test_fails_the_call_it_is_told(
    library: Path, script: Script, tmp_path: Path, mode: str, at: int, status: int, left: dict[str, bytes]
) -> None:
    shim, folder = script("campaign.shim"), tmp_path / "folder"
    folder.mkdir()
    ended = run(library, WRITER, folder, shim.settings(folder, tmp_path / "state", mode, at))
    assert ended.returncode == status
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == left
    seen = shim.seen(tmp_path / "state")
    assert seen.hits == (mode != "none")
    assert (seen.count == 4) is (status == 0 or at == 4)


def test_counts_nothing_outside_its_folder(library: Path, script: Script, tmp_path: Path) -> None:
    shim = script("campaign.shim")
    (tmp_path / "folder").mkdir()
    run(library, WRITER, tmp_path, shim.settings(tmp_path / "folder", tmp_path / "state"))
    assert shim.seen(tmp_path / "state").count == 0


def test_finds_a_planted_fault(library: Path, tmp_path: Path) -> None:
    ended = run(library, PLANTED, tmp_path, {})
    assert ended.stdout.startswith("{'planted': 2} [('unusable', "), ended.stderr
    assert "fault" not in ended.stderr
    assert ended.stdout.endswith(" None\n")


def test_tells_documented_refusals_from_faults(library: Path, tmp_path: Path) -> None:
    ended = run(library, READERS, tmp_path, {})
    assert ended.stdout == "['undocumented', 'nothing', 'memory', 'silent', 'nothing']\n", ended.stderr
