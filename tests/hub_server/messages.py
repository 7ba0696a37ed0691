"""What goes to and fro: requests, answers, and refusals in the form that the client understands."""

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

from tests.hub_server.repositories import Commit


@dataclass(frozen=True)
class Request:
    """What a client asked; `target` is the path as it was sent, still percent-encoded and without the query."""

    method: str
    host: str
    target: str
    authorization: str | None = None
    range: str | None = None
    body: bytes = field(default=b"", repr=False)

    @property
    def path(self) -> str:
        return unquote(self.target)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)

    def part(self, wanted: str | None) -> "Answer":
        """Return the part of a whole file that a Range header asks for."""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "")
        if match is None or self.status != 200 or "Accept-Ranges" not in self.headers:
            return self
        size = len(self.body)
        first, last = int(match[1]), min(int(match[2] or size), size - 1)
        if first > last:
            return Answer(416, {"Content-Range": f"bytes */{size}"})
        headers = {**self.headers, "Content-Range": f"bytes {first}-{last}/{size}"}
        return replace(self, status=206, headers=headers, body=self.body[first : last + 1])


def json_answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    return Answer(status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode())


class Refusal(Exception):
    """Ends a request with an error, in the form in which the client finds its own exceptions."""

    def __init__(self, status: int, message: str, code: str | None = None, *, commit: Commit | None = None) -> None:
        super().__init__(message)
        headers = {"X-Error-Message": message}
        if code is not None:
            headers["X-Error-Code"] = code
        if commit is not None:
            headers["X-Repo-Commit"] = commit.oid
        self.answer = json_answer({"error": message}, status, headers)
