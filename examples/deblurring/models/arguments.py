"""What all networks ask of their arguments."""

from torch import Tensor

__all__ = ["check_counts", "check_images"]


def check_counts(**counts: int) -> None:
    """Raise a ValueError that names the first of `counts` that is no integer of 1 or more."""
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{name} must be an integer of 1 or more, got {count!r}")


def check_images(images: Tensor, multiple: int) -> None:
    """Raise a ValueError unless `images` are (N, 3, H, W), with H and W multiples of `multiple` px."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be RGB (N, 3, H, W), got a tensor of the shape {tuple(images.shape)}")
    height, width = images.shape[-2:]
    if height % multiple or width % multiple or not height * width:
        raise ValueError(f"H and W must be multiples of {multiple} px, got {height} x {width}; pad the images first")
