"""What a test can break: faults that are laid on the answers to the requests that match."""

import re
from dataclasses import dataclass, field, replace

from tests.hub_server.messages import Answer, Request

CDN_HOST = "localhost"


@dataclass
class Fault:
    """One thing that goes wrong, `times` times or always (None). `count` is how often it has.

    Args:
        path_pattern: Regular expression that is searched for in the path.
        status: Refuse with this status, without any code or message of the Hub; the request has no effect.
        truncate: Send only so many bytes of the body, then end the connection in good order.
        reset_after: Send only so many bytes of the body, then reset the connection.
        stall: Seconds of silence before the answer, or after the bytes that `truncate` or `reset_after` let through.
        corrupt: Position in the file of the byte whose bits are inverted.
        replace: Send this body instead.
        extra_body: Send this after the body, counted in its length.
        drop_header: Leave this header out.
        set_header: Send these headers as well or instead.
        method: Only requests by this method. Faults of the body never fall on HEAD.
        cdn_only: Only requests to the host of the large files.
    """

    path_pattern: str
    status: int | None = None
    truncate: int | None = None
    reset_after: int | None = None
    stall: float | None = None
    corrupt: int | None = None
    replace: bytes | None = None
    extra_body: bytes = b""
    drop_header: str | None = None
    set_header: dict[str, str] = field(default_factory=dict)
    times: int | None = None
    method: str | None = None
    cdn_only: bool = False
    count: int = field(default=0, init=False)

    @property
    def cut(self) -> int | None:
        """After how many bytes the connection ends."""
        return self.truncate if self.reset_after is None else self.reset_after

    @property
    def of_body(self) -> bool:
        return any(change is not None for change in (self.cut, self.corrupt, self.replace, self.extra_body or None))

    def matches(self, request: Request) -> bool:
        return (
            (self.times is None or self.count < self.times)
            and self.method in {None, request.method}
            and not (self.of_body and request.method == "HEAD")
            and not (self.cdn_only and not request.host.startswith(CDN_HOST))
            and re.search(self.path_pattern, request.path) is not None
        )

    def change_body(self, answer: Answer) -> Answer:
        body = bytearray(answer.body if self.replace is None else self.replace)
        if self.corrupt is not None:
            body[self.corrupt] ^= 0xFF
        return replace(answer, body=bytes(body) + self.extra_body)

    def change_headers(self, headers: dict[str, str]) -> dict[str, str]:
        dropped = (self.drop_header or "").lower()
        return {name: value for name, value in headers.items() if name.lower() != dropped} | self.set_header
