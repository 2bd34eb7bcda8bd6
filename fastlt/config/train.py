"""The settings of stage 1."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Annotated

from .base import (
    FUNCTION,
    INTERPOLATIONS,
    LOADERS,
    LOSSES,
    PRECISIONS,
    PROTOCOLS,
    SAMPLINGS,
    Config,
    Device,
    Folder,
    Interpolation,
    Loader,
    Precision,
    Protocol,
    Sampling,
    changeable,
    check_choice,
    check_range,
    is_changeable,
    one_of,
)
from .plugins import check_choice_or_function, names_function

BATCH_NORMS = ("train", "frozen")
RELEASED_SAMPLES_PER_CLASS = 4
PREFETCH = 2
HW_DECODER_LOAD = 0.65  # DALI's own default


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """Stage 1: train a backbone and a linear classifier jointly.

    The defaults are the paper's for ImageNet-LT; a recipe (`--dataset`) replaces them, a flag overrides the recipe.
    Fields marked `changeable` may change when a run is resumed.
    """

    dataset: str = "folder"
    """Data set, and the recipe of its settings: see `fastlt recipes`."""
    data_root: Folder | None = changeable(None)
    """Folder with the images (train/<class>/*, val/<class>/*, optional test/), or with images and list files."""
    lists: Folder | None = changeable(None)
    """Folder with the list files (train.txt, val.txt, optional test.txt; each line is `path label`), if not in
    --data-root."""
    strict: bool = False
    """Stop at an image that cannot be read or is of a kind that is not, that two splits share, that is listed twice or
    that has two labels; by default they are counted and named, and what cannot be read is left out."""

    synthetic: bool = False
    """Train on a made-up set with the data set's classes, images and long tail instead, to measure the whole pipeline:
    each class has a few pictures, repeated in the list to match its number of images."""
    synthetic_size: Annotated[tuple[int, int], "WIDTH HEIGHT"] = (64, 64)
    """Width and height of the made-up pictures, pixels; 500 375 is the size of a photograph on the web."""
    imbalance: float = 100.0
    """cifar10_lt and cifar100_lt: images in the largest class divided by those in the smallest."""
    data_seed: int = 0
    """cifar10_lt and cifar100_lt: seed for choosing the images; 0 is the usual one."""

    backbone: Annotated[str, "NAME"] = "resnext50_32x4d"
    """Network: resnet8 (small images), resnet10/50/101/152, resnext50_32x4d, resnext101_32x4d, resnext152_32x4d, or
    timm:NAME."""
    epochs: int = 90
    """Number of epochs; an epoch is floor(images / batch size) steps under every sampling."""
    batch_size: int = 512
    """Images per step. When you change it, scale --lr in proportion."""
    lr: float = 0.2
    """Base learning rate; it follows a cosine to 0, stepped per epoch."""
    momentum: float = 0.9
    """SGD momentum (no Nesterov)."""
    weight_decay: float = 5e-4
    """Weight decay, on every parameter."""
    sampling: Sampling = "instance_balanced"
    """How often each class is drawn."""
    samples_per_class: int | None = None
    """Consecutive draws of a class under class_balanced; by default 1, and 4 under --protocol released."""
    protocol: Protocol = "paper"
    """`paper` follows the paper's intent, `released` the released code's quirks, each of which also has its own
    setting: --schedule, --samples-per-class and, where parts are frozen, --batch-norm."""
    schedule: Protocol | None = None
    """`paper` starts the cosine at --lr; `released` steps it before the first epoch, so that the last epoch runs at
    rate 0. By default as --protocol says."""
    warmup_epochs: int = 0
    """Epochs in which the learning rate rises linearly, step by step, to the schedule's value; the paper has none."""
    seed: int = 0
    """Seed for weights, order and augmentation."""

    init: Annotated[Path, "FILE|DIR"] | None = None
    """Start from these weights: a .pth or .safetensors file or a folder, in any form that `fastlt rebalance CHECKPOINT`
    reads. Averaged weights are preferred to plain ones; a head is taken class by class if the checkpoint names its
    classes, and left out if it is for others."""
    train_only: tuple[Annotated[str, "PART"], ...] = ()
    """Train only these parts, for example layer4,fc; the rest keeps the weights it starts with. Default: everything."""
    backbone_lr: float | None = None
    """Base learning rate of everything but the classifier fc; by default --lr. Places-LT uses 0.01, and 0.1 for fc."""
    batch_norm: Annotated[str, one_of(BATCH_NORMS)] | None = None
    """Batch norm in parts that --train-only leaves out: `frozen` keeps its running statistics, `train` normalises by
    the batch and lets them drift, as the released code does. Default: frozen, or train under --protocol released."""
    bn_group: int | None = None
    """Ghost batch norm: take the statistics over groups of this many images, as if each group were on a GPU of its own;
    64 is the paper's 512 on 8 GPUs. By default, over all images that a process sees at once."""
    sync_bn: bool = False
    """Take batch-norm statistics over all GPUs together."""

    loss: Annotated[str, one_of((*LOSSES, FUNCTION))] = "cross_entropy"
    """cb_focal: Cui 2019; ldam: Cao 2019, with deferred re-weighting and a cosine classifier; balanced_softmax:
    logit-adjusted cross entropy; module:function: your own, from logits [B, C], labels [B] and class counts [C] to the
    loss, [] or [B]."""
    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over all classes."""
    mixup: float = 0.0
    """Mixup's alpha: each step blends pairs of images and labels by a share drawn from Beta(alpha, alpha); 0 is off."""
    randaugment: int = 0
    """RandAugment: number of operations per image; 0 is off. All of the original operations but Equalize."""
    randaugment_magnitude: float = 9.0
    """RandAugment: strength of the operations, 0 to 30."""
    ema: float = 0.0
    """Keep an exponential moving average of the weights with this decay per step, and evaluate it; 0 is off."""

    image_size: int = 224
    """Side of the square network input, pixels."""
    crop_scale: Annotated[tuple[float, float], "LOW HIGH"] = (0.08, 1.0)
    """Smallest and largest share of an image's area that a training crop covers."""
    crop_ratio: Annotated[tuple[float, float], "LOW HIGH"] = (3 / 4, 4 / 3)
    """Narrowest and widest aspect ratio (width / height) of a training crop."""
    flip: float = 0.5
    """Probability that a training image is mirrored."""
    color_jitter: float = 0.4
    """Strength of the brightness, contrast and saturation jitter; 0 turns it off."""
    eval_resize: int | None = None
    """Short side before the centre crop in evaluation, pixels; by default image size x 256 / 224."""
    interpolation: Interpolation = "bilinear"
    """How images are resized, antialiased: bilinear, as in torchvision and the paper, or bicubic."""
    mean: Annotated[tuple[float, float, float], "R G B"] = (0.485, 0.456, 0.406)
    """Mean of the red, green and blue channels, in units of the full range."""
    std: Annotated[tuple[float, float, float], "R G B"] = (0.229, 0.224, 0.225)
    """Standard deviation of the red, green and blue channels, in units of the full range."""

    device: Device = changeable("auto")
    """Device to train on; auto takes a CUDA device if there is one."""
    precision: Precision = "auto"
    """bf16 uses autocast; auto takes bf16 on CUDA, and on a CPU that multiplies bf16 in hardware."""
    compile: bool = True
    """Compile the step with torch.compile: always on CUDA, on a CPU when the run is long enough to pay for it."""
    deterministic: bool = False
    """Compute with algorithms that give the same bits every time on one kind of GPU, at some cost in speed: `fastlt
    benchmark step` measures it (variant `fastlt deterministic`). Order and augmentation never depend on it."""
    channels_last: bool = changeable(True)
    """Keep images and weights in channels_last memory. This and the next three change only the speed: `fastlt benchmark
    step` times each on your machine."""
    cudnn_benchmark: bool = changeable(True)
    """CUDA: let cuDNN time its convolutions on the first batch and keep the fastest."""
    fused_sgd: bool = changeable(True)
    """CUDA: update all weights in one kernel."""
    cuda_graphs: bool = changeable(False)
    """CUDA: replay the compiled step as CUDA graphs; worthwhile where launching kernels takes longer than running them
    (small networks and images). It takes more memory."""
    loader: Loader = changeable("auto")
    """Image loader: memory decodes a set that fits once; device does so in GPU memory, where pixels may differ by 1 of
    255 (auto never takes it); dali and pillow decode in every epoch."""
    num_threads: int | None = changeable(None)
    """Loader threads or workers; by default one per processor that the process and its container may use, at most
    16. `fastlt benchmark loader --tune` finds the best value, and those of the next two settings, on a machine."""
    prefetch: int = changeable(PREFETCH)
    """Batches that DALI works on at a time, or that each Pillow worker has ready; each takes memory."""
    hw_decoder_load: float = changeable(HW_DECODER_LOAD)
    """DALI on a GPU with a hardware JPEG decoder (A100, H100 and later): the decoder's share of the files."""
    memory_share: float = changeable(0.25)
    """auto takes the memory loader if the decoded set needs at most this share of the free memory."""
    log_every: int = changeable(50)
    """Steps between log lines; in between, the loss stays on the device."""
    gpus: int | None = changeable(None)
    """Processes to train with, one per GPU; they share every batch. By default one."""
    bf16_gradients: bool = False
    """Several processes: average gradients in bfloat16. It halves what they exchange, and rounds it. Not measured."""
    accumulate: int = changeable(1)
    """Number of pieces in which a process computes its share of a batch, one after another, to save memory. Batch norm
    sees one piece at a time, as if each were on its own GPU."""

    out: Folder | None = changeable(None)
    """Run folder; by default runs/<dataset>/<backbone>-<time>."""
    resume: bool = changeable(False)
    """Continue the run in --out (by default the last one) where it stopped, with its own settings."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        parts = tuple(part.strip() for text in self.train_only for part in text.split(",") if part.strip())
        object.__setattr__(self, "train_only", parts)
        check_choice("--sampling", self.sampling, SAMPLINGS)
        check_choice("--protocol", self.protocol, PROTOCOLS)
        check_choice("--schedule", self.schedule or self.protocol, PROTOCOLS)
        check_choice_or_function("--loss", self.loss, LOSSES)
        check_choice("--batch-norm", self.batch_norm or BATCH_NORMS[0], BATCH_NORMS)
        check_choice("--precision", self.precision, PRECISIONS)
        check_choice("--interpolation", self.interpolation, INTERPOLATIONS)
        check_choice("--loader", self.loader, LOADERS)
        for flag, value in (
            ("--epochs", self.epochs),
            ("--batch-size", self.batch_size),
            ("--image-size", self.image_size),
            ("--log-every", self.log_every),
            ("--num-threads", 1 if self.num_threads is None else self.num_threads),
            ("--prefetch", self.prefetch),
            ("--gpus", 1 if self.gpus is None else self.gpus),
            ("--accumulate", self.accumulate),
            ("--bn-group", 1 if self.bn_group is None else self.bn_group),
            ("--samples-per-class", 1 if self.samples_per_class is None else self.samples_per_class),
            ("--eval-resize", self.image_size if self.eval_resize is None else self.eval_resize),
        ):
            check_range(flag, value, low=1)
        check_range("--lr", self.lr, low=0, low_open=True)
        check_range("--backbone-lr", self.lr if self.backbone_lr is None else self.backbone_lr, low=0, low_open=True)
        check_range("--warmup-epochs", self.warmup_epochs, low=0, high=self.epochs)
        check_range("--label-smoothing", self.label_smoothing, low=0, high=1)
        check_range("--mixup", self.mixup, low=0)
        check_range("--randaugment", self.randaugment, low=0, high=16)
        check_range("--randaugment-magnitude", self.randaugment_magnitude, low=0, high=30)
        check_range("--ema", self.ema, low=0, high=1)
        check_range("--momentum", self.momentum, low=0, high=1)
        check_range("--weight-decay", self.weight_decay, low=0)
        check_range("--flip", self.flip, low=0, high=1)
        check_range("--color-jitter", self.color_jitter, low=0, high=1)
        check_range("--hw-decoder-load", self.hw_decoder_load, low=0, high=1)
        check_range("--memory-share", self.memory_share, low=0, high=1)
        check_range("--seed", self.seed, low=0, high=2**63 - 1)
        check_range("--imbalance", self.imbalance, low=1)
        check_range("--data-seed", self.data_seed, low=0, high=2**32 - 1)
        for side in self.synthetic_size:
            check_range("--synthetic-size", side, low=16, high=4096, unit="pixels")
        if self.samples_per_class not in (None, 1) and self.sampling != "class_balanced":
            raise ValueError(
                f"--samples-per-class: got {self.samples_per_class} with --sampling {self.sampling}; "
                "expected --sampling class_balanced; choose it, or drop the flag"
            )
        if self.batch_norm is not None and not self.train_only:
            raise ValueError(
                f"--batch-norm: got {self.batch_norm} without --train-only; expected parts that are not trained; name "
                "those that are with --train-only, or drop the flag"
            )
        if self.label_smoothing and (self.loss == "cb_focal" or names_function(self.loss)):
            raise ValueError(
                f"--label-smoothing: got {self.label_smoothing} with --loss {self.loss}; expected cross_entropy, "
                "balanced_softmax or ldam, which have a target to spread; choose one of them, or drop the flag"
            )
        if self.sync_bn and self.bn_group is not None:
            raise ValueError(
                f"--sync-bn: got it with --bn-group {self.bn_group}; expected statistics of all images or of groups; "
                "drop one of the flags"
            )
        if self.cuda_graphs and not self.compile:
            raise ValueError(
                "--cuda-graphs: got it with --no-compile; expected a compiled step to replay; drop one of the flags"
            )
        if self.eval_resize is not None and self.eval_resize < self.image_size:
            raise ValueError(
                f"--eval-resize: got {self.eval_resize}; expected at least the crop's side; give --image-size "
                f"({self.image_size}) or more"
            )
        for flag, (low, high), most in (
            ("--crop-scale", self.crop_scale, 1.0),
            ("--crop-ratio", self.crop_ratio, math.inf),
        ):
            if not (0 < low <= high <= most and math.isfinite(high)):
                bound = f" <= {most:g}" if most < math.inf else ""
                raise ValueError(f"{flag}: got {low} {high}; expected two numbers with 0 < low <= high{bound}")
        if not all(math.isfinite(v) for v in self.mean):
            raise ValueError(f"--mean: got {self.mean}; expected three finite numbers")
        if not all(math.isfinite(v) and v > 0 for v in self.std):
            raise ValueError(f"--std: got {self.std}; expected three positive numbers")

    @property
    def resize(self) -> int:
        """Short side before the centre crop, pixels: the paper's 256 for 224, scaled to the image size."""
        return self.eval_resize if self.eval_resize is not None else round(self.image_size * 256 / 224)

    @property
    def draws_per_class(self) -> int:
        """Consecutive draws of a class under class-balanced sampling."""
        return self.samples_per_class or (RELEASED_SAMPLES_PER_CLASS if self.protocol == "released" else 1)

    @property
    def freezes_batch_norm(self) -> bool:
        """Whether batch norm in the parts that are not trained keeps its running statistics."""
        return (self.batch_norm or ("train" if self.protocol == "released" else "frozen")) == "frozen"

    def fingerprint(self) -> str:
        """Return a hash of the settings that decide what is computed; 16 hexadecimal digits.

        Settings at their defaults are left out, so that a setting added later changes no fingerprint.
        """
        values = self.to_json()
        decisive = {
            field.name: values[field.name]
            for field in dataclasses.fields(self)
            if not is_changeable(field) and getattr(self, field.name) != field.default
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]
