"""What a long run needs: a folder of its own, interrupts between two steps, checkpoints, and its processes."""

from tafm_loss._files import replacing, write_atomically
from tafm_loss.runs.checkpoint import CHECKPOINT_FILE, Checkpoint, Progress, warned
from tafm_loss.runs.folder import is_unused, locked, save_or_rescue
from tafm_loss.runs.processes import accelerated
from tafm_loss.runs.signals import interrupts

__all__ = [
    "CHECKPOINT_FILE",
    "Checkpoint",
    "Progress",
    "accelerated",
    "interrupts",
    "is_unused",
    "locked",
    "replacing",
    "save_or_rescue",
    "warned",
    "write_atomically",
]
