"""Files from the Hugging Face Hub."""

import contextlib
import dataclasses
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tafm_loss.weights.errors import WeightsCorruptError, WeightsError, WeightsUnavailableError
from tafm_loss.weights.hub_errors import UNREACHABLE, weights_error

__all__ = ["HubRepository", "checked_token", "reachable"]

CONNECTION_TIMEOUT = 5.0


@dataclasses.dataclass(frozen=True)
class HubRepository:
    """A repository on the Hub and how it is read; the fields are arguments of `huggingface_hub.hf_hub_download`."""

    repo_id: str
    token: str | bool | None = dataclasses.field(default=None, repr=False)
    cache_dir: Path | None = None
    local_files_only: bool = False

    def fetch(self, name: str, revision: str | None, *, size: int | None = None, again: bool = False) -> Path:
        """Return a file's path in the cache, fetching it if it is not there.

        Args:
            name: the file.
            revision: branch, tag or commit; None for the default branch.
            size: how many bytes it must have, if known: another file is not downloaded.
            again: fetch it although it is in the cache, in its place.

        Raises:
            WeightsError: of the kind that says why not.
        """
        try:
            return self._fetch(name, revision, size, again)
        except WeightsError:
            raise
        except Exception as error:
            # Anything: the client's HTTP library, of which there are three by version, lets errors through.
            ours = weights_error(error, self._action(name, revision))
        raise ours

    def may_ask(self) -> bool:
        """Whether the Hub may be asked at all."""
        from huggingface_hub import constants

        return not (self.local_files_only or constants.HF_HUB_OFFLINE)

    def _fetch(self, name: str, revision: str | None, size: int | None, again: bool) -> Path:
        from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

        cached = try_to_load_from_cache(self.repo_id, name, cache_dir=self.cache_dir, revision=revision)
        kept = Path(cached) if isinstance(cached, str) else None
        if (again or kept is None) and self.may_ask():
            if not reachable(constants.ENDPOINT):
                # The client itself would try for 23 s before it gives up.
                raise WeightsUnavailableError(f"{self._action(name, revision)}: {UNREACHABLE}")
            if size is not None:
                self._check_size(name, revision, size)
        with _out_of_the_way(kept) if again and kept is not None else contextlib.nullcontext():
            return Path(
                hf_hub_download(
                    self.repo_id,
                    name,
                    revision=revision,
                    token=self.token,
                    cache_dir=self.cache_dir,
                    local_files_only=self.local_files_only,
                    force_download=again,
                )
            )

    def _check_size(self, name: str, revision: str | None, size: int) -> None:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        found = get_hf_file_metadata(hf_hub_url(self.repo_id, name, revision=revision), token=self.token).size
        if found is not None and found != size:
            raise WeightsCorruptError(
                f"{self._action(name, revision)}: {found} bytes there, expected {size}: the repository is damaged"
            )

    def _action(self, name: str, revision: str | None) -> str:
        return f"cannot load {self.repo_id}/{name}{'@' + revision if revision else ''} from the Hugging Face Hub"


@contextlib.contextmanager
def _out_of_the_way(path: Path) -> Iterator[None]:
    """Let the client replace a file of its cache; if it fails, the file is back.

    Where there are no symbolic links, the client would keep the old file whatever it fetches. A link it replaces, and
    others may be reading through it.
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


def checked_token(token: str | bool | None) -> str | bool | None:
    """Return a token that can be sent; raises a ValueError, which does not show it, for one that cannot."""
    if isinstance(token, str) and not (token and token.isascii() and token.isprintable() and " " not in token):
        raise ValueError("token must be letters, digits and signs without space or line break; copy it again")
    if not isinstance(token, str | bool | None):
        raise TypeError(f"token must be text, True, False or None, got {type(token).__name__}")
    return token


def reachable(url: str) -> bool:
    """Whether a connection to the host of `url` can be opened within seconds.

    Loaders wait or retry for much longer before they admit that there is no network. Behind a proxy the answer is
    always True: it is the proxy that knows.
    """
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    proxies = urllib.request.getproxies()
    if (parts.scheme in proxies or "all" in proxies) and not urllib.request.proxy_bypass(host):
        return True
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((host, port), timeout=CONNECTION_TIMEOUT).close()
    except OSError:
        return False
    return True
