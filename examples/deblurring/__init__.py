"""Retraining and evaluating deblurring networks."""
