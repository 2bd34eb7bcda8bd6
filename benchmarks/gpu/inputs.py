"""What feeds networks: decoding by the GPU, loaders, features; evaluation; and what cuDNN says that it can fuse."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch

from fastlt import recipe
from fastlt.data.transforms.preprocess import Preprocess
from fastlt.features.extraction import MIN_IMAGES_TO_COMPILE, Extractor, on_host
from fastlt.models import create_model
from fastlt.runtime.compiling import Compiler
from fastlt.runtime.device import algorithms, resolve_precision
from fastlt.runtime.log import first_line
from fastlt.runtime.machine import has_dali, resolve_threads
from fastlt.timing.loader import measure
from fastlt.timing.tune import Trial, trial_rate, tune
from fastlt.training.step import ValidationPredictor

from .rows import Figures, Row, Target, attempt
from .steps import BATCH, HEADLINE, SIZE, TOY, files, release

# Shapes: B batch, C channels.

ROI = (0.1, 0.7)  # of each side: what a random crop takes, about
PRECISIONS, MANY = ("bf16", "tf32", "fp32"), MIN_IMAGES_TO_COMPILE
FUSIONS = {  # channels in and out, kernel, groups, side
    "1 x 1": (256, 128, 1, 1, 56),
    "3 x 3": (128, 128, 3, 1, 56),
    "3 x 3, groups of 64": (128, 128, 3, 2, 56),
    "3 x 3, groups of 4": (128, 128, 3, 32, 56),
}


def rows(call: str, target: Target) -> Iterator[Row]:
    """Yield decoding, features and cuDNN's fusions in call a; loaders, their settings and evaluation in call c."""
    if call == "a":
        for precision in PRECISIONS:
            yield Row(f"features: eager, {precision}", functools.partial(features, target, precision, 0))
        yield Row("inputs: decoding", functools.partial(decoding, target))
        yield Row("fusions: scale, bias, ReLU, convolution, sums", functools.partial(fusions, target))
        for precision in PRECISIONS:
            yield Row(f"features: compiled, {precision}", functools.partial(features, target, precision, MANY), 120)
    elif call == "c":
        yield Row("inputs: evaluation", functools.partial(evaluation, target), 120)
        yield Row("inputs: loaders", functools.partial(loaders, target), 150, ("crops",))
        yield Row("inputs: loader settings", functools.partial(loader_settings, target), 300)


def decoding(target: Target) -> Iterator[Figures]:
    """Yield the rates of nvImageCodec on photographs of 500 x 375 pixels, whole or cropped, decoded to the device."""
    try:
        codec = importlib.import_module("nvidia.nvimgcodec")
    except ImportError as error:
        yield {"name": "nvImageCodec", "skipped": first_line(error)}
        return
    dataset = files(target)
    kinds = codec.BackendKind
    hybrid, cpu = codec.Backend(kinds.HYBRID_CPU_GPU), codec.Backend(kinds.CPU_ONLY)
    backends = {
        "hardware": [codec.Backend(kinds.HW_GPU_ONLY)],
        "hardware, rest hybrid": [codec.Backend(kinds.HW_GPU_ONLY, load_hint=0.65), hybrid],
        "hybrid": [hybrid],
        "CPU": [cpu],
    }
    for name, allowed in target.pick({"CPU": backends["CPU"]}, backends).items():
        for batch in target.pick((8,), (64, 256)):
            contents = [dataset.read(index) for index in range(batch)]
            for cropped in (False, True):
                label = f"{name}, batch {batch}{', cropped' * cropped}"
                yield from attempt(label, functools.partial(decode_rate, target, codec, allowed, contents, cropped))


def decode_rate(target: Target, codec: Any, backends: list[Any], contents: list[bytes], cropped: bool) -> Figures:
    """Return the images a second that a decoder makes of JPEGs.

    Raises:
        RuntimeError: It cannot decode some.
    """
    device = target.pick(-99999, 0)  # the codec's number for no GPU
    decoder = codec.Decoder(device_id=device, max_num_cpu_threads=resolve_threads(None), backends=backends)

    def decode() -> None:
        streams = [codec.CodeStream(content) for content in contents]
        if cropped:
            streams = [crop(codec, stream) for stream in streams]
        images = decoder.decode(streams)
        if any(image is None for image in images):
            raise RuntimeError("it cannot decode this")

    decode()
    passes = target.pick(1, max(4, 4096 // len(contents)))
    target.wait()
    began = time.perf_counter()
    for _ in range(passes):
        decode()
    target.wait()
    return {"images_per_s": passes * len(contents) / (time.perf_counter() - began)}


def crop(codec: Any, stream: Any) -> Any:
    """Return the part of an encoded image that lies within `ROI`."""
    corners = [[round(share * side) for side in (stream.height, stream.width)] for share in ROI]
    return stream.get_sub_code_stream(region=codec.Region(*corners))


def features(target: Target, precision: str, num_images: int) -> Iterator[Figures]:
    """Yield the rate of the features of images in memory, as the product computes those of so many."""
    (batch, size), repeats = target.pick((2, 32), (BATCH, SIZE)), target.pick(1, 20)
    model = create_model(target.pick(TOY, HEADLINE), 1000).to(target.device)
    extractor = Extractor(model, recipe("imagenet_lt"), target.device)
    images = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, device=target.device)
    one: Any = SimpleNamespace(images=images, jitter=None, order=None)

    def extract(num_batches: int) -> float:
        began = time.perf_counter()
        for _ in on_host(extractor.features([one] * num_batches, num_images, precision)):
            pass
        return time.perf_counter() - began

    with extractor.computing(precision):
        first_s = extract(3)
        seconds = extract(repeats)
    yield {"name": precision, "images_per_s": repeats * batch / seconds, "first_s": first_s}
    release()


def fusions(target: Target) -> Iterator[Figures]:
    """Yield whether cuDNN fuses batch norm's arithmetic into a bf16 convolution: scaling before, moments after it."""
    try:
        cudnn = importlib.import_module("cudnn")
    except ImportError as error:
        yield {"name": "cuDNN frontend", "skipped": first_line(error)}
        return
    if target.toy:
        yield {"name": "cuDNN frontend", "skipped": "it needs a GPU"}
        return
    for name, shape in FUSIONS.items():
        for before in (True, False):
            label = f"{name}{', without scale, bias and ReLU' * (not before)}"
            yield from attempt(label, functools.partial(supports, cudnn, shape, before))


def supports(cudnn: Any, shape: tuple[int, int, int, int, int], before: bool) -> Figures:
    """Return that cuDNN has a kernel for a fused convolution of [B, C, H, W].

    Raises:
        Exception: It has none; the message is cuDNN's.
    """
    inputs, outputs, kernel, groups, side = shape
    single, half = cudnn.data_type.FLOAT, cudnn.data_type.BFLOAT16
    graph = cudnn.pygraph(
        io_data_type=half, intermediate_data_type=single, compute_data_type=single, handle=cudnn.create_handle()
    )

    def tensor(name: str, channels: int, count: int, side: int) -> Any:
        strides = [channels * side**2, 1, channels * side, channels]
        return graph.tensor(name=name, dim=[count, channels, side, side], stride=strides, data_type=half)

    images = tensor("images", inputs, BATCH, side)
    if before:
        images = graph.scale(name="scale", input=images, scale=tensor("factors", inputs, 1, 1))
        images = graph.bias(name="bias", input=images, bias=tensor("shifts", inputs, 1, 1))
        images = graph.relu(name="relu", input=images)
    weight = tensor("weight", inputs // groups, outputs, kernel)
    padding = [kernel // 2] * 2
    out = graph.conv_fprop(image=images, weight=weight, padding=padding, stride=[1, 1], dilation=[1, 1])
    out.set_output(True).set_data_type(half)
    for moment in graph.genstats(input=out):
        moment.set_output(True).set_data_type(single)
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    graph.check_support()
    graph.build_plans()  # a kernel that is promised may still not compile
    return {"supported": True}


def evaluation(target: Target) -> Iterator[Figures]:
    """Yield the rate of predictions with a smaller last batch: eagerly, and compiled with that batch filled up."""
    backbone, (batch, size, last) = target.pick(TOY, HEADLINE), target.pick((4, 32, 3), (BATCH, SIZE, 77))
    config = dataclasses.replace(recipe("imagenet_lt"), precision=resolve_precision("auto", target.device))
    model = create_model(backbone, 1000).to(  # type: ignore[call-overload]
        device=target.device, memory_format=torch.channels_last
    )
    preprocess = Preprocess(config.mean, config.std).to(target.device)
    pixels = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, device=target.device)
    loader: Any = [SimpleNamespace(images=pixels)] * target.pick(1, 9) + [SimpleNamespace(images=pixels[:last])]
    for name, wanted in (("eager", False), ("compiled", not target.toy)):
        predictor = ValidationPredictor(model, preprocess, config, target.device, Compiler(wanted))
        passes = []
        with algorithms():
            for _ in range(target.pick(1, 3)):
                began = time.perf_counter()
                num = len(predictor.predict(loader))
                passes.append(time.perf_counter() - began)
        yield {"name": name, "images_per_s": num / min(passes), "first_pass_s": passes[0]}
    release()


def loaders(target: Target) -> Iterator[Figures]:
    """Yield the loader's stages on one thread, every backend, and a plain DataLoader."""
    batch, size = target.pick((4, 32), (BATCH, SIZE))
    threads = target.pick(1, resolve_threads(None))
    dataset = files(target)
    for found in measure(dataset, device=target.device, batch_size=batch, image_size=size, num_threads=threads):
        figure = {"name": found.name, "images_per_s": found.images_per_s, "threads": found.num_threads}
        yield figure | ({"error": found.error} if found.error else {})


def loader_settings(target: Target) -> Iterator[Figures]:
    """Yield the rates of a loader's settings, each tried with the best of those before it."""
    batch, size = target.pick((4, 32), (BATCH // 4, SIZE))  # one thread is tried too, and takes its time
    dataset = files(target)

    def rate(trial: Trial) -> float:
        return trial_rate(dataset, trial, device=target.device, batch_size=batch, image_size=size)

    backend = "dali" if has_dali() and not target.toy else "pillow"
    most = target.pick(1, resolve_threads(None))
    for trial, reached in tune(rate, loader=backend, most_threads=most, device=target.device):
        yield {"name": trial.flags(target.device), "images_per_s": reached}
