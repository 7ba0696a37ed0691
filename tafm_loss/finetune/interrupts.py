"""Ending a long run between two steps."""

from tafm_loss.finetune.checkpoint import interrupts

__all__ = ["interrupts"]
