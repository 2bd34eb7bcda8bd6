"""From settings to data: open the splits that a training configuration names."""

from __future__ import annotations

from pathlib import Path

from ..config import TrainConfig
from ..runtime.log import log
from .dataset import LongTailedDataset, build_dataset
from .layouts.find import find_splits
from .packs.read import is_pack, open_pack
from .published.cifar import CIFAR, open_cifar
from .published.locate import find_lists, read_lists
from .published.specs import BENCHMARKS, Benchmark
from .splits import open_splits


def open_data(config: TrainConfig) -> dict[str, LongTailedDataset]:
    """Open train, val and, where there is one, test.

    The embedded data set and synthetic ones are made on first use; every other needs `data_root`.

    Raises:
        ValueError, FileNotFoundError: The data are absent or cannot be used; the message says what to do.
    """
    if config.synthetic:
        from .synthetic.published_shape import synthetic

        if config.data_root is not None:
            raise ValueError(
                f"--synthetic: got it with --data-root {config.data_root}; made-up data have no root: drop one"
            )
        return synthetic(
            config.dataset, size=config.synthetic_size, imbalance=config.imbalance, num_workers=config.num_threads
        )
    if config.dataset == "glyphs_lt" and config.data_root is None:
        from .synthetic.glyphs import glyphs_lt

        return glyphs_lt()
    if config.data_root is None:
        raise ValueError(
            f"--data-root: missing; --dataset {config.dataset} needs the folder with {_contents(config.dataset)}"
        )
    if config.dataset in CIFAR:
        return open_cifar(config.dataset, config.data_root, imbalance=config.imbalance, seed=config.data_seed)
    return open_named(config.dataset, config.data_root, lists=config.lists, strict=config.strict)


def _contents(dataset: str) -> str:
    """What the data root of a data set holds, for a message."""
    if dataset in CIFAR:
        return f"{' or '.join(CIFAR[dataset].archives.values())}, or --synthetic for a made-up set of its shape"
    if dataset in BENCHMARKS:
        lists = BENCHMARKS[dataset].splits["train"].lists[0]
        return f"its images and lists ({lists}, ...; or --lists DIR), or --synthetic for a made-up set of its shape"
    return "its images (train/<class>/*, val/<class>/*), or with list files"


def open_named(
    dataset: str, root: Path | str, *, lists: Path | str | None = None, strict: bool = False
) -> dict[str, LongTailedDataset]:
    """Open a data set by its name: the benchmarks and the usual CIFAR-LT by what they are, others as they lie."""
    if dataset in CIFAR:
        return open_cifar(dataset, root)
    if dataset in BENCHMARKS:
        return open_benchmark(dataset, root, lists=lists, strict=strict)
    return open_splits(root, lists=lists, strict=strict)


def open_benchmark(
    name: str, root: Path | str, *, lists: Path | str | None = None, strict: bool = False, cache: bool = True
) -> dict[str, LongTailedDataset]:
    """Open a published benchmark in whichever layout it lies.

    Args:
        name: imagenet_lt, places_lt or inat2018.
        root: The data root: the folder of the images, in any of the known layouts.
        lists: The folder of the list files, under their released names or as train.txt, val.txt, test.txt; default
            the data root or its folders `lists` or `annotations`.
        strict: Whether a file that is no complete image is an error instead of being skipped.
        cache: Whether the index may come from and go to the cache folder.

    Raises:
        FileNotFoundError: No lists, or images that are absent.
        ValueError: Lists of another data set, or ones that cannot be read.
    """
    benchmark, root = BENCHMARKS[name], Path(root)
    if is_pack(root):
        return open_pack(root, dataset=name)
    sources = find_lists(benchmark, root, None if lists is None else Path(lists))
    if not sources:
        check_class_folders(benchmark, root)
        return open_splits(root, strict=strict, cache=cache)
    datasets = {}
    for split, listing in read_lists(benchmark, sources, root):
        try:
            datasets[split] = build_dataset(listing, split=split, complete=split == "train", strict=strict, cache=cache)
        except FileNotFoundError as error:
            where = f"--data-root {root}{f' --lists {lists}' if lists else ''}"
            raise FileNotFoundError(
                f"{error}; `fastlt data verify --dataset {name} {where}` names all that is missing"
            ) from None
    warn_of_counts(benchmark, datasets)
    return datasets


def check_class_folders(benchmark: Benchmark, root: Path) -> None:
    """Refuse a data root without lists unless it has exactly the benchmark's train images, sorted into class folders.

    Raises:
        FileNotFoundError: It has none, or others: the original data set has more images than its long-tailed part.
    """
    expected = benchmark.splits["train"]
    seen = "no list files"
    if (root / "train").is_dir() and (root / "val").is_dir():
        _, train = next(find_splits(root, {}))
        if len(train.paths) == expected.num_images:
            return
        seen = f"no list files, and {len(train.paths):,} images in {root / 'train'} ({expected.num_images:,} expected)"
    raise FileNotFoundError(
        f"{root} has {seen}; {benchmark.title} is a selection: put {expected.lists[0]} and the other lists there, or "
        "give their folder (--lists)"
    )


def warn_of_counts(benchmark: Benchmark, datasets: dict[str, LongTailedDataset]) -> None:
    """Warn where splits do not have the benchmark's numbers of images: accuracies do not compare."""
    wrong = [
        f"{len(dataset):,} {split} images ({benchmark.splits[split].num_images:,} expected)"
        for split, dataset in datasets.items()
        if len(dataset) != benchmark.splits[split].num_images
    ]
    if wrong:
        log.warning(
            "%s has %s: accuracies do not compare; `fastlt data verify` says why", benchmark.title, ", ".join(wrong)
        )
