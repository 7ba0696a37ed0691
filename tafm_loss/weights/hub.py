"""Reading a backbone from the Hub: config and weights of one commit, both checked, damage repaired once."""

import logging
import re
from pathlib import Path
from typing import NamedTuple

from tafm_loss.backbones.downloads import HubRepository
from tafm_loss.backbones.weight_errors import WeightsCorruptError, WeightsError, WeightsFormatError
from tafm_loss.backbones.weight_files import WeightFile
from tafm_loss.weights.folders import CONFIG_FILE, WEIGHTS_FILE, read_config, read_folder

__all__ = ["read_repository"]

COMMIT = re.compile(r"[0-9a-f]{40}")

logger = logging.getLogger("tafm_loss")


class HubFile(NamedTuple):
    """Verified weights and the commit that they are of."""

    file: WeightFile
    commit: str


def read_repository(repository: HubRepository, revision: str | None) -> HubFile:
    """Return the weights that a repository holds at a branch, tag or commit.

    The client verifies the length of what it downloads, not its content, and believes its cache. What turns out to be
    damaged is therefore fetched once more before it is given up.

    Raises:
        WeightsError: of the kind that says what is wrong.
    """
    config = repository.fetch(CONFIG_FILE, revision)
    commit = config.parent.name
    if not COMMIT.fullmatch(commit):
        raise WeightsError(
            f"{repository.repo_id}: cannot tell the commit of {config}; load that folder with a Path instead"
        )
    logger.info("%s%s is commit %s", repository.repo_id, f"@{revision}" if revision else "", commit)
    try:
        return HubFile(_read_commit(repository, commit), commit)
    except (WeightsCorruptError, WeightsFormatError) as error:
        if not repository.may_ask():
            raise type(error)(f"{error}. Delete {config.parent}, and load it again with a connection") from None
        damage = error
    try:
        return HubFile(_read_commit(repository, commit, again=True), commit)
    except (WeightsCorruptError, WeightsFormatError) as error:
        raise type(error)(f"{repository.repo_id}@{commit}: {error}. It was fetched anew, without avail") from None
    except WeightsError as error:
        raise type(damage)(f"{damage}. It could not be fetched anew: {error}") from None


def _read_commit(repository: HubRepository, commit: str, *, again: bool = False) -> WeightFile:
    # The config first: what it does not describe is not downloaded. By commit: a branch may move in between.
    config = repository.fetch(CONFIG_FILE, commit, again=again)
    read_config(config)
    weights: Path = repository.fetch(WEIGHTS_FILE, commit, again=again)
    return read_folder(weights.parent)
