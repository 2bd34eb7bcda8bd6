"""Networks of the timm library."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime.log import first_line
from .head import HEAD, LinearHead
from .network import Network, cut, in_head

BACKBONE = "trunk."  # the first part of the names of a backbone's tensors: the attribute's name, as in older files
POSITIONS = f"{BACKBONE}pos_embed"
STAGES = ("stages", "blocks", "layers")  # where timm's networks keep their stages
WRONG_SIZE = (AssertionError, RuntimeError, TypeError, ValueError)  # what timm's networks raise for a wrong image size


class TimmNetwork(Network):
    """A timm network whose last linear layer is a `LinearHead` named `fc`; `classifier` is timm's name for that layer.

    `arguments` has `img_size` if the network is built for an image size other than timm's own.

    Args:
        name: timm's model name.
        num_classes: Number of classes, C.
        image_size: Side of the images, pixels; by default timm's own, unchecked.

    Raises:
        ValueError: timm is not installed or does not know the name, or the network does not end in a linear layer or
            accept images of that size.
    """

    def __init__(self, name: str, num_classes: int, image_size: int | None = None) -> None:
        super().__init__()
        try:
            import timm
        except (ImportError, RuntimeError) as error:  # for example, a torchvision built for another PyTorch
            raise ValueError(
                f"--backbone: got timm:{name}, but timm cannot be imported ({error}); expected it installed; "
                "pip install 'fastlt[timm]'"
            ) from error
        if not timm.is_model(name):
            nearest = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=3))
            hint = f"did you mean {nearest}?" if nearest else "choose one of timm.list_models()"
            raise ValueError(f"--backbone: got timm:{name}; expected a model that timm has; {hint}")
        self.trunk, self.arguments = build(name, num_classes, image_size)
        classifier = self.trunk.get_classifier()
        if not isinstance(classifier, nn.Linear):
            raise ValueError(
                f"--backbone: got timm:{name}, whose classifier is a {type(classifier).__name__}; expected one linear "
                "layer; choose a network that ends in one"
            )
        self.classifier = next(name for name, module in self.trunk.named_modules() if module is classifier)
        self.num_features = classifier.in_features
        self.trunk.reset_classifier(0)
        self.fc = LinearHead.initialised(num_classes, self.num_features)

    def features(self, images: Tensor) -> Tensor:
        """Map images [B, 3, H, W] to features [B, D]."""
        features: Tensor = self.trunk(images)
        return features

    def stages(self) -> list[nn.Module]:
        """Return the stem and the stages if timm names them: stages, blocks, layers, or layer1, layer2 and so on."""
        modules: list[nn.Module] = [nn.ParameterList(self.trunk.parameters(recurse=False))]  # such as class tokens
        starts: list[int] = []
        children = dict(self.trunk.named_children())
        holder = next((name for name in STAGES if name in children), None)
        for name, module in children.items():
            parts = list(module.children()) if name == holder else [module]
            if name == holder or (holder is None and name.startswith("layer")):
                starts += range(len(modules), len(modules) + len(parts))
            modules += parts
        return cut(modules, starts)

    def checkpoint_names(self) -> dict[str, str]:
        """Return our name of each tensor -> timm's."""
        return {
            name: f"{self.classifier}{name.removeprefix(HEAD)}" if in_head(name) else name.removeprefix(BACKBONE)
            for name in self.state_dict()
        }

    def shape_flags(self) -> str:
        """Return --backbone and --image-size, with the image size if it is not timm's own."""
        size = self.arguments.get("img_size")
        sizes = f" (got {size}; timm's own is {own_size(self.trunk)})" if size else ""
        return f"--backbone and --image-size{sizes}"

    def preprocessing(self) -> Mapping[str, Any]:
        """Return timm's configuration of its pretrained weights."""
        return dict(self.trunk.pretrained_cfg or {})

    def pooling(self) -> str | None:
        """Return how the network pools features; None if unknown."""
        pool = getattr(self.trunk, "global_pool", getattr(getattr(self.trunk, "head", None), "global_pool", None))
        kind = getattr(pool, "pool_type", pool)
        return kind if isinstance(kind, str) else None

    def adapt(self, weights: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], str]:
        """Resample the position embeddings of a transformer that was trained on square images of another size.

        Those of the class token and other special tokens come first. Those of the grid of patches follow; timm
        interpolates them bicubically, as for its own files (Dosovitskiy et al., ICLR 2021, section 3.2).

        Args:
            weights: The weights, by our names.

        Returns:
            (the weights, a note on how they were changed: empty if they were not).
        """
        theirs, ours = weights.get(POSITIONS), self.state_dict().get(POSITIONS)
        grid = getattr(getattr(self.trunk, "patch_embed", None), "grid_size", None)
        if theirs is None or ours is None or grid is None or not theirs.ndim == ours.ndim == 3:
            return weights, ""
        num_special = ours.shape[1] - math.prod(grid)
        side = math.isqrt(max(0, theirs.shape[1] - num_special))
        if num_special < 0 or side == grid[0] or theirs.shape != (1, num_special + side**2, ours.shape[2]):
            return weights, ""
        from timm.layers import resample_abs_pos_embed

        resampled = resample_abs_pos_embed(theirs, list(grid), [side, side], num_special)
        pixels = self.trunk.patch_embed.patch_size[0]
        note = f"; position embeddings resampled from images of {side * pixels} pixels to {grid[0] * pixels}"
        return {**weights, POSITIONS: resampled}, note


def build(name: str, num_classes: int, size: int | None) -> tuple[Any, dict[str, int]]:
    """Return timm's network and the arguments it was built with: `img_size` only if this size requires it."""
    import timm

    network = timm.create_model(name, pretrained=False, num_classes=num_classes)
    default = own_size(network)
    if size is None or size == default:
        return network, {}
    try:
        try_size(network, size)
    except WRONG_SIZE as error:
        try:
            network = timm.create_model(name, pretrained=False, num_classes=num_classes, img_size=size)
            try_size(network, size)
        except WRONG_SIZE:
            reason = first_line(error).rstrip(".")
            raise ValueError(
                f"--image-size: got {size}; expected a size that timm:{name} takes ({reason}); give its own, {default}"
            ) from error
        return network, {"img_size": size}
    return network, {}


def knows(name: str) -> bool | None:
    """Return whether timm has a network of a name; None where timm cannot be imported."""
    try:
        import timm
    except (ImportError, RuntimeError):
        return None
    return bool(timm.is_model(name))


def pretrained_configuration(name: str) -> Mapping[str, Any] | None:
    """Return timm's configuration of a network's pretrained weights, empty if it has none; None without timm."""
    try:
        from timm.models import get_pretrained_cfg
    except (ImportError, RuntimeError):
        return None
    config = get_pretrained_cfg(name)
    return dict(config.to_dict()) if config else {}


def own_size(network: nn.Module) -> int:
    """Return the side of the images that timm trains a network on, pixels; 0 if unknown."""
    side: int = network.pretrained_cfg.get("input_size", (3, 0, 0))[-1]  # type: ignore[union-attr, operator]
    return side


@torch.inference_mode()
def try_size(network: nn.Module, size: int) -> None:
    """Send an image [1, 3, size, size] through a network."""
    network.eval()(torch.zeros(1, 3, size, size))
    network.train()
