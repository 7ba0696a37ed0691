"""A feature-matching loss for image deblurring whose backbone knows images and what deblurring leaves.

The public names stand in `__init__.pyi`. They are imported when they are first used, so that `tafm-loss --help` does
not wait for torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
