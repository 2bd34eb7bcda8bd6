"""Stage 2 for any network: read a checkpoint of any format, rebalance it, hand it back in the same format."""

from ..checkpoints.import_run import Adopted, adopt
from ..checkpoints.reading import Checkpoint, read_checkpoint
from .checkpoints import rebalance_checkpoint
from .modules import rebalance_model

__all__ = ["Adopted", "Checkpoint", "adopt", "read_checkpoint", "rebalance_checkpoint", "rebalance_model"]
