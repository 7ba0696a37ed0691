"""What `misaligned.py` is made of."""
