"""Miniature benchmarks in every official layout, shared by the tests of the data and of the recipes."""

import importlib
import json
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastlt.config import plugins

# Tests that run in the background ignore Ctrl-C, under nohup SIGHUP too, and so would the processes that they interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# (layout, data set, where a class's train image lies, where a test or val image lies); {c} class, {i} image
TRAIN_FORMS = {
    "imagenet_lt": "train/{c}/{c}_{i}.JPEG",
    "places_lt": "data_256/{c0}/{c}/{i:08}.jpg",
    "inat2018": "train_val2018/Aves/{c}/{i:032x}.jpg",
}
HELD_FORMS = {
    "imagenet_lt": "val/{c}/ILSVRC2012_val_{i:08}.JPEG",
    "places_lt": "val_256/Places365_val_{i:08}.jpg",
    "inat2018": "train_val2018/Aves/{c}/{i:032x}.jpg",
}
DISK_FORMS = {
    "imagenet": ("imagenet_lt", "train/{c}/{c}_{i}.JPEG", "val/{c}/ILSVRC2012_val_{i:08}.JPEG"),
    "imagenet-flat": ("imagenet_lt", "train/{c}/{c}_{i}.JPEG", "val/ILSVRC2012_val_{i:08}.JPEG"),
    "imagenet-contest": (
        "imagenet_lt",
        "ILSVRC/Data/CLS-LOC/train/{c}/{c}_{i}.JPEG",
        "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_{i:08}.JPEG",
    ),
    "places": ("places_lt", "data_256/{c0}/{c}/{i:08}.jpg", "val_256/Places365_val_{i:08}.jpg"),
    "places-easy": ("places_lt", "train/{dashed}/{i:08}.jpg", "val/{dashed}/Places365_val_{i:08}.jpg"),
    "inat": ("inat2018", "train_val2018/Aves/{c}/{i:032x}.jpg", "train_val2018/Aves/{c}/{i:032x}.jpg"),
    "inat-json": ("inat2018", "train_val2018/Aves/{c}/{i:032x}.jpg", "train_val2018/Aves/{c}/{i:032x}.jpg"),
}
RELEASED = {"imagenet_lt": "ImageNet_LT", "places_lt": "Places_LT", "inat2018": "iNaturalist18"}
CLASSES = {
    "imagenet_lt": ("n01440764", "n01443537", "n01484850"),
    "places_lt": ("airfield", "apartment_building/outdoor", "zen_garden"),
    "inat2018": ("0", "1", "2"),
}
COUNTS = {"train": (9, 5, 3), "val": (2, 2, 2), "test": (2, 2, 2)}
STARTS = {"train": 0, "val": 100, "test": 200}


@dataclass(frozen=True)
class Miniature:
    """A benchmark of three classes: 17 train, 6 val and 6 test images (iNaturalist has no test)."""

    dataset: str
    root: Path
    lists: Path


def form(pattern: str, name: str, number: int) -> str:
    return pattern.format(c=name, c0=name[0], dashed=name.replace("/", "-"), i=number)


@pytest.fixture(scope="session")
def make_miniature() -> Callable[[Path, str], Miniature]:
    """Write a miniature in a layout of `DISK_FORMS` into an empty folder."""

    def make(folder: Path, layout: str) -> Miniature:
        dataset, train_form, held_form = DISK_FORMS[layout]
        root, lists = folder / "images", folder / "lists"
        lists.mkdir(parents=True)
        splits = ("train", "val") if dataset == "inat2018" else ("train", "val", "test")
        for split in splits:
            # ImageNet-LT and Places-LT take val from the original train images
            held = split == "test" or (split == "val" and dataset == "inat2018")
            listed, on_disk = (HELD_FORMS[dataset], held_form) if held else (TRAIN_FORMS[dataset], train_form)
            entries = []
            for label, name in enumerate(CLASSES[dataset]):
                for index in range(COUNTS[split][label]):
                    number = STARTS[split] + 20 * label + index
                    file = root / form(on_disk, name, number)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    Image.new("RGB", (40 + number % 7, 36), (number % 256, 60 * label, 90)).save(file, "JPEG")
                    entries.append((form(listed, name, number), label))
            if layout == "inat-json":
                content = {
                    "images": [{"id": at, "file_name": path} for at, (path, _) in enumerate(entries)],
                    "annotations": [{"image_id": at, "category_id": label} for at, (_, label) in enumerate(entries)],
                    "categories": [{"id": label, "name": f"species {label}"} for label in range(3)],
                }
                (lists / f"{split}2018.json").write_text(json.dumps(content))
            else:
                text = "".join(f"{path} {label}\n" for path, label in entries)
                (lists / f"{RELEASED[dataset]}_{split}.txt").write_text(text)
        return Miniature(dataset, root, lists)

    return make


@pytest.fixture(params=sorted(DISK_FORMS))
def miniature(
    request: pytest.FixtureRequest, tmp_path: Path, make_miniature: Callable[[Path, str], Miniature]
) -> Miniature:
    """A miniature in each of the layouts in turn."""
    return make_miniature(tmp_path / "data", request.param)


@pytest.fixture
def one_bit_off() -> Callable[[bytes, np.random.Generator], bytes]:
    """Return bytes with one of their bits changed, drawn at random."""

    def change(content: bytes, draws: np.random.Generator) -> bytes:
        mutated = bytearray(content)
        mutated[draws.integers(len(mutated))] ^= 1 << draws.integers(8)
        return bytes(mutated)

    return change


@pytest.fixture
def killed_at() -> Callable[[int, Callable[[], object]], bool]:
    """Call a function in a child process that dies before its n-th change to the disk; return whether it died."""
    changes = ("os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.remove", "os.truncate", "shutil.rmtree")

    def run(number: int, function: Callable[[], object]) -> bool:
        child = os.fork()
        if child == 0:
            left = iter(range(number))

            def watch(event: str, args: tuple[object, ...]) -> None:
                writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
                if (writes or event in changes) and next(left, None) is None:
                    os._exit(9)

            status = 1
            try:
                sys.addaudithook(watch)
                function()
                status = 0
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, 9)
        return status == 9

    return run


@pytest.fixture(scope="session", autouse=True)
def _away_from_the_repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Work elsewhere: a run that is trained here would become the user's `runs/last`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("work"))
        yield


@pytest.fixture(autouse=True)
def _own_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what a test leaves in its working folder from the others."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def own_methods_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers, and where it looks for modules, goes with it."""
    monkeypatch.setattr(plugins, "OWN", {})
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Write a module of the user's into the working folder, and return its name, new in every test."""
    monkeypatch.chdir(tmp_path)
    made = []

    def write(text: str) -> str:
        name = f"mine_{abs(hash(str(tmp_path)))}_{len(made)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        made.append(name)
        return name

    yield write
    for name in made:
        sys.modules.pop(name, None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Spell out the lone surrogates in what a test printed, which cannot be sent from one process to another."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """The command line leaves signals as suits a process that is about to end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
