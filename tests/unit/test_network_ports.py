"""Published ports as people write them."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from zos_core.network import PortInvalid, parse_published


@pytest.mark.parametrize(
    ("text", "listen", "connect"),
    [
        ("8080:80", "127.0.0.1:8080", "100.64.0.1:80"),
        ("0.0.0.0:8080:80", "0.0.0.0:8080", "100.64.0.1:80"),
        ("127.0.0.1:8080:80/tcp", "127.0.0.1:8080", "100.64.0.1:80"),
        ("[::1]:1:65535", "[::1]:1", "100.64.0.1:65535"),
        ("[::]:443:443", "[::]:443", "100.64.0.1:443"),
        (":80", "127.0.0.1:0", "100.64.0.1:80"),
        ("0:80", "127.0.0.1:0", "100.64.0.1:80"),
        ("10.1.2.3::80", "10.1.2.3:0", "100.64.0.1:80"),
    ],
)
def test_network_ports_accepted(text: str, listen: str, connect: str) -> None:
    port = parse_published(text)
    assert port.listen == listen
    assert port.connect(IPv4Address("100.64.0.1")) == connect
    assert parse_published(str(port)) == port


@pytest.mark.parametrize(
    "text",
    [
        "",
        "80",
        "a:b",
        "8080:",
        "8080:0",
        "65536:80",
        "80:65536",
        "99999:1",
        "-1:80",
        "8080:80/udp",
        "8080:80/",
        "8080:80/TCP",
        "1.2.3:8080:80",
        "1.2.3.4.5:8080:80",
        "256.0.0.1:8080:80",
        "::1:8080:80",
        "[1.2.3.4]:8080:80",
        "[zz]:8080:80",
        "[::1:8080:80",
        "localhost:8080:80",
        "8080-8081:80-81",
        "8080:80 ",
        "8080:80\n",
        "\u0661:80",
        "8" * 1000 + ":80",
    ],
)
def test_network_ports_refused(text: str) -> None:
    with pytest.raises(PortInvalid) as caught:
        parse_published(text)
    assert caught.value.hint
    assert len(caught.value.message) < 200
