"""What the errors of the Hub's client mean, in words that help."""

from collections.abc import Callable
from typing import TypeVar

from tafm_loss.weights.errors import (
    WeightsAccessError,
    WeightsCorruptError,
    WeightsError,
    WeightsFormatError,
    WeightsNotFoundError,
    WeightsUnavailableError,
)

__all__ = ["UNREACHABLE", "in_our_words"]

Result = TypeVar("Result")
Reading = tuple[type[WeightsError], str]

NOT_CACHED = "it is not in the cache"
UNREACHABLE = f"{NOT_CACHED}, and the Hub cannot be reached: check the connection, or HF_ENDPOINT if it is a mirror"
# By the names of the client's errors and of what they are derived from.
NAMED: dict[str, Reading] = {
    "GatedRepoError": (WeightsAccessError, "access must be asked for on the repository's page; then pass token="),
    "RepositoryNotFoundError": (
        WeightsNotFoundError,
        "no such repository, or a private one: check the name, or pass the token= of one who may use it",
    ),
    "RevisionNotFoundError": (WeightsNotFoundError, "the repository has no such branch, tag or commit"),
    "EntryNotFoundError": (
        WeightsNotFoundError,
        "the repository has no such file; a backbone is a config.json and a model.safetensors, and pickles are never "
        "read",
    ),
    "DisabledRepoError": (WeightsAccessError, "the Hub has disabled the repository"),
    "OfflineModeIsEnabled": (
        WeightsUnavailableError,
        f"{NOT_CACHED}, and HF_HUB_OFFLINE forbids to ask the Hub: load it once without",
    ),
    "LocalTokenNotFoundError": (
        WeightsAccessError,
        "token=True needs a token: log in with `hf auth login`, or set HF_TOKEN",
    ),
    "HFValidationError": (WeightsNotFoundError, "no repository can have this name; expected owner/name"),
}
LOG_IN = "log in with `hf auth login`, set HF_TOKEN, or pass token="
TO_WRITE = (WeightsAccessError, f"a token that may write there is needed: {LOG_IN}")
# Where these are not what they are to who reads.
NAMED_IN_PUSH: dict[str, Reading] = {
    "OfflineModeIsEnabled": (WeightsUnavailableError, "HF_HUB_OFFLINE forbids to ask the Hub: push without it"),
    "LocalTokenNotFoundError": TO_WRITE,
    "RepositoryNotFoundError": TO_WRITE,
}
STATUSES: dict[int | None, Reading] = {
    401: (WeightsAccessError, "the token is refused: renew it, or read public repositories with token=False"),
    403: (WeightsAccessError, "it is forbidden: check what the token may do"),
    404: (WeightsNotFoundError, "the Hub knows nothing of this name: check it"),
    412: (WeightsError, "somebody else has changed the repository meanwhile: try again"),
    416: (WeightsCorruptError, "the cache has a broken part of it: try again"),
}
# The client speaks to the network through another of these in every major release; a user may have any.
NETWORK_PACKAGES = ("httpcore", "httpx", "hf_xet", "requests", "urllib3")


def in_our_words(ask: Callable[[], Result], action: str, *, writes: bool = False) -> Result:
    """Return what `ask` returns; what the client raises becomes a WeightsError that says "cannot load ...", and why.

    It is made of text alone. The client's errors hold the request, and with it the token, so ours is raised outside the
    handler: nothing may hang on it when it is logged or pickled. `writes` says that something is published.
    """
    try:
        return ask()
    except WeightsError:
        raise
    except Exception as error:  # anything: the client's HTTP library, of which there are three by version, lets it out
        kind, text = (_reading_of_push if writes else _reading)(error)
    raise kind(f"{action}: {text}")


def _reading_of_push(error: Exception) -> Reading:
    if isinstance(error, ValueError) and "metadata" in str(error):
        return WeightsFormatError, "the Hub refuses the YAML at the beginning of README.md"
    otherwise = TO_WRITE if _status(error) == 401 else _reading(error)
    return _named(error, NAMED_IN_PUSH) or otherwise


def _reading(error: Exception) -> Reading:
    from huggingface_hub import errors

    cause, status = error.__cause__, _status(error)
    if isinstance(error, errors.LocalEntryNotFoundError):
        # It says "check your connection" whatever happened; the truth is in its cause.
        if isinstance(cause, errors.OfflineModeIsEnabled) or (isinstance(cause, Exception) and _status(cause)):
            return _reading(cause)
        forbidden = f"{NOT_CACHED}, and local_files_only forbids to ask the Hub"
        return WeightsUnavailableError, forbidden if cause is None else UNREACHABLE
    if (named := _named(error, NAMED)) is not None:
        return named
    if isinstance(error, errors.HfHubHTTPError) or status is not None:
        otherwise = WeightsUnavailableError, f"the Hub answers with error {status}: try again later"
        return STATUSES.get(status, otherwise)
    if type(error) is ValueError and isinstance(cause, Exception):  # what was to be fetched again was not
        return _reading(cause)
    return _broken(error)


def _broken(error: Exception) -> Reading:
    name = type(error).__name__
    if "onsistency check failed" in str(error):
        return WeightsCorruptError, "it arrived incomplete: try again"
    if isinstance(error, (ConnectionError, TimeoutError)) or type(error).__module__.startswith(NETWORK_PACKAGES):
        return WeightsUnavailableError, f"the connection broke off: try again ({name})"
    if isinstance(error, OSError) and error.strerror:
        return WeightsError, f"the cache cannot be written ({error.strerror}): make room, or pass another cache_dir="
    return WeightsError, f"the client of the Hub failed in a way that is not foreseen ({name})"


def _named(error: Exception, names: dict[str, Reading]) -> Reading | None:
    return next((names[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in names), None)


def _status(error: BaseException | None) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
