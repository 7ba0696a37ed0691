"""Reading a backbone from the Hub: config and weights of one commit, both checked, damage repaired once."""

import logging
import re
from pathlib import Path

from tafm_loss.weights.downloads import HubRepository
from tafm_loss.weights.errors import WeightsCorruptError, WeightsError, WeightsFormatError
from tafm_loss.weights.files import WeightFile
from tafm_loss.weights.folders import CONFIG_FILE, WEIGHTS_FILE, read_config, read_folder

__all__ = ["read_repository"]

COMMIT = re.compile(r"[0-9a-f]{40}")

logger = logging.getLogger("tafm_loss")


def read_repository(repository: HubRepository, revision: str | None) -> tuple[WeightFile, str]:
    """Return the weights that a repository holds at a branch, tag or commit, and the commit.

    The client verifies the length of what it downloads, not its content, and believes its cache. What turns out to be
    damaged is therefore fetched once more, the config before the weights, before it is given up.

    Raises:
        WeightsError: of the kind that says what is wrong.
    """
    commit = _commit(repository, revision)
    logger.info("%s%s is commit %s", repository.repo_id, f"@{revision}" if revision else "", commit)
    try:
        return _read_commit(repository, commit), commit
    except (WeightsCorruptError, WeightsFormatError) as error:
        if not repository.may_ask():
            raise type(error)(f"{error}. Delete it from the cache, and load it again with a connection") from None
        damage = error
    for fetch_anew in (_fetch_config, _fetch_weights):
        try:
            fetch_anew(repository, commit, again=True)
        except WeightsError as error:
            raise type(damage)(f"{damage}. It could not be fetched anew: {error}") from None
        try:
            return _read_commit(repository, commit), commit
        except WeightsFormatError as error:
            # The bytes are those that were published.
            raise type(error)(f"{repository.repo_id}@{commit}: {error}") from None
        except WeightsCorruptError as error:
            damage = error
    raise type(damage)(f"{repository.repo_id}@{commit}: {damage}. It was fetched anew, without avail")


def _commit(repository: HubRepository, revision: str | None) -> str:
    """Return the commit that a revision is, which is the folder where the client puts what it has fetched of it."""
    config = repository.fetch(CONFIG_FILE, revision)
    commit = config.parent.name
    if not COMMIT.fullmatch(commit):
        raise WeightsError(
            f"{repository.repo_id}: cannot tell the commit of {config}; load that folder with a Path instead"
        )
    if revision is not None and COMMIT.fullmatch(revision) and commit != revision:
        raise WeightsCorruptError(
            f"{repository.repo_id}: asked for the commit {revision}, the Hub answers with {commit}: do not trust it"
        )
    return commit


def _read_commit(repository: HubRepository, commit: str) -> WeightFile:
    return read_folder(_fetch_weights(repository, commit).parent)


def _fetch_config(repository: HubRepository, commit: str, *, again: bool = False) -> Path:
    return repository.fetch(CONFIG_FILE, commit, again=again)


def _fetch_weights(repository: HubRepository, commit: str, *, again: bool = False) -> Path:
    # The config first: what it does not describe is not downloaded. By commit: a branch may move in between.
    described = read_config(_fetch_config(repository, commit))
    return repository.fetch(WEIGHTS_FILE, commit, size=described["weights"]["size"], again=again)
