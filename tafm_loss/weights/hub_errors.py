"""What the errors of the Hub's client mean, in words that help."""

from tafm_loss.weights.errors import (
    WeightsAccessError,
    WeightsCorruptError,
    WeightsError,
    WeightsNotFoundError,
    WeightsUnavailableError,
)

__all__ = ["UNREACHABLE", "weights_error"]

Reading = tuple[type[WeightsError], str]

NOT_CACHED = "it is not in the cache"
UNREACHABLE = f"{NOT_CACHED}, and the Hub cannot be reached: check the connection, or HF_ENDPOINT if it is a mirror"
OFFLINE = f"{NOT_CACHED}, and HF_HUB_OFFLINE forbids to ask the Hub: load it once without"
NO_TOKEN = "token=True needs a token: log in with `hf auth login`, or set HF_TOKEN"
TOKEN_TO_WRITE = "a token that may write there is needed: log in with `hf auth login`, set HF_TOKEN, or pass token="
# By the names of the client's errors; the first that fits counts.
REFUSALS: dict[str, Reading] = {
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


def weights_error(error: Exception, action: str, *, writes: bool = False) -> WeightsError:
    """Return the error of ours for one of the client's.

    It is made of text alone. The client's errors hold the request, and with it the token, so ours must be raised
    outside the handler that caught `error`: nothing may hang on it when it is logged or pickled.

    Args:
        error: what the client raised.
        action: what failed, as in "cannot load ...".
        writes: whether something was to be published.
    """
    kind, text = (_reading_of_push if writes else _reading)(error)
    return kind(f"{action}: {text}")


def _reading(error: Exception) -> Reading:
    from huggingface_hub import errors

    cause = error.__cause__
    if isinstance(error, errors.LocalEntryNotFoundError):
        # In 0.x it is an HfHubHTTPError too, without a response. It says "check your connection" whatever happened;
        # the truth is in its cause.
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return WeightsUnavailableError, OFFLINE
        if isinstance(cause, Exception) and _status(cause) is not None:
            return _refused(cause)
        forbidden = f"{NOT_CACHED}, and local_files_only forbids to ask the Hub"
        return WeightsUnavailableError, forbidden if cause is None else UNREACHABLE
    if isinstance(error, (errors.HfHubHTTPError, errors.EntryNotFoundError)) or _status(error) is not None:
        return _refused(error)
    if type(error) is ValueError and isinstance(cause, Exception):  # what was to be fetched again was not
        return _reading(cause)
    known: dict[type[Exception], Reading] = {
        errors.OfflineModeIsEnabled: (WeightsUnavailableError, OFFLINE),
        errors.LocalTokenNotFoundError: (WeightsAccessError, NO_TOKEN),
        errors.HFValidationError: (WeightsNotFoundError, "no repository can have this name; expected owner/name"),
    }
    return known.get(type(error)) or _broken(error)


def _reading_of_push(error: Exception) -> Reading:
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return WeightsUnavailableError, "HF_HUB_OFFLINE forbids to ask the Hub: push without it"
    no_token = (errors.LocalTokenNotFoundError, errors.RepositoryNotFoundError)
    if isinstance(error, no_token) or _status(error) == 401:
        return WeightsAccessError, TOKEN_TO_WRITE
    return _reading(error)


def _refused(error: Exception) -> Reading:
    """Read what the Hub answered."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    named = next((reading for name, reading in REFUSALS.items() if name in kinds), None)
    status = _status(error)
    otherwise = WeightsUnavailableError, f"the Hub answers with error {status}: try again later"
    return named or STATUSES.get(status, otherwise)


def _broken(error: Exception) -> Reading:
    """Read what went wrong on the way or on the disk."""
    name = type(error).__name__
    if "onsistency check failed" in str(error):
        return WeightsCorruptError, "it arrived incomplete: try again"
    if isinstance(error, (ConnectionError, TimeoutError)) or type(error).__module__.startswith(NETWORK_PACKAGES):
        return WeightsUnavailableError, f"the connection broke off: try again ({name})"
    if isinstance(error, OSError) and error.strerror:
        return WeightsError, f"the cache cannot be written ({error.strerror}): make room, or pass another cache_dir="
    return WeightsError, f"the client of the Hub failed in a way that is not foreseen ({name})"


def _status(error: BaseException | None) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
