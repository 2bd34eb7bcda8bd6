"""Real handwriting and real photographs, from folders as a user would have them."""

import numpy as np
import pytest
from PIL import Image

from fastlt.data import decode_rgb, describe, open_splits, probe, split_folder

datasets = pytest.importorskip("sklearn.datasets")

TRAIN_COUNTS = (140, 100, 70, 50, 35, 25, 18, 12, 8, 5)
NUM_VAL = 10
NUM_TEST = 20


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "cache"))


def write_digits(root, counts_by_split):
    """Write scikit-learn's 8x8 digits as PNG files of 32x32."""
    digits = datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    for digit in range(10):
        images = digits.images[order][digits.target[order] == digit]
        at = 0
        for folder, counts in counts_by_split.items():
            target = root / folder / str(digit)
            target.mkdir(parents=True)
            for image in images[at : at + counts[digit]]:
                pixels = Image.fromarray((image * 255 / 16).astype(np.uint8))
                pixels.resize((32, 32), Image.Resampling.BICUBIC).save(target / f"{at}.png")
                at += 1
            assert sum(1 for _ in target.iterdir()) == counts[digit]
    return root


def load(dataset):
    return np.stack([decode_rgb(dataset.path(at))[:, :, 0].ravel() for at in range(len(dataset))]) / 255.0


def test_handwritten_digits_with_a_long_tail_can_be_learnt_from_the_files(tmp_path):
    counts = {"train": TRAIN_COUNTS, "val": (NUM_VAL,) * 10, "test": (NUM_TEST,) * 10}
    splits = open_splits(write_digits(tmp_path / "digits", counts))
    assert splits["train"].class_names == tuple("0123456789")
    assert splits["train"].class_counts.tolist() == list(TRAIN_COUNTS)
    facts = describe(splits)
    assert facts["imbalance_ratio"] == 28
    assert facts["groups"] == {"many": 1, "medium": 5, "few": 4}
    assert all(split.native.all() for split in splits.values())

    # Nearest class mean on raw pixels: it can only work if files, labels and splits belong together.
    train, test = load(splits["train"]), load(splits["test"])
    means = np.stack([train[splits["train"].labels == label].mean(axis=0) for label in range(10)])
    predicted = ((test[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (predicted == splits["test"].labels).mean() > 0.75


def test_digits_in_class_folders_are_split_and_opened(tmp_path):
    root = write_digits(tmp_path / "digits", {".": tuple(count + 3 for count in TRAIN_COUNTS)})
    summary = split_folder(root, val_per_class=5, test_per_class=10, seed=3)
    splits = open_splits(root)
    assert summary.num_images == {name: len(split) for name, split in splits.items()}
    assert splits["val"].class_counts[:5].tolist() == [5] * 5
    assert (splits["train"].class_counts > splits["val"].class_counts + splits["test"].class_counts).all()
    assert not set(splits["train"].paths) & set(splits["test"].paths)


def test_photographs_of_odd_sizes(tmp_path):
    photographs = datasets.load_sample_images()
    root = tmp_path / "photographs"
    for split in ("train", "val"):
        for image, name in zip(photographs.images, ("temple", "flower"), strict=True):
            folder = root / split / name
            folder.mkdir(parents=True)
            photograph = Image.fromarray(image)
            photograph.save(folder / "whole.jpg", quality=95)
            photograph.resize((333, 211)).save(folder / "odd.jpg", quality=95, progressive=True)
            photograph.rotate(90, expand=True).crop((0, 0, 177, 501)).save(folder / "tall.png")
            photograph.convert("CMYK").save(folder / "print.jpg", quality=95)
    train = open_splits(root)["train"]
    sizes = {path: tuple(size) for path, size in zip(train.paths, train.sizes.tolist(), strict=True)}
    assert sizes["flower/whole.jpg"] == (640, 427)
    assert sizes["flower/odd.jpg"] == (333, 211)
    assert sizes["flower/tall.png"] == (177, 501)
    assert [path for path, native in zip(train.paths, train.native, strict=True) if not native] == [
        "flower/print.jpg",
        "temple/print.jpg",
    ]
    labels = dict(zip(train.class_names, range(2), strict=True))
    for at in range(len(train)):
        height, width, _ = decode_rgb(train.path(at)).shape
        assert [width, height] == train.sizes[at].tolist()
    for image, name in zip(photographs.images, ("temple", "flower"), strict=True):
        at = train.paths.index(f"{name}/whole.jpg")
        assert train.labels[at] == labels[name]
        assert np.abs(decode_rgb(train.path(at)).astype(int) - image).mean() < 3
        separate = decode_rgb(train.path(train.paths.index(f"{name}/print.jpg")))
        assert np.abs(separate.astype(int) - image).mean() < 6


def test_the_photographs_as_they_are_shipped():
    for name in datasets.load_sample_images().filenames:
        from importlib.resources import as_file, files

        with as_file(files("sklearn.datasets.images") / name.rpartition("/")[2]) as file:
            info = probe(file)
            assert (info.width, info.height, info.native) == (640, 427, True)
            assert decode_rgb(file).shape == (427, 640, 3)
