"""Files from the Hugging Face Hub."""

import socket
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

from tafm_loss.backbones.hub_errors import UNREACHABLE, weights_error
from tafm_loss.backbones.weight_errors import WeightsUnavailableError

__all__ = ["HubRepository", "reachable"]

CONNECTION_TIMEOUT = 5.0


class HubRepository(NamedTuple):
    """A repository on the Hub and how it is read; the fields are arguments of `huggingface_hub.hf_hub_download`."""

    repo_id: str
    token: str | bool | None = None
    cache_dir: Path | None = None
    local_files_only: bool = False

    def fetch(self, name: str, revision: str | None, *, again: bool = False) -> Path:
        """Return a file's path in the cache, fetching it if it is not there, and `again` even if it is.

        Raises:
            WeightsError: of the kind that says why not.
        """
        try:
            return self._fetch(name, revision, again)
        except WeightsUnavailableError:
            raise
        except (
            Exception
        ) as error:  # the client's HTTP library, of which there are three by version, lets errors through
            ours = weights_error(error, self._action(name, revision))
        raise ours

    def may_ask(self) -> bool:
        """Whether the Hub may be asked at all."""
        from huggingface_hub import constants

        return not (self.local_files_only or constants.HF_HUB_OFFLINE)

    def _fetch(self, name: str, revision: str | None, again: bool) -> Path:
        from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

        cached = try_to_load_from_cache(self.repo_id, name, cache_dir=self.cache_dir, revision=revision)
        if (again or not isinstance(cached, str)) and self.may_ask() and not reachable(constants.ENDPOINT):
            # The client itself would try for 23 s before it gives up.
            raise WeightsUnavailableError(f"{self._action(name, revision)}: {UNREACHABLE}")
        if again and isinstance(cached, str):
            # Where there are no symbolic links, the client would keep the old file whatever it fetches.
            Path(cached).unlink()
        path = hf_hub_download(
            self.repo_id,
            name,
            revision=revision,
            token=self.token,
            cache_dir=self.cache_dir,
            local_files_only=self.local_files_only,
            force_download=again,
        )
        return Path(path)

    def _action(self, name: str, revision: str | None) -> str:
        return f"cannot load {self.repo_id}/{name}{'@' + revision if revision else ''} from the Hugging Face Hub"


def reachable(url: str) -> bool:
    """Whether a connection to the host of `url` can be opened within seconds.

    Loaders wait or retry for much longer before they admit that there is no network. With a proxy configured
    the answer is always True: it is the proxy that knows.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme in urllib.request.getproxies():
        return True
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=CONNECTION_TIMEOUT).close()
    except OSError:
        return False
    return True
