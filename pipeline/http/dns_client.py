"""A stub resolver (RFC 1035): ask given name servers over UDP, and over TCP for anything that is cut.

No thread waits for an answer, so a dead name costs one small socket for a while. Each query has a socket,
thus a port, and a number of its own (RFC 5452). Answers are untrusted: a malformed answer counts as no
answer.
"""

import asyncio
import secrets
import socket
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

Answer = tuple[tuple[socket.AddressFamily, str], ...]

TRIES: Final = (1.5, 2.5, 5.0)
"""Seconds for each try; with several servers each try asks the next server."""

_HEADER: Final = struct.Struct(">HHHHHH")
_KINDS: Final = {socket.AF_INET: 1, socket.AF_INET6: 28}  # A and AAAA (RFC 3596)
_CNAME: Final = 5
_INTERNET: Final = 1
_NO_SUCH_NAME: Final = 3
_RECURSION_DESIRED: Final = 0x0100
_TRUNCATED: Final = 0x0200
_RESPONSE: Final = 0x8000
_MAX_ALIASES: Final = 16
_MAX_LABELS: Final = 128


class UnansweredError(OSError):
    """No name server said anything about the name, not even that there is no such name."""


class DnsReply(NamedTuple):
    """The contents of a well-formed response: its code, whether it is cut, and the addresses of the name."""

    code: int
    truncated: bool
    addresses: tuple[str, ...]


class DnsClient:
    """Ask `servers`, pairs of numeric address and port.

    A name's IPv6 addresses are asked for only where it has none for IPv4 and this machine has a route.
    """

    def __init__(self, servers: Sequence[tuple[str, int]], tries: Sequence[float] | None = None) -> None:
        self._servers = list(servers)
        self._tries = tries or TRIES
        self._with_ipv6 = _has_ipv6_route()

    async def ask(self, host: str, family: socket.AddressFamily) -> Answer:
        """Return addresses; OSError if there are none, UnansweredError (an OSError) if no server answers."""
        if family == socket.AF_UNSPEC:
            families = [socket.AF_INET, *([socket.AF_INET6] if self._with_ipv6 else [])]
        else:
            families = [family]
        for each in families:
            if found := await self._ask(host.lower().rstrip("."), each):
                return tuple((each, address) for address in found)
        raise OSError("no addresses")

    def close(self) -> None:
        """Nothing waits beyond its caller."""

    async def _ask(self, name: str, family: socket.AddressFamily) -> tuple[str, ...]:
        problem = ""
        for number, seconds in enumerate(self._tries):
            server = self._servers[number % len(self._servers)]
            message = query(name, _KINDS[family], secrets.randbits(16))
            try:
                async with asyncio.timeout(seconds):
                    reply = await _over_udp(server, message)
                    if reply.truncated:
                        reply = await _over_tcp(server, message)
            except (OSError, ValueError, asyncio.IncompleteReadError) as error:
                problem = f"{server[0]}: {str(error) or type(error).__name__}"  # TimeoutError is an OSError
                continue
            if reply.code == _NO_SUCH_NAME:
                raise OSError("no such name")
            if reply.code == 0:
                return reply.addresses
            problem = f"{server[0]}: response code {reply.code}"
        raise UnansweredError(problem)


def query(name: str, kind: int, number: int) -> bytes:
    """Return the message that asks for the records of a name; OSError if no name can be so written."""
    try:
        labels = [label.encode("ascii") for label in name.split(".")]
    except UnicodeEncodeError:
        raise OSError("not a host name: not ASCII") from None
    if not all(0 < len(label) < 64 for label in labels) or len(name) > 253:
        raise OSError("not a host name: an empty or too long label")
    written = b"".join(bytes([len(label)]) + label for label in labels)
    header = _HEADER.pack(number, _RECURSION_DESIRED, 1, 0, 0, 0)
    return header + written + b"\0" + struct.pack(">HH", kind, _INTERNET)


def parse(message: bytes, asked: bytes) -> DnsReply:
    """Read the response to `asked`; ValueError for anything that is malformed or answers something else."""
    try:
        return _parse(message, asked)
    except (struct.error, IndexError) as error:
        raise ValueError(f"a malformed response: {error}") from None


def _parse(message: bytes, asked: bytes) -> DnsReply:
    number, flags, questions, answers, _, _ = _HEADER.unpack_from(message)
    if number != int.from_bytes(asked[:2], "big") or not flags & _RESPONSE or questions != 1:
        raise ValueError("a response to another query")
    name, position = _name(message, _HEADER.size)
    asked_name, end = _name(asked, _HEADER.size)
    if name != asked_name or message[position : position + 4] != asked[end:]:
        raise ValueError("a response to another question")
    kind = int.from_bytes(asked[end : end + 2], "big")
    position += 4
    aliases: dict[str, str] = {}
    found: list[tuple[str, str]] = []
    truncated = bool(flags & _TRUNCATED)
    for _ in range(0 if truncated else answers):
        owner, position = _name(message, position)
        record, space, _, length = struct.unpack_from(">HHIH", message, position)
        position += 10
        data = message[position : position + length]
        if len(data) < length:
            raise ValueError("a record longer than the response")
        if space == _INTERNET and record == _CNAME:
            aliases[owner] = _name(message, position)[0]
        elif space == _INTERNET and record == kind and length == (4 if kind == 1 else 16):
            family = socket.AF_INET if kind == 1 else socket.AF_INET6
            found.append((owner, socket.inet_ntop(family, data)))
        position += length
    names = {asked_name}
    for _ in range(_MAX_ALIASES):
        asked_name = aliases.get(asked_name, asked_name)
        names.add(asked_name)
    return DnsReply(flags & 15, truncated, tuple(address for owner, address in found if owner in names))


def _name(message: bytes, position: int) -> tuple[str, int]:
    """Return the name at a position, in lower case, and the position after it (section 4.1.4)."""
    labels: list[bytes] = []
    after = 0
    for _ in range(_MAX_LABELS):
        length = message[position]
        if length >= 0xC0:  # the rest stands earlier in the message
            target = int.from_bytes(message[position : position + 2], "big") & 0x3FFF
            after = after or position + 2
            if target >= position:
                raise ValueError("a name that points forward")
            position = target
        elif length == 0:
            return b".".join(labels).lower().decode("latin-1"), after or position + 1
        elif length < 64:
            labels.append(message[position + 1 : position + 1 + length])
            position += 1 + length
        else:
            raise ValueError("an unknown kind of label")
    raise ValueError("a name of too many labels")


class _Exchange(asyncio.DatagramProtocol):
    """Wait for the datagram that answers; other datagrams are ignored."""

    def __init__(self, asked: bytes) -> None:
        self._asked = asked
        self.reply: asyncio.Future[DnsReply] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, _: object) -> None:
        """Take it if it answers."""
        try:
            reply = parse(data, self._asked)
        except ValueError:
            return
        if not self.reply.done():
            self.reply.set_result(reply)

    def error_received(self, error: Exception) -> None:
        """Pass on that nobody listens there."""
        if not self.reply.done():
            self.reply.set_exception(error)


async def _over_udp(server: tuple[str, int], message: bytes) -> DnsReply:
    loop = asyncio.get_running_loop()
    transport, exchange = await loop.create_datagram_endpoint(lambda: _Exchange(message), remote_addr=server)
    try:
        transport.sendto(message)
        return await exchange.reply
    finally:
        transport.close()


async def _over_tcp(server: tuple[str, int], message: bytes) -> DnsReply:
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(len(message).to_bytes(2, "big") + message)
        length = int.from_bytes(await reader.readexactly(2), "big")
        return parse(await reader.readexactly(length), message)
    finally:
        writer.close()


def _has_ipv6_route() -> bool:
    """Return whether a packet to a public IPv6 address has a way out; none is sent."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect(("2001:4860:4860::8888", 53))
    except OSError:
        return False
    return True
