"""Why weights could not be had: one error with five reasons, each also of the built-in kind that callers expect."""

__all__ = [
    "WeightsAccessError",
    "WeightsCorruptError",
    "WeightsError",
    "WeightsFormatError",
    "WeightsNotFoundError",
    "WeightsUnavailableError",
]


class WeightsError(OSError):
    """Weights cannot be had, or are not what they should be. The message says which, why, and what to do."""


class WeightsNotFoundError(WeightsError, FileNotFoundError):
    """There is no such name, folder, repository, revision or file."""


class WeightsAccessError(WeightsError, PermissionError):
    """The Hub refuses: the repository is gated or disabled, or the token is wrong."""


class WeightsUnavailableError(WeightsError, ConnectionError):
    """The Hub cannot be reached, or must not be, and what is asked for is not in the cache."""


class WeightsCorruptError(WeightsError, ValueError):
    """The bytes are not those that were published: the size or the SHA-256 is another."""


class WeightsFormatError(WeightsError, ValueError):
    """The file is no file of weights, or its tensors or config do not fit the network."""
