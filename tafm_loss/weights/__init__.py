"""Backbones that travel: saved to folders, loaded from folders and the Hugging Face Hub, published there."""

from tafm_loss.weights.folders import save_backbone
from tafm_loss.weights.loading import load_backbone
from tafm_loss.weights.publishing import push_backbone

__all__ = ["load_backbone", "push_backbone", "save_backbone"]
