"""The loss in trainers that people use: one small run for each."""
