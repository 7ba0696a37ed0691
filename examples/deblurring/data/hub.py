"""Files of data sets on the Hugging Face Hub: how large they are, and downloads that go on where they broke off."""

import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["download", "file_sizes", "online"]

# The data sets are public: a token could only be refused.
TOKEN = False
CONNECTION_TIMEOUT = 5.0
# The rest of a file cannot be asked for if it is compressed on the way.
AS_IT_IS = {"Accept-Encoding": "identity"}


def online() -> bool:
    """Return whether the Hub may be asked, and answers."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    parts = urllib.parse.urlsplit(constants.ENDPOINT)
    if parts.scheme in urllib.request.getproxies():
        return True  # the proxy knows
    try:
        # The client itself would try for much longer before it gives up.
        socket.create_connection((parts.hostname, parts.port or 443), timeout=CONNECTION_TIMEOUT).close()
    except OSError:
        return False
    return True


def file_sizes(repo_id: str, names: Sequence[str], revision: str | None) -> dict[str, int]:
    """Return the size of files of a data set, in bytes, without those that it does not have.

    Raises:
        OSError: if the Hub does not answer, or has no such data set.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    with _errors_in_words(f"cannot ask the Hub for {repo_id}"):
        found = HfApi(token=TOKEN).get_paths_info(repo_id, [*names], revision=revision, repo_type="dataset")
        return {file.path: file.size for file in found if isinstance(file, RepoFile)}


def download(repo_id: str, name: str, revision: str | None, folder: Path) -> Path:
    """Download a file of a data set into a folder, and return its path.

    `huggingface_hub.hf_hub_download` begins anew in each process. Here what has come stays in the folder, and the next
    call asks for the rest of the same file.

    Raises:
        OSError: if it cannot be had. It says why.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get

    folder.mkdir(parents=True, exist_ok=True)
    with _errors_in_words(f"cannot fetch {name} of {repo_id}"):
        found = get_hf_file_metadata(hf_hub_url(repo_id, name, repo_type="dataset", revision=revision), token=TOKEN)
        part = folder / f".{name}.{found.etag}.part"
        # By commit: a branch may move in between.
        url = hf_hub_url(repo_id, name, repo_type="dataset", revision=found.commit_hash)
        with part.open("ab") as file:
            there = part.stat().st_size
            if there != found.size:
                http_get(url, file, resume_size=there, headers=AS_IT_IS, expected_size=found.size)
    return part.replace(folder / name)


@contextmanager
def _errors_in_words(action: str) -> Iterator[None]:
    """Raise an OSError for whatever the client raises, whose HTTP library lets errors of its own through."""
    try:
        yield
    except Exception as error:
        raise OSError(f"{action}: {str(error) or type(error).__name__}") from error
