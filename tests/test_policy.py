"""The address policy: every special range of the IANA registries, and every way to write an address."""

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.http import address_policy
from pipeline.http.address_policy import AddressBlocked, AddressPolicy, check_url

PUBLIC = [
    "1.1.1.1", "8.8.8.8", "93.184.215.14", "11.0.0.1", "100.63.255.255", "100.128.0.0", "126.255.255.255",
    "128.0.0.1", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.167.1.1",
    "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255", "168.63.129.15", "192.88.98.255",
    "2606:4700:4700::1111", "2001:4860:4860::8888", "2a00:1450:4001::1", "2400:cb00::1", "2001:200::1",
    "2620:fe::fe", "::ffff:8.8.8.8", "3ffe::1", "2003::1",
]  # fmt: skip
DENIED = [
    # IPv4: this network, private, shared, loopback, link-local (cloud metadata), protocol, documentation,
    # benchmarks, 6to4 relays, multicast, reserved, broadcast, Azure's and Alibaba's services.
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "100.100.100.200",
    "127.0.0.1", "127.255.255.255", "169.254.169.254", "169.254.0.1", "172.16.0.1", "172.31.255.255",
    "192.0.0.1", "192.0.0.8", "192.0.0.170", "192.0.2.1", "192.88.99.1", "192.168.0.1", "192.168.255.255",
    "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255",
    "240.0.0.1", "255.255.255.255", "168.63.129.16",
    # IPv6: the same, and whatever carries an IPv4 address inside.
    "::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1",
    "2001:0:7f00:1::", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::",
    "2002:808:808::1", "3fff::1", "3fff:fff::1", "4000::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1",
    "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1",
    # Not an address at all.
    "", "localhost", "127.1", "2130706433", "0x7f.0.0.1", "[::1]", "1.2.3.4.5",
]  # fmt: skip


@pytest.mark.parametrize("ip", PUBLIC)
def test_public_addresses_are_allowed(ip: str) -> None:
    assert AddressPolicy().check(ip) is None


@pytest.mark.parametrize("ip", DENIED)
def test_other_addresses_are_blocked(ip: str) -> None:
    assert AddressPolicy().check(ip) == "address_blocked"


def test_allow_opens_a_network_on_any_port_and_nothing_beside_it() -> None:
    opened = AddressPolicy.from_text(("127.0.0.2/32", "fd00::/8"))
    assert opened.check("127.0.0.2", 22) is None
    assert opened.check("::ffff:127.0.0.2", 9999) is None
    assert opened.check("fd12::1", 80) is None
    assert opened.check("127.0.0.1", 80) == "address_blocked"
    assert opened.check("8.8.8.8", 22) == "port_blocked"


def test_a_bad_network_is_named() -> None:
    with pytest.raises(ValueError, match=r"CIDR.*127\.0\.0\.0/99"):
        AddressPolicy.from_text(("127.0.0.0/99",))


@given(st.ip_addresses())
def test_never_public_where_the_standard_library_says_private(address: ipaddress.IPv4Address) -> None:
    if AddressPolicy().check(str(address)) is None:
        assert not (
            address.is_private or address.is_loopback or address.is_link_local or address.is_multicast
        )


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.com/a.jpg", None),
        ("https://example.com:8443/a.jpg", None),
        ("http://8.8.8.8/", None),
        ("http://[2606:4700:4700::1111]:8080/", None),
        ("http://example.com:22/", "port_blocked"),
        ("http://example.com:25/", "port_blocked"),
        ("https://8.8.8.8:6379/", "port_blocked"),
        ("ftp://example.com/a.jpg", "bad_scheme"),
        ("file:///etc/passwd", "bad_scheme"),
        ("gopher://example.com/", "bad_scheme"),
        ("data:image/png;base64,AA", "data_url"),
        ("http://example.com:99999/", "bad_url"),
        ("http://[/", "bad_url"),
        ("http://a b/", "bad_url"),
        ("http://user:password@example.com/", "bad_url"),
        ("http://example.com/" + "a" * 2083, "bad_url"),
        ("no url", "bad_url"),
        ("", "bad_url"),
        ("http://127.0.0.1/", "address_blocked"),
        ("http://[::1]/", "address_blocked"),
        ("http://[::ffff:127.0.0.1]/", "address_blocked"),
        ("http://2130706433/", "address_blocked"),
        ("http://0177.0.0.1/", "address_blocked"),
        ("http://0x7f000001/", "address_blocked"),
        ("http://127.1/", "address_blocked"),
        ("http://①②⑦.⓪.⓪.①/", "address_blocked"),
        ("http://127.0.0.1./", "address_blocked"),
        ("http://169.254.169.254/latest/meta-data/", "address_blocked"),
    ],
)
def test_check_url(url: str, reason: str | None) -> None:
    assert check_url(url, AddressPolicy()) == reason


def test_check_url_with_an_opened_network() -> None:
    opened = AddressPolicy.from_text(("127.0.0.0/8",))
    assert check_url("http://127.0.0.9:12345/", opened) is None
    assert check_url("http://localhost:12345/", opened) is None  # judged when connected to
    assert check_url("http://8.8.8.8:12345/", opened) == "port_blocked"
    assert check_url("http://10.0.0.1/", opened) == "address_blocked"


@given(st.text(), st.integers(0, 70_000))
def test_check_url_never_raises(text: str, port: int) -> None:
    check_url(text, AddressPolicy())
    check_url(f"http://{text}:{port}/", AddressPolicy())


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://example.com/", ("example.com", 80)),
        ("https://example.com/a:b@c", ("example.com", 443)),
        ("https://example.com:8443/", ("example.com", 8443)),
        ("http://[::1]/", ("::1", 80)),
        ("http://[::1]:81/", ("::1", 81)),
    ],
)
def test_split_authority(url: str, expected: tuple[str, int]) -> None:
    assert address_policy.split_authority(url) == expected


def _info(ip: str, port: int) -> address_policy.AddressInfo:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    return (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (ip, port))


@pytest.mark.parametrize(("ip", "port", "reason"), [
    ("127.0.0.1", 80, "address_blocked"), ("::1", 80, "address_blocked"), ("8.8.8.8", 25, "port_blocked"),
])  # fmt: skip
def test_no_socket_is_made_for_a_blocked_address(ip: str, port: int, reason: str) -> None:
    attempts = address_policy.Attempts()
    token = address_policy.ATTEMPTS.set(attempts)
    try:
        with pytest.raises(AddressBlocked) as caught:
            address_policy.socket_factory(AddressPolicy())(_info(ip, port))
    finally:
        address_policy.ATTEMPTS.reset(token)
    assert isinstance(caught.value, OSError)
    assert caught.value.reason == reason
    assert attempts == address_policy.Attempts(opened=0, address="", blocked=reason)


def test_sockets_have_a_small_receive_buffer_and_are_recorded() -> None:
    attempts = address_policy.Attempts()
    token = address_policy.ATTEMPTS.set(attempts)
    try:
        with address_policy.socket_factory(AddressPolicy())(_info("8.8.8.8", 443)) as made:
            held = made.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    finally:
        address_policy.ATTEMPTS.reset(token)
    assert held <= 2 * address_policy.RECEIVE_BUFFER  # Linux doubles the figure for its own book-keeping
    assert attempts == address_policy.Attempts(opened=1, address="8.8.8.8")
