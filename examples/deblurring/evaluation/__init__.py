"""Measuring what a network restores."""
