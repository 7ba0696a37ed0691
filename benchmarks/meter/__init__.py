"""The parts of blur_meter.py."""
