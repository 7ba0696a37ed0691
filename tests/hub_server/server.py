"""A Hugging Face Hub on the loopback interface, for the unmodified client, with faults that a test injects."""

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from tests.hub_server.endpoints import Hub
from tests.hub_server.faults import CDN_HOST, Fault
from tests.hub_server.messages import Answer, Request, json_answer
from tests.hub_server.repositories import MAIN, File, Repository, is_lfs
from tests.hub_server.xet_store import XetStore

OWNER, OTHER = "owner", "other"
ADDRESS = "127.0.0.1"
BLOCK_BYTES = 1 << 16
POLL_SECONDS = 0.02


class HubServer:
    """The server and the back doors for tests; a context manager that starts and stops it.

    Large files are served under another host name than the rest, so that a client that sends its token there is seen.
    A server that was stopped can be started again: port and content stay.

    Attributes:
        token: Of the user "owner", who may write the repositories "owner/...".
        other_token: Of the user "other". Any further token is refused.
        endpoint: What clients take for HF_ENDPOINT, once the server was started.
        requests: What was asked, in order; may be cleared.
        on_request: Called with each request before it is answered; may call `seed`.
        faults: In the order in which they are tried; may be cleared.
    """

    def __init__(self, token: str = "hf_loopbackOwner", *, xet_store: Path | None = None) -> None:
        self.token = token
        self.other_token = "hf_loopbackOther"
        self.requests: list[Request] = []
        self.on_request: list[Callable[[Request], object]] = []
        self.faults: list[Fault] = []
        self._errors: list[Exception] = []
        self._hub = Hub({token: OWNER, self.other_token: OTHER}, xet=XetStore(xet_store) if xet_store else None)
        self._port = 0
        self._listener: _Listener | None = None
        self._lock = threading.RLock()
        self._stop_lock = threading.Lock()
        self._bytes_left: int | None = None
        self._stopping = threading.Event()

    @property
    def endpoint(self) -> str:
        return self._hub.endpoint

    @property
    def uses_xet(self) -> bool:
        return self._hub.xet is not None

    @property
    def repositories(self) -> dict[str, Repository]:
        return self._hub.repositories

    def __enter__(self) -> "HubServer":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()
        if self._errors and error is None:
            raise self._errors[0]

    def start(self) -> None:
        # It may be about to stop of its own accord, and the port must be free.
        self.stop()
        self._stopping.clear()
        self._bytes_left = None
        self._listener = _Listener(self, self._port)
        self._port = self._listener.server_address[1]
        self._hub.endpoint, self._hub.cdn = f"http://{ADDRESS}:{self._port}", f"http://{CDN_HOST}:{self._port}"
        threading.Thread(target=self._listener.serve_forever, args=(POLL_SECONDS,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening, then end all connections; does nothing if that is done."""
        with self._stop_lock:
            listener, self._listener = self._listener, None
            if listener is not None:
                self._stopping.set()
                listener.shutdown()
                listener.server_close()
                listener.end_connections()

    def stop_after(self, n_bytes: int) -> None:
        """Let the server go away when it has sent so many bytes of bodies from now on."""
        with self._lock:
            self._bytes_left = n_bytes

    def fail(self, path_pattern: str, **what: Any) -> Fault:
        """Let requests go wrong; `what` are the further arguments of `Fault`, which is returned."""
        self.faults.append(Fault(path_pattern, **what))
        return self.faults[-1]

    def seed(
        self,
        repo_id: str,
        files: dict[str, bytes],
        *,
        private: bool | None = None,
        gated: bool | None = None,
        disabled: bool | None = None,
        revision: str = MAIN,
        tag: str | None = None,
    ) -> str:
        """Put a commit with exactly these files on a branch, by nobody's leave, and return its oid.

        Nothing is checked, so that content can be put in that the client refuses to upload.

        Args:
            repo_id: Made if it does not exist.
            files: Content by path.
            private: Whether only the owner can see the repository; None leaves that as it is, also below.
            gated: Whether only the owner can read its files.
            disabled: Whether nobody can read it.
            revision: The branch; a new one begins with this commit.
            tag: Given to the commit, also if another commit had it.
        """
        with self._lock:
            repository = self.repositories.setdefault(repo_id, Repository(repo_id))
            for name, value in {"private": private, "gated": gated, "disabled": disabled}.items():
                if value is not None:
                    setattr(repository, name, value)
            stored = {path: File(data, is_lfs(path, len(data))) for path, data in files.items()}
            self._hub.large_files.update({file.sha256: file.data for file in stored.values() if file.lfs})
            commit = repository.add(revision, stored)
            if tag is not None:
                repository.tags[tag] = commit.oid
            return commit.oid

    def _respond(self, request: Request) -> tuple[Answer, Fault]:
        """Return what to send and the fault that falls on the sending, which may be none at all."""
        self.requests.append(request)
        try:
            for watch in list(self.on_request):
                watch(request)
            with self._lock:
                fault = next((fault for fault in self.faults if fault.matches(request)), Fault(""))
                fault.count += 1
                refused = None if fault.status is None else json_answer({"error": "told to"}, fault.status)
                answer = fault.change_body(refused or self._hub.answer(request))
            return answer.part(request.range), fault
        except Exception as error:
            # Raised again at the end of the test: a bug of this server must not pass for a fault.
            self._errors.append(error)
            return json_answer({"error": repr(error)}, 500), Fault("")

    def _allow(self, n_bytes: int) -> int:
        """Return how many of so many bytes may still be sent."""
        with self._lock:
            if self._bytes_left is None:
                return n_bytes
            allowed = min(n_bytes, self._bytes_left)
            self._bytes_left -= allowed
            return allowed


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, hub_server: HubServer, port: int) -> None:
        self.hub_server = hub_server
        self.connections: set[socket.socket] = set()
        super().__init__((ADDRESS, port), _Connection)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.add(connection)
        return connection, address

    def close_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().close_request(request)

    def end_connections(self) -> None:
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: what fails here is a connection that a client or a fault has ended."""


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # The head and the body go out by two writes; the second must not wait for the first to be acknowledged.
    disable_nagle_algorithm = True
    server: _Listener

    def serve(self) -> None:
        url = urlsplit(self.path)
        head = self.headers
        host, token, part = head.get("Host", ""), head.get("Authorization"), head.get("Range")
        request = Request(self.command, host, url.path, token, part, self._read_body())
        answer, fault = self.server.hub_server._respond(request)
        if fault.stall is not None and fault.cut is None:
            self.server.hub_server._stopping.wait(fault.stall)
        self._send_head(answer, fault)
        if self.command != "HEAD":
            self._send_body(answer.body, fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send_head(self, answer: Answer, fault: Fault) -> None:
        length = str(len(answer.body))
        headers = fault.change_headers({"Content-Length": length, **answer.headers})
        if headers.get("Content-Length") != length:
            headers["Connection"] = "close"
        self.send_response(answer.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_body(self, body: bytes, fault: Fault) -> None:
        hub_server = self.server.hub_server
        end = len(body) if fault.cut is None else min(fault.cut, len(body))
        for start in range(0, end, BLOCK_BYTES):
            block = body[start : min(start + BLOCK_BYTES, end)]
            self.wfile.write(block[: hub_server._allow(len(block))])
            if hub_server._bytes_left == 0:
                hub_server.stop()
        if fault.cut is None:
            return
        self.close_connection = True
        if fault.stall is not None:
            hub_server._stopping.wait(fault.stall)
        if fault.reset_after is not None:
            self._reset()

    def _reset(self) -> None:
        # A reset throws away what the kernel still has to deliver.
        self.server.hub_server._stopping.wait(0.05)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # The orderly end that follows would come first otherwise.
        socket.close(self.connection.detach())

    def log_message(self, format: str, *args: Any) -> None:
        pass
