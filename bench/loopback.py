"""A web of JPEGs on loopback, http or https, that costs its clients as little as a server can.

Every site is an address of its own (Linux answers on all of 127.0.0.0/8). The answers lie ready in memory;
each image has the bytes of one of a few photographs and a comment that makes them its own.
"""

import argparse
import asyncio
import contextlib
import datetime
import ipaddress
import pickle
import ssl
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

SITE_IMAGES = 50  # LAION-400M has 80 a site


def addresses(count: int) -> list[str]:
    """Return the loopback addresses of `count` sites."""
    first = int(ipaddress.ip_address("127.1.0.1"))
    return [str(ipaddress.ip_address(first + i)) for i in range(count)]


def urls(images: int, port: int, scheme: str) -> list[str]:
    """Return the URLs of `images` images, `SITE_IMAGES` on each site."""
    sites = addresses(-(-images // SITE_IMAGES))
    return [f"{scheme}://{sites[i // SITE_IMAGES]}:{port}/{i}.jpg" for i in range(images)]


@contextlib.contextmanager
def serve(pictures: Sequence[bytes], folder: Path, sites: int, scheme: str) -> Iterator[int]:
    """Serve from a process of its own until the block ends; yield the port. For https see `ca.pem`."""
    (folder / "pictures.pickle").write_bytes(pickle.dumps(list(pictures)))
    command = [sys.executable, "-m", "bench.loopback", str(folder)]
    if scheme == "https":
        _certify(folder, addresses(sites))
        command.append("--tls")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin and child.stdout
        try:
            yield int(child.stdout.readline())
        finally:
            child.stdin.close()


def _certify(folder: Path, names: Sequence[str]) -> None:
    """Write ca.pem, and server.pem with its key, for the addresses: ECDSA P-256, as most of the web."""
    import certifi
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.UTC)

    def certificate(encoded: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        def name(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        builder = x509.CertificateBuilder().subject_name(name(encoded)).issuer_name(name(issuer))
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        return builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=2))

    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca = certificate("bench CA", "bench CA", ca_key).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    leaf = certificate("bench", "bench CA", key).add_extension(
        x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(n)) for n in names]), critical=False
    )
    pem = serialization.Encoding.PEM
    # Beside the authorities that everybody trusts: reading those is the cost of a TLS context.
    (folder / "ca.pem").write_bytes(
        Path(certifi.where()).read_bytes() + ca.sign(ca_key, hashes.SHA256()).public_bytes(pem)
    )
    (folder / "server.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + leaf.sign(ca_key, hashes.SHA256()).public_bytes(pem)
    )


class _Connection(asyncio.Protocol):
    """Answer every path with a picture, /N.jpg with the Nth; 404 for robots.txt, /N.gone and the like."""

    def __init__(self, pictures: Sequence[bytes]) -> None:
        self._pictures = pictures
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's derives from nothing of asyncio's

    def data_received(self, data: bytes) -> None:
        self._read += data
        while b"\r\n\r\n" in self._read:
            head, _, self._read = self._read.partition(b"\r\n\r\n")
            path = head.split(b" ", 2)[1]
            is_picture = not path.startswith(b"/.well-known/") and not path.endswith((b".txt", b".gone"))
            if is_picture:
                name = path[1:-4]
                number = int(name) if name.isdigit() else zlib.crc32(path)
                picture = self._pictures[number % len(self._pictures)]
                note = path[-32:].rjust(32, b"/")
                self._transport.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
                    % (len(picture) + 36)
                    + picture[:2] + b"\xff\xfe\x00\x22" + note
                )  # fmt: skip
                self._transport.write(memoryview(picture)[2:])
            else:
                self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            if b"connection: close" in head.lower():
                self._transport.close()


async def _main(folder: Path, tls: bool) -> None:
    pictures = pickle.loads((folder / "pictures.pickle").read_bytes())
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem")
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(pictures), "0.0.0.0", 0, ssl=context, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # until the parent ends


if __name__ == "__main__":
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tls", action="store_true")
    arguments = parser.parse_args()
    uvloop.run(_main(arguments.folder, arguments.tls))
