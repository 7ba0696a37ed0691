"""The public names and their signatures: a change of one is an edit of public_api.txt, made on purpose.

python -m tests.test_public_api > tests/public_api.txt
"""

import inspect
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import tafm_loss

SNAPSHOT = Path(__file__).with_name("public_api.txt")


def test_the_public_api_is_the_one_on_record() -> None:
    assert public_api() == SNAPSHOT.read_text()


def public_api() -> str:
    """Return a line for every public name, and below a class one for each public method and property of its own."""
    return "".join(f"{line}\n" for name in tafm_loss.__all__ for line in described(name, getattr(tafm_loss, name)))


def described(name: str, value: Any) -> Iterator[str]:
    if not callable(value):
        yield name
    elif isinstance(value, type) and issubclass(value, Exception):
        yield f"{name}({', '.join(base.__name__ for base in value.__bases__)})"
    else:
        yield name + signature(value)
        for member, found in inspect.getmembers(value) if isinstance(value, type) else ():
            if is_ours(value, member) and (member == "__call__" or not member.startswith("_")):
                yield f"    {member}{signature(found) if callable(found) else ''}"


def is_ours(owner: type, member: str) -> bool:
    return any(member in base.__dict__ and base.__module__.startswith("tafm_loss") for base in owner.__mro__)


def signature(value: Any) -> str:
    """Return a signature without the modules of its types, which may move and have other names in other Pythons."""
    found = inspect.signature(value)
    parameters = [each.replace(annotation=shown(each.annotation)) for each in found.parameters.values()]
    text = str(found.replace(parameters=parameters, return_annotation=shown(found.return_annotation)))
    return re.sub(r"\b(?:\w+\.)+(?=[A-Z])", "", text).replace("'Self'", "Self")


def shown(annotation: Any) -> Any:
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation
    parts = (inspect.formatannotation(part) for part in get_args(annotation))
    return Text(" | ".join(parts).replace("NoneType", "None"))


class Text:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


if __name__ == "__main__":
    print(public_api(), end="")
