"""What several commands understand and say in the same way."""

import argparse
import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from tafm_loss.backbones.backbone import Backbone

__all__ = ["Commands", "count", "kind_shares", "open_backbone", "warnings_in_lines"]

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def open_backbone(source: str, weights: str | None = None, layers: Sequence[str] | None = None) -> "Backbone":
    """Return the backbone that a command line names.

    Args:
        source: a name of `list_backbones()`, a folder or a Hub id.
        weights: for a name alone: a file, or "none" for random weights; None for the default ones.
        layers: for a name alone: the taps to read; None for the default ones.

    Raises:
        ValueError: if there is no such backbone, or `weights` or `layers` are given for a folder or Hub id.
    """
    from tafm_loss.backbones.registry import create_backbone, list_backbones
    from tafm_loss.weights.loading import load_backbone

    if weights is None and layers is None:
        return load_backbone(source)
    if source not in list_backbones():
        raise ValueError(
            f"--weights and --layers apply to a name that `tafm-loss info` lists, not to {source}; to read a folder at "
            "other taps, give the name of its architecture and --weights FOLDER/model.safetensors"
        )
    chosen = {None: "default", "none": None}.get(weights, weights)
    return create_backbone(source, weights=chosen, layers=layers)


def kind_shares(kinds: Sequence[str]) -> dict[str, float]:
    """Turn "shake=0.7 defocus=0.3" or "shake defocus" into probabilities, up to a factor."""
    shares = {}
    for kind in kinds:
        name, _, share = kind.partition("=")
        if name in shares:
            raise ValueError(f"--kind names {name} twice")
        try:
            shares[name] = float(share or 1)
        except ValueError:
            raise ValueError(f"--kind takes names and NAME=SHARE with a number as share, got {kind}") from None
    return shares


def count(number: int, noun: str) -> str:
    """Return "1 image", "2 images"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


@contextlib.contextmanager
def warnings_in_lines() -> Iterator[None]:
    """Tell warnings in one line each on standard error."""
    from tqdm import tqdm

    def tell(message: Warning | str, *_: Any, **__: Any) -> None:
        # Above a progress bar, not in it.
        tqdm.write(f"tafm-loss: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = tell
        yield
