"""Data sets of blurred and sharp images."""
