"""A batch depends on data, seed and step alone: not on backend, threads, start or number of ranks."""

import importlib.util
from collections.abc import Callable

import numpy as np
import pytest
import torch

from fastlt.config import INTERPOLATIONS
from fastlt.data.dataset import LongTailedDataset
from fastlt.data.image import decode_rgb
from fastlt.data.loaders.base import Batch
from fastlt.data.loaders.loader import Loader, eval_loader
from fastlt.data.transforms.augmentation import EvalTransform

needs_dali = pytest.mark.skipif(importlib.util.find_spec("nvidia.dali") is None, reason="DALI is not installed")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
BACKENDS = ("memory", "device", "pillow", pytest.param("dali", marks=needs_dali))
Open = Callable[..., Loader]


def drain(loader: Loader) -> list[Batch]:
    with loader:
        return list(loader)


def assert_same_draws(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a.ids, b.ids)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.jitter, b.jitter)
        assert torch.equal(a.order, b.order)


def assert_equal(left: list[Batch], right: list[Batch]) -> None:
    assert_same_draws(left, right)
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a.images, b.images)


def difference(left: list[Batch], right: list[Batch]) -> np.ndarray:
    """Return the absolute differences of all images: int [N, S, S, 3]."""
    pairs = [(a.images.int(), b.images.int()) for a, b in zip(left, right, strict=True)]
    return torch.cat([(a - b).abs() for a, b in pairs]).numpy()


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_pillow_memory_and_device_make_the_same_bits(
    interpolation: str, dataset: LongTailedDataset, open_train: Open
) -> None:
    settings = {"interpolation": interpolation}
    pillow = drain(open_train(dataset, "pillow", num_threads=2, **settings))
    assert_equal(pillow, drain(open_train(dataset, "memory", **settings)))
    assert_equal(pillow, drain(open_train(dataset, "device", **settings)))


@needs_dali
def test_dali_makes_the_same_draws_and_nearly_the_same_pixels(dataset: LongTailedDataset, open_train: Open) -> None:
    dali, memory = drain(open_train(dataset, "dali")), drain(open_train(dataset, "memory"))
    assert_same_draws(dali, memory)
    # The decoders agree; the filters round differently and differ in what they make of a window's edge.
    error = difference(dali, memory)
    assert error.mean() < 0.5
    assert error[:, 4:-4, 4:-4].max() <= 3
    assert error.max() <= 24


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_change_nothing(backend: str, dataset: LongTailedDataset, open_train: Open) -> None:
    once = drain(open_train(dataset, backend, num_threads=1))
    assert_equal(drain(open_train(dataset, backend, num_threads=2)), once)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_resumed_loader_goes_on_exactly(backend: str, dataset: LongTailedDataset, open_train: Open) -> None:
    whole = drain(open_train(dataset, backend))
    assert_equal(drain(open_train(dataset, backend, start_step=5, num_steps=4)), whole[5:])


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_iteration_starts_anew(backend: str, dataset: LongTailedDataset, open_train: Open) -> None:
    with open_train(dataset, backend, num_steps=4) as loader:
        assert len(loader) == 4
        next(iter(loader))
        assert_equal(list(loader), list(loader))


@pytest.mark.parametrize("backend", BACKENDS)
def test_ranks_share_the_global_batches(backend: str, dataset: LongTailedDataset, open_train: Open) -> None:
    whole = drain(open_train(dataset, backend, num_steps=4))
    ranks = [drain(open_train(dataset, backend, num_steps=4, rank=rank, world_size=2)) for rank in range(2)]
    for step, batch in enumerate(whole):
        halves = [rank[step] for rank in ranks]
        np.testing.assert_array_equal(np.concatenate([half.ids for half in halves]), batch.ids)
        assert torch.equal(torch.cat([half.images for half in halves]), batch.images)
        assert torch.equal(torch.cat([half.jitter for half in halves]), batch.jitter)


@pytest.mark.parametrize("backend", BACKENDS)
def test_labels_and_layout_are_as_promised(backend: str, dataset: LongTailedDataset, open_train: Open) -> None:
    for batch in drain(open_train(dataset, backend, num_steps=2)):
        assert batch.images.dtype == torch.uint8
        assert batch.images.shape == (8, 24, 24, 3)
        assert batch.images.permute(0, 3, 1, 2).is_contiguous(memory_format=torch.channels_last)
        assert batch.labels.tolist() == dataset.labels[batch.ids].tolist()
        assert batch.labels.dtype == torch.int64


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_global_generator_is_left_alone(backend: str, dataset: LongTailedDataset, open_train: Open) -> None:
    before = torch.random.get_rng_state()
    drain(open_train(dataset, backend, num_steps=1))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_evaluation_takes_every_sample_once_in_order(
    backend: str, interpolation: str, dataset: LongTailedDataset
) -> None:
    transform = EvalTransform(size=24, resize=28, interpolation=interpolation)
    batches = drain(eval_loader(dataset, transform, batch_size=10, backend=backend, num_threads=2))
    assert [len(batch.ids) for batch in batches] == [10, 10, 6]
    assert np.concatenate([batch.ids for batch in batches]).tolist() == list(range(26))
    assert batches[2].images.shape == (6, 24, 24, 3)
    assert batches[0].jitter is None
    assert batches[0].order is None
    boxes = transform.boxes(dataset.sizes)
    for index, image in enumerate(torch.cat([batch.images for batch in batches])):
        pixels = torch.from_numpy(decode_rgb(dataset.path(index)))
        expected = torch.from_numpy(_pillow_box(pixels.numpy(), boxes[index], interpolation))
        error = (image.int() - expected.int()).abs()
        assert error.max() <= (3 if backend == "dali" else 1)
        assert error.float().mean() < 0.5


def _pillow_box(pixels: np.ndarray, box: np.ndarray, interpolation: str) -> np.ndarray:
    from PIL import Image

    chosen = Image.Resampling[interpolation.upper()]
    resized = Image.fromarray(pixels).resize((24, 24), chosen, box=tuple(box.tolist()))
    return np.array(resized)


@pytest.mark.parametrize("backend", BACKENDS)
def test_evaluation_of_a_selection_keeps_its_order(backend: str, dataset: LongTailedDataset) -> None:
    transform = EvalTransform(size=24, resize=28)
    everything = drain(eval_loader(dataset, transform, batch_size=26, backend=backend, num_threads=1))[0]
    indices = np.array([20, 3, 3, 25, 0])
    batches = drain(eval_loader(dataset, transform, batch_size=3, backend=backend, num_threads=1, indices=indices))
    assert np.concatenate([batch.ids for batch in batches]).tolist() == indices.tolist()
    assert torch.equal(torch.cat([batch.images for batch in batches]), everything.images[torch.from_numpy(indices)])


@needs_gpu
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gpu_gets_the_same_batches(backend: str, dataset: LongTailedDataset, open_train: Open) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    on_gpu = drain(open_train(dataset, backend, device=device))
    assert all(part.device == device for batch in on_gpu for part in batch if isinstance(part, torch.Tensor))
    on_gpu = [Batch(*(part.cpu() if isinstance(part, torch.Tensor) else part for part in batch)) for batch in on_gpu]
    if backend == "dali":
        # Another decoder and another filter; but the same part of the same picture.
        memory = drain(open_train(dataset, "memory"))
        assert_same_draws(on_gpu, memory)
        assert difference(on_gpu, memory).mean() < 2
    else:
        assert_equal(on_gpu, drain(open_train(dataset, backend)))
