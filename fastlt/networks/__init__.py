"""Stage 2 for any network: read a checkpoint of any format, rebalance it, hand it back in the same format."""

from .adopting import Adopted, adopt
from .checkpoints import rebalance_checkpoint
from .modules import rebalance_model
from .reading import Checkpoint, read_checkpoint

__all__ = ["Adopted", "Checkpoint", "adopt", "read_checkpoint", "rebalance_checkpoint", "rebalance_model"]
