"""Deblurring networks, and their weights."""
