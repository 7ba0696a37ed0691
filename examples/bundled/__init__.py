"""How the bundled backbone `tafm-lite` is made: from which weights, and what its config says of it."""
