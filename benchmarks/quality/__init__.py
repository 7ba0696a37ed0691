"""The parts of deblurring_quality.py."""
