"""Any network of the timm library behind the same two methods as ours."""

from __future__ import annotations

from torch import Tensor, nn

from .head import LinearHead


class TimmNetwork(nn.Module):
    """A timm network whose last linear layer is a ``LinearHead`` named ``fc``; ``classifier`` is timm's name of it.

    Args:
        name: timm's model name.
        num_classes: Number of classes, C.

    Raises:
        ValueError: timm is not installed, does not know the name, or the network ends in no linear layer.
    """

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__()
        try:
            import timm
        except (ImportError, RuntimeError) as error:  # a torchvision built for another PyTorch
            raise ValueError(
                f"--backbone timm:{name}: timm cannot be imported ({error}); install it: pip install 'fastlt[timm]'"
            ) from error
        if not timm.is_model(name):
            nearest = timm.list_models(f"*{name[:6]}*")[:3]
            hint = f"; similar: {', '.join(nearest)}" if nearest else ""
            raise ValueError(f"--backbone timm:{name}: timm has no such model{hint}")
        self.trunk = timm.create_model(name, pretrained=False, num_classes=num_classes)
        classifier = self.trunk.get_classifier()
        if not isinstance(classifier, nn.Linear):
            raise ValueError(
                f"--backbone timm:{name}: its classifier is a {type(classifier).__name__}, expected one linear layer; "
                "choose a network that ends in one"
            )
        self.classifier = next(name for name, module in self.trunk.named_modules() if module is classifier)
        self.num_features = classifier.in_features
        self.trunk.reset_classifier(0)
        self.fc = LinearHead.initialised(num_classes, self.num_features)

    def features(self, images: Tensor) -> Tensor:
        """Map images [B, 3, H, W] to features [B, D]."""
        features: Tensor = self.trunk(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, 3, H, W] to logits [B, C]."""
        logits: Tensor = self.fc(self.features(images))
        return logits
