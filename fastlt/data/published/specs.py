"""What the published long-tailed benchmarks consist of: counts, list files, checksums, and how their folders differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class SplitSpec:
    """What a split of a benchmark must have.

    Attributes:
        num_images: Images of all classes.
        per_class: Images of each class, where all classes have equally many.
        lists: Names of the list file: the released one first.
        sha256: First 12 hexadecimal digits of the released list's hash; empty where none is known.
    """

    num_images: int
    per_class: int | None = None
    lists: tuple[str, ...] = ()
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A published data set, as its list files describe it.

    Attributes:
        name: The name that `--dataset` takes.
        title: The usual name.
        num_classes: C.
        max_count: Train images of the largest class.
        min_count: Train images of the smallest class.
        groups: Numbers of many, medium and few classes, where they are confirmed.
        splits: The splits by name.
        variants: The places where a listed image may be: (path, folder of its class) -> paths relative to the data
            root, always equally many, the path itself first.
        containers: Folders in which the archives wrap the images.
    """

    name: str
    title: str
    num_classes: int
    max_count: int
    min_count: int
    groups: tuple[int, int, int] | None = None
    splits: dict[str, SplitSpec]
    variants: Callable[[str, str], tuple[str, ...]]
    containers: tuple[str, ...] = field(default=())


def imagenet_variants(path: str, folder: str) -> tuple[str, ...]:
    """Return where `train/<class>/<image>` may be; val images may also be outside class folders."""
    top, _, rest = path.partition("/")
    name = path.rpartition("/")[2]
    return path, f"{top}/{name}", f"{top}/{folder}/{name}", rest or path, name


def places_variants(path: str, folder: str) -> tuple[str, ...]:
    """Return where `data_256/a/airfield/x.jpg`, `train/airfield/x.jpg` or `val_256/x.jpg` may be.

    The first two are the same image in the archive's two forms; a class such as `apartment_building/outdoor` is two
    nested folders in one form and `apartment_building-outdoor` in the other.
    """
    top, _, rest = path.partition("/")
    name = path.rpartition("/")[2]
    nested = f"{folder[:1]}/{folder.replace('-', '/')}/{name}"
    if top.startswith("val"):
        flat = (f"val_256/{name}", f"val_large/{name}", f"val/{name}", f"val/{folder}/{name}")
        return (path, *flat, f"val/{folder.replace('-', '/')}/{name}", rest or path, name)
    easy = (f"train/{folder}/{name}", f"train/{folder.replace('-', '/')}/{name}")
    return (path, f"data_256/{nested}", f"data_large/{nested}", f"train/{nested}", *easy, nested, f"{folder}/{name}")


def inat_variants(path: str, folder: str) -> tuple[str, ...]:
    """Return where `train_val2018/<group>/<class>/<image>` may be: also below another folder, or none."""
    rest = path.partition("/")[2]
    parts = path.split("/")
    return path, rest or path, f"images/{rest}", "/".join(parts[-2:])


def class_folder(path: str) -> str:
    """Return the folder of a listed image's class, named as in the easy-format archive of Places."""
    parts = path.split("/")[:-1]
    if len(parts) > 2 and len(parts[1]) == 1:  # data_256/a/apartment_building/outdoor
        return "-".join(parts[2:])
    if len(parts) > 2 and parts[0] in ("train", "val"):  # train/apartment_building/outdoor
        return "-".join(parts[1:])
    return parts[-1] if parts else ""


# Sources: the released lists (counts, checksums) and Liu et al., Large-Scale Long-Tailed Recognition in an Open World
# (CVPR 2019), table 1; iNaturalist 2018's group sizes are not printed anywhere, so they are not checked.
BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="imagenet_lt",
            title="ImageNet-LT",
            num_classes=1000,
            max_count=1280,
            min_count=5,
            groups=(385, 479, 136),
            splits={
                "train": SplitSpec(num_images=115_846, lists=("ImageNet_LT_train.txt",), sha256="efdbdad4f050"),
                "val": SplitSpec(
                    num_images=20_000, per_class=20, lists=("ImageNet_LT_val.txt",), sha256="9af7ba688acf"
                ),
                "test": SplitSpec(
                    num_images=50_000, per_class=50, lists=("ImageNet_LT_test.txt",), sha256="d1590191cf8a"
                ),
            },
            variants=imagenet_variants,
            containers=("ILSVRC/Data/CLS-LOC",),
        ),
        Benchmark(
            name="places_lt",
            title="Places-LT",
            num_classes=365,
            max_count=4980,
            min_count=5,
            groups=(131, 163, 71),
            splits={
                "train": SplitSpec(num_images=62_500, lists=("Places_LT_train.txt",), sha256="726c4871dcbf"),
                "val": SplitSpec(num_images=7_300, per_class=20, lists=("Places_LT_val.txt",), sha256="719e3cf3766c"),
                "test": SplitSpec(
                    num_images=36_500, per_class=100, lists=("Places_LT_test.txt",), sha256="44eee8441c80"
                ),
            },
            variants=places_variants,
            containers=("places365_standard",),
        ),
        Benchmark(
            name="inat2018",
            title="iNaturalist 2018",
            num_classes=8142,
            max_count=1000,
            min_count=2,
            splits={
                "train": SplitSpec(
                    num_images=437_513, lists=("iNaturalist18_train.txt", "train2018.json"), sha256="158fa2dca040"
                ),
                "val": SplitSpec(
                    num_images=24_426,
                    per_class=3,
                    lists=("iNaturalist18_val.txt", "val2018.json"),
                    sha256="efaeff65f806",
                ),
            },
            variants=inat_variants,
        ),
    )
}
"""The benchmarks that come as list files, by name."""
