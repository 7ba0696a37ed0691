"""Whether a host can be reached."""

import pytest

from tafm_loss.weights.hub import reachable


def test_a_closed_port_is_not_reachable_and_a_proxy_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert not reachable("http://127.0.0.1:1/file")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:2")
    assert reachable("http://127.0.0.1:1/file")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert not reachable("http://127.0.0.1:1/file")
    monkeypatch.delenv("http_proxy")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:2")
    assert not reachable("http://127.0.0.1:1/file")
    monkeypatch.delenv("no_proxy")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert reachable("http://127.0.0.1:1/file")
