"""The commands of `tafm-loss`, a module each."""
