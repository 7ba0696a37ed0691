"""Backbones that travel: created by name, loaded from folders and the Hugging Face Hub, published there."""
