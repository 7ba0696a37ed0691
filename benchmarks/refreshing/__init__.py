"""The parts of refresh.py."""
