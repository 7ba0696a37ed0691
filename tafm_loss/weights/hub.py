"""Reading from the Hugging Face Hub: config and weights of one commit, both checked, damage repaired once."""

import contextlib
import dataclasses
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError

from tafm_loss.weights.errors import WeightsCorruptError, WeightsError, WeightsFormatError, WeightsUnavailableError
from tafm_loss.weights.files import WeightFile
from tafm_loss.weights.folders import CONFIG_FILE, WEIGHTS_FILE, read_config, read_folder
from tafm_loss.weights.hub_errors import UNREACHABLE, in_our_words

__all__ = [
    "ANSWER_TIMEOUT",
    "HUB_PREFIX",
    "REPOSITORY",
    "HubRepository",
    "HubSource",
    "answers",
    "checked_token",
    "reachable",
    "read_repository",
]

HUB_PREFIX = "hf-hub:"
# The rule of the Hub. The client's own, which in older versions lets more through, is asked besides.
REPOSITORY = re.compile(r"(?!.*(?:--|\.\.|\.git$))\b[\w.-]{1,96}\b/\b[\w.-]{1,96}\b", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
ANSWER_TIMEOUT = 5.0  # s

logger = logging.getLogger("tafm_loss")


class HubSource(NamedTuple):
    """A repository, a branch, tag or commit of it (None: the default branch), and the SHA-256 of what is published."""

    repo_id: str
    revision: str | None
    sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class HubRepository:
    """A repository on the Hub and how it is read; the fields are arguments of `huggingface_hub.hf_hub_download`."""

    repo_id: str
    token: str | bool | None = dataclasses.field(default=None, repr=False)
    cache_dir: Path | None = None
    local_files_only: bool = False

    def fetch(self, name: str, revision: str | None, *, size: int | None = None, again: bool = False) -> Path:
        """Return a file's path in the cache, fetching it if it is not there, or `again`, in its place.

        A file that has not `size` bytes, if that is known, is not downloaded. Without a revision, the default branch
        is read. What goes wrong is a WeightsError of the kind that says why.
        """
        action = f"cannot load {self.repo_id}/{name}{'@' + revision if revision else ''} from the Hugging Face Hub"
        return in_our_words(lambda: self._fetch(name, revision, size, again, action), action)

    def may_ask(self) -> bool:
        """Whether the Hub may be asked at all."""
        from huggingface_hub import constants

        return not (self.local_files_only or constants.HF_HUB_OFFLINE)

    def _fetch(self, name: str, revision: str | None, size: int | None, again: bool, action: str) -> Path:
        import huggingface_hub as client

        cached = client.try_to_load_from_cache(self.repo_id, name, cache_dir=self.cache_dir, revision=revision)
        kept = Path(cached) if isinstance(cached, str) else None
        if (again or kept is None) and self.may_ask():
            if not reachable(client.constants.ENDPOINT):
                # The client itself would try for 23 s before it gives up.
                raise WeightsUnavailableError(f"{action}: {UNREACHABLE}")
            if size is not None:
                url = client.hf_hub_url(self.repo_id, name, revision=revision)
                found = client.get_hf_file_metadata(url, token=self.token).size
                if found not in (None, size):
                    raise WeightsCorruptError(f"{action}: {found} bytes there, expected {size}: it is damaged there")
        with _out_of_the_way(kept) if again and kept is not None else contextlib.nullcontext():
            given = {field: value for field, value in vars(self).items() if field != "repo_id"}
            return Path(client.hf_hub_download(self.repo_id, name, revision=revision, force_download=again, **given))


@contextlib.contextmanager
def _out_of_the_way(path: Path) -> Iterator[None]:
    """Let the client replace a file of its cache; if it fails, the file is back.

    Without symbolic links, the client would keep the old file. A link it replaces; others may be reading through it.
    """
    if path.is_symlink():
        yield
        return
    aside = path.with_name(f".{path.name}.{os.getpid()}.damaged")
    os.replace(path, aside)
    try:
        yield
    finally:
        if path.exists():
            aside.unlink(missing_ok=True)
        else:
            os.replace(aside, path)


def read_repository(repository: HubRepository, revision: str | None) -> tuple[WeightFile, str]:
    """Return the weights that a repository holds at a branch, tag or commit, and the commit, or raise a WeightsError.

    The client verifies the length of what it downloads, not its content, and believes its cache. What turns out to be
    damaged is therefore fetched once more, the config before the weights, before it is given up.
    """
    commit = _commit(repository, revision)
    logger.info("%s%s is commit %s", repository.repo_id, f"@{revision}" if revision else "", commit)
    try:
        return read_folder(_fetch(repository, commit)), commit
    except (WeightsCorruptError, WeightsFormatError) as error:
        if not repository.may_ask():
            raise type(error)(f"{error}. Delete it from the cache, and load it again with a connection") from None
        damage = error
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        try:
            return read_folder(_fetch(repository, commit, anew=name)), commit
        except WeightsFormatError as error:
            # The bytes are those that were published.
            raise type(error)(f"{repository.repo_id}@{commit}: {error}") from None
        except WeightsCorruptError as error:
            damage = error
        except WeightsError as error:
            raise type(damage)(f"{damage}. It could not be fetched anew: {error}") from None
    raise type(damage)(f"{repository.repo_id}@{commit}: {damage}. It was fetched anew, without avail")


def _commit(repository: HubRepository, revision: str | None) -> str:
    """Return the commit that a revision is, which is the folder where the client puts what it has fetched of it."""
    config = repository.fetch(CONFIG_FILE, revision)
    commit, where = config.parent.name, repository.repo_id
    if not COMMIT.fullmatch(commit):
        raise WeightsError(f"{where}: cannot tell the commit of {config}; load that folder with a Path instead")
    if revision is not None and COMMIT.fullmatch(revision) and commit != revision:
        answer = f"asked for the commit {revision}, the Hub answers with {commit}: do not trust it"
        raise WeightsCorruptError(f"{where}: {answer}")
    return commit


def _fetch(repository: HubRepository, commit: str, *, anew: str | None = None) -> Path:
    """Return the folder in the cache with both files of a commit, of which one is fetched although it is there."""
    # The config first: what it does not describe is not downloaded. By commit: a branch may move in between.
    described = read_config(repository.fetch(CONFIG_FILE, commit, again=anew == CONFIG_FILE))
    size = described["weights"]["size"]
    return repository.fetch(WEIGHTS_FILE, commit, size=size, again=anew == WEIGHTS_FILE).parent


def checked_token(token: str | bool | None) -> str | bool | None:
    """Return a token that can be sent; raises a ValueError, which does not show it, for one that cannot."""
    if isinstance(token, str) and not (token and token.isascii() and token.isprintable() and " " not in token):
        raise ValueError("token must be letters, digits and signs without space or line break; copy it again")
    if not isinstance(token, str | bool | None):
        raise TypeError(f"token must be text, True, False or None, got {type(token).__name__}")
    return token


def reachable(url: str) -> bool:
    """Whether `url` answers the Hub's client within seconds; the client itself would ask for much longer.

    It is asked as the client asks, for only that has the proxies and certificates that its user has given it.
    """
    from huggingface_hub import get_session

    return answers(lambda: get_session().head(url, timeout=ANSWER_TIMEOUT))


def answers(ask: Callable[[], object]) -> bool:
    """Whether a request gets an answer, be it a refusal, or at least a connection."""
    try:
        ask()
    except HTTPError:
        return True
    except Exception as error:  # a transport raises what it likes
        # Who is connected and slow may still answer the request that counts.
        return isinstance(error, TimeoutError) or type(error).__name__ == "ReadTimeout"
    return True
