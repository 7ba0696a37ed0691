"""What the errors of the Hub's client mean, in words that help."""

from tafm_loss.backbones.weight_errors import (
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
BROKEN_OFF = "the connection broke off: try again"


def weights_error(error: Exception, action: str) -> WeightsError:
    """Return the error of ours for one of the client's; `action` says what failed, as in "cannot load ...".

    It is made of text alone. The client's errors hold the request, and with it the token, so ours must be raised
    outside the handler that caught `error`: nothing may hang on it when it is logged or pickled.
    """
    kind, text = _reading(error)
    return kind(f"{action}: {text}")


def _reading(error: Exception) -> Reading:
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError):  # in 0.x it is an HfHubHTTPError too, without a response
        return _not_cached(error)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return WeightsUnavailableError, OFFLINE
    if isinstance(error, errors.HFValidationError):
        return WeightsNotFoundError, "no repository can have this name; expected owner/name"
    if isinstance(error, (errors.HfHubHTTPError, errors.EntryNotFoundError)):
        return _refused(error)
    return _broken(error)


def _not_cached(error: Exception) -> Reading:
    """Read the error that says "check your connection" whatever happened; the truth is in its cause."""
    from huggingface_hub import errors

    cause = error.__cause__
    if isinstance(cause, errors.OfflineModeIsEnabled):
        return WeightsUnavailableError, OFFLINE
    if _status(cause) is not None:
        assert isinstance(cause, Exception)
        return _refused(cause)
    if cause is None:
        return WeightsUnavailableError, f"{NOT_CACHED}, and local_files_only forbids to ask the Hub"
    return WeightsUnavailableError, UNREACHABLE


def _refused(error: Exception) -> Reading:
    """Read what the Hub answered."""
    from huggingface_hub import errors

    known: tuple[tuple[type[Exception], Reading], ...] = (
        (
            errors.GatedRepoError,  # before the next one, of which it is a kind
            (WeightsAccessError, "access must be asked for on the repository's page; then pass token="),
        ),
        (
            errors.RepositoryNotFoundError,
            (
                WeightsNotFoundError,
                "no such repository, or a private one: check the name, or pass the token= of one who may use it",
            ),
        ),
        (errors.RevisionNotFoundError, (WeightsNotFoundError, "the repository has no such branch, tag or commit")),
        (
            errors.EntryNotFoundError,
            (
                WeightsNotFoundError,
                "the repository has no such file; a backbone is a config.json and a model.safetensors, and pickles "
                "are never read",
            ),
        ),
        (errors.DisabledRepoError, (WeightsAccessError, "the Hub has disabled the repository")),
    )
    status = _status(error)
    by_status: dict[int | None, Reading] = {
        401: (WeightsAccessError, "the token is refused: renew it, or read public repositories with token=False"),
        403: (WeightsAccessError, "it is forbidden: check what the token may do"),
        404: (WeightsNotFoundError, "the Hub knows nothing of this name: check it"),
        416: (WeightsCorruptError, "the cache has a broken part of it: try again"),
        412: (WeightsError, "somebody else has changed the repository meanwhile: try again"),
    }
    for kind, reading in known:
        if isinstance(error, kind):
            return reading
    return by_status.get(status, (WeightsUnavailableError, f"the Hub answers with error {status}: try again later"))


def _broken(error: Exception) -> Reading:
    """Read what went wrong on the way or on the disk."""
    if "onsistency check failed" in str(error):
        return WeightsCorruptError, "it arrived incomplete: try again"
    on_the_way = (ConnectionError, TimeoutError)
    if isinstance(error, OSError) and error.strerror and not isinstance(error, on_the_way):
        return WeightsError, f"the cache cannot be written ({error.strerror}): make room, or pass another cache_dir="
    return WeightsUnavailableError, f"{BROKEN_OFF} ({type(error).__name__})"


def _status(error: BaseException | None) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
