"""A name server on loopback (RFC 1035) that answers, or misbehaves, as a function of the name says."""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

from tests.threadserver import ThreadServer

SILENT = "silent"
"""Stands for no answer at all."""

Answer = list[str] | int | str
"""Addresses, a response code, or SILENT; NAME.slow.N is answered after N ms by `by_name`."""


def by_name(name: str) -> Answer:
    """Answer dead.* never, none.* with NXDOMAIN, broken.* with SERVFAIL, others with 127.0.0.2."""
    first = name.partition(".")[0]
    return {"dead": SILENT, "none": 3, "broken": 2, "empty": []}.get(
        first.rstrip("0123456789"), ["127.0.0.2"]
    )


class NameServer(ThreadServer):
    """Serve `answer` on UDP and TCP; `asked` holds the (transport, name, type) of every query."""

    def __init__(
        self, answer: Callable[[str], Answer] = by_name, *, delay: float = 0.0, cut: bool = False
    ) -> None:
        super().__init__()
        self.answer = answer
        self.delay = delay
        self.cut = cut
        self.asked: list[tuple[str, str, int]] = []

    @property
    def address(self) -> str:
        """Return the value for --dns-server."""
        return f"127.0.0.1:{self.port}"

    def respond(self, query: bytes, transport: str) -> bytes | None:
        """Return the response to a query, or None for silence."""
        position, labels = 12, []
        while length := query[position]:
            labels.append(query[position + 1 : position + 1 + length].decode())
            position += 1 + length
        name, kind = ".".join(labels), int.from_bytes(query[position + 1 : position + 3], "big")
        self.asked.append((transport, name, kind))
        found = self.answer(name)
        if found == SILENT:
            return None
        code = found if isinstance(found, int) else 0
        wanted = socket.AF_INET if kind == 1 else socket.AF_INET6
        records = []
        for text in found if isinstance(found, list) else []:
            if (":" in text) == (kind == 28):
                data = socket.inet_pton(wanted, text)
                records.append(struct.pack(">HHHIH", 0xC00C, kind, 1, 60, len(data)) + data)
        is_cut = self.cut and transport == "udp"
        flags = 0x8180 | code | (0x0200 if is_cut else 0)
        head = query[:2] + struct.pack(">HHHHH", flags, 1, 0 if is_cut else len(records), 0, 0)
        return head + query[12 : position + 5] + b"".join([] if is_cut else records)

    async def serve(self) -> None:
        tcp = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.port: int = tcp.sockets[0].getsockname()[1]
        udp, _ = await self.loop.create_datagram_endpoint(
            lambda: _Datagrams(self), local_addr=("127.0.0.1", self.port)
        )
        self.started.set()
        async with tcp:
            await self.stop.wait()
            udp.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        query = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        if (response := self.respond(query, "tcp")) is not None:
            writer.write(len(response).to_bytes(2, "big") + response)
            await writer.drain()
        writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        if (response := self._server.respond(data, "udp")) is not None:
            asyncio.get_running_loop().call_later(
                self._server.delay, self._transport.sendto, response, address
            )
