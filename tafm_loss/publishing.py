"""Publishing a backbone on the Hugging Face Hub, with a model card."""

import os
import re
import tempfile
from pathlib import Path
from typing import Any

from tafm_loss._files import read_object, user_path
from tafm_loss.backbones.backbone import Backbone
from tafm_loss.backbones.registry import is_ours
from tafm_loss.card import model_card
from tafm_loss.weights.errors import WeightsError, WeightsFormatError
from tafm_loss.weights.folders import CONFIG_FILE, WEIGHTS_FILE, read_folder, save_backbone
from tafm_loss.weights.hub import REPOSITORY, checked_token
from tafm_loss.weights.hub_errors import in_our_words
from tafm_loss.weights.loading import load_backbone

__all__ = ["push_backbone"]

CARD_FILE = "README.md"
LICENCE_FILE = "LICENSE"
REPORT_FILE = "report.json"
FIGURE_FILE = "report.png"
# Of a branch or a tag: what git takes, and no commit.
REVISION = re.compile(r"(?![0-9a-f]{40}$)(?!.*\.\.)(?!.*\.lock$)[A-Za-z0-9][\w./-]{0,127}(?<![./])", re.ASCII)


def push_backbone(
    backbone_or_directory: Backbone | str | os.PathLike[str],
    repo_id: str,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    revision: str | None = None,
    tag: str | None = None,
) -> str:
    """Publish a backbone on the Hugging Face Hub, in one commit, and return the source that names exactly it.

    What goes: `config.json`, `model.safetensors`, `README.md`, and `LICENSE` and `report.png` if the folder has them.
    Without a `README.md` in the folder, a model card is made from the config and, if it is there, `report.json`, and
    takes the place of a card in the repository; the folder is left as it is.

    Args:
        backbone_or_directory: a backbone, or a folder that `save_backbone` or `finetune_backbone` wrote, which is
            verified first.
        repo_id: "owner/name"; the repository is made if there is none.
        token: one that may write, as in `huggingface_hub`.
        private: whether a repository that is made is seen by its owner alone; None for the owner's default. One that is
            there must not be public if this is True.
        revision: the branch to commit to, made if there is none; None for the default branch.
        tag: a name for the commit, such as "v1"; one that is taken is refused before anything is sent.

    Returns:
        "owner/name@commit", for `load_backbone`.

    Raises:
        WeightsError: of the kind that says what is wrong: with the folder, the token, the card or the connection.
        ValueError: if `repo_id`, `token`, `revision` or `tag` can be none.
    """
    if not isinstance(repo_id, str) or not REPOSITORY.fullmatch(repo_id):
        raise ValueError(f'repo_id must be "owner/name" as the Hub allows it, got {repo_id!r:.80}')
    for argument, name in (("revision", revision), ("tag", tag)):
        if name is not None and not (isinstance(name, str) and REVISION.fullmatch(name)):
            raise ValueError(f"{argument} must be a name as git allows it, such as v1.0, got {name!r:.80}")
    checked_token(token)
    with tempfile.TemporaryDirectory() as directory:
        given = backbone_or_directory
        folder = save_backbone(given, directory) if isinstance(given, Backbone) else user_path(given)
        contents = _contents(folder, repo_id)
        action = f"cannot push to {repo_id} on the Hugging Face Hub"
        return in_our_words(lambda: _publish(contents, repo_id, token, private, revision, tag), action, writes=True)


def _contents(folder: Path, repo_id: str) -> dict[str, Path | bytes]:
    """Return what is published, by name: files of a verified folder, and the card that is made if there is none."""
    file = read_folder(folder)
    assert file.config is not None  # read_folder has compared it
    if is_ours(file.config.architecture):
        load_backbone(folder)  # whose network can be had, and must fit
    names = (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, LICENCE_FILE, FIGURE_FILE)
    contents: dict[str, Path | bytes] = {name: folder / name for name in names if (folder / name).is_file()}
    if CARD_FILE in contents:
        try:
            (folder / CARD_FILE).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise WeightsFormatError(f"{folder / CARD_FILE} is no text in UTF-8") from None
        return contents
    report, reports = folder / REPORT_FILE, None
    try:
        if report.is_file():
            reports = read_object(report.read_bytes())
    except ValueError as error:
        advice = "delete it, or run `tafm-loss report` again"
        raise WeightsFormatError(f"{report} is no report ({error}); {advice}") from None
    try:
        card = model_card(
            file.config,
            repo_id=repo_id,
            sha256=file.sha256,
            size=(folder / WEIGHTS_FILE).stat().st_size,
            reports=reports,
            figure=FIGURE_FILE if FIGURE_FILE in contents else None,
            licence_file=LICENCE_FILE if LICENCE_FILE in contents else None,
        )
    except ValueError as error:
        raise WeightsFormatError(f"cannot make a model card for {folder}: {error}") from error
    return {**contents, CARD_FILE: card.encode()}


def _publish(
    contents: dict[str, Path | bytes],
    repo_id: str,
    token: str | bool | None,
    private: bool | None,
    revision: str | None,
    tag: str | None,
) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    api: Any = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    # What speaks against a commit is found before it is made.
    if private and not api.model_info(repo_id).private:
        raise WeightsError(f"{repo_id} is there already, and public: make it private first, or push elsewhere")
    if tag is not None and any(known.name == tag for known in api.list_repo_refs(repo_id).tags):
        raise WeightsError(f"{repo_id} has a tag {tag} already, which others may rely on; choose another name")
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
    commit = api.create_commit(repo_id, operations, commit_message="Publish a tafm-loss backbone", revision=revision)
    source = f"{repo_id}@{commit.oid}"
    if tag is not None:
        action = f"published as {source}, but not tagged {tag}"
        in_our_words(lambda: api.create_tag(repo_id, tag=tag, revision=commit.oid), action, writes=True)
    return source
