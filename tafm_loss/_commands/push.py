"""`tafm-loss push`."""

import argparse
from pathlib import Path

from tafm_loss._commands.arguments import Commands

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "push",
        help="publish a backbone on the Hugging Face Hub",
        description="Verifies a folder that `tafm-loss finetune` or save_backbone wrote, makes a model card if it has "
        "no README.md, and publishes both in one commit. Prints the source that loads exactly this commit. The "
        "token is that of `hf auth login` or of HF_TOKEN.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of a backbone")
    parser.add_argument("repo_id", metavar="OWNER/NAME", help="the repository; made if there is none")
    parser.add_argument("--private", action="store_true", help="if the repository is made, show it to its owner alone")
    parser.add_argument("--tag", metavar="TAG", help="a name for the commit, such as v1")
    parser.add_argument("--revision", metavar="BRANCH", help="the branch to commit to (default: the default branch)")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from tafm_loss.weights.publishing import push_backbone

    source = push_backbone(
        options.folder, options.repo_id, private=options.private or None, revision=options.revision, tag=options.tag
    )
    print(f"pushed: {source}")
    named = f"{options.repo_id}@{options.tag}" if options.tag else source
    print(f"to see what is there: tafm-loss info {named}; its README.md says how to load it")
