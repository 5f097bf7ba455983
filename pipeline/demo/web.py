"""Build the demonstration web: sites of pictures and pages, source files for a crawl, and the exact truth.

The files that `build` writes into its folder, the same bytes for the same arguments:

    sites/SITE/...            the files of each site; the first has sitemap-index.xml, which lists all
    web.warc.gz               every page as a WARC response record, as in Common Crawl
    pages.txt                 the sites' home pages, one URL per line
    urls.parquet              url and caption: a table of some of the images
    queries.txt               one query per line
    eval/clean/CLASS/*.png    an evaluation set; eval/contaminated holds altered copies of pictures too
    eval/truth.jsonl          the altered pictures, and how they were altered
    truth.jsonl               every image reference of every page: see pages.Reference
    web.json                  the sites and the special answers, for the server
"""

import hashlib
import io
import json
import socket
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urljoin, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipeline.demo import captions
from pipeline.demo.content import PRIVATE, Draft, Placed, Role, fill
from pipeline.demo.edge_cases import Answer
from pipeline.demo.evalsets import WebPicture, write_evaluation_sets
from pipeline.demo.layout import lay_out
from pipeline.demo.markup import DrawnPage, ImageText, Reference, references, render

LARGEST_SHARE: Final = 0.15
"""The first site's share of the pictures."""
_DATE: Final = "2024-05-18T12:00:00Z"  # pages' date in the WARC file: always the same
_ROLES: Final[tuple[Role, ...]] = ("robots_disallow", "robots_partial", "noai", "robots_unavailable")
_MIN_SITES: Final = 12
_INDEX: Final = "sitemap-index.xml"
_FIRST_PORT: Final = 28080  # below the ports that systems give to outgoing connections
_LAST_PORT: Final = 32000


@dataclass(frozen=True, kw_only=True)
class SiteInfo:
    """Describe one site to the server and to tests."""

    name: str
    address: str
    """host:port"""
    role: Role
    charset: str
    headers: dict[str, str]
    """Sent with every answer."""

    @property
    def host(self) -> str:
        """The address without the port."""
        return self.address.rsplit(":", 1)[0]

    @property
    def port(self) -> int:
        """The port alone."""
        return int(self.address.rsplit(":", 1)[1])


@dataclass(frozen=True, kw_only=True)
class Web:
    """Hold a web that was built, and the truth about it."""

    folder: Path
    sites: tuple[SiteInfo, ...]
    answers: dict[tuple[str, str], Answer]
    """Special answers by site name and path."""
    references: tuple[Reference, ...]
    """The truth: every image reference, in the order of web.warc.gz."""

    @property
    def warc(self) -> Path:
        """The pages as a WARC file."""
        return self.folder / "web.warc.gz"

    @property
    def sitemap(self) -> str:
        """The URL of the sitemap index through which every site's pages can be found."""
        return f"http://{self.sites[0].address}/{_INDEX}"

    @property
    def queries(self) -> Path:
        """The queries, one per line."""
        return self.folder / "queries.txt"

    def url_of(self, site: str) -> str:
        """Return a site's root URL, with a slash at its end; KeyError for an unknown site."""
        addresses = {info.name: info.address for info in self.sites}
        return f"http://{addresses[site]}/"

    def candidates(self) -> int:
        """Return how many (image reference, caption) pairs there are; one for a reference without text."""
        return sum(max(1, sum(bool(text.text.strip()) for text in r.texts)) for r in self.references)


def build(
    folder: Path | str, *, seed: int = 0, n_images: int = 1500, n_sites: int = 150, port: int | None = None,
    evaluation_sets: bool = True,
) -> Web:  # fmt: skip
    """Build a web of `n_images` drawings on `n_sites` sites in a new or empty folder, and return it.

    Pages hold absolute URLs, so the port is decided here: `port`, or any free port. Where only 127.0.0.1
    exists, the sites take consecutive ports from it. `evaluation_sets`: whether they are drawn too, another
    400 pictures. ValueError for a folder in use or too small a web.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: give a new folder, or delete it")
    if n_sites < _MIN_SITES or n_images < 4 * n_sites:
        raise ValueError(f"the web needs at least {_MIN_SITES} sites, and 4 images for each site")
    drafts = [
        _draft(folder, number, address, n_sites) for number, address in enumerate(addresses(n_sites, port))
    ]
    good = fill(drafts, site_sizes(n_images, n_sites), seed)
    pages = [(draft, page) for draft in drafts for page in lay_out(draft, seed)]
    digests = _digests(drafts)
    truth: list[Reference] = []
    for draft, page in pages:
        draft.put(urlsplit(page.url).path, render(page))
        truth += references(draft.name, page, lambda url: digests.get(url.partition("?")[0]))
    for draft in drafts:
        _write_site_files(draft, [page.url for owner, page in pages if owner is draft])
    _write_sitemap_index(drafts)
    _write_warc(folder / "web.warc.gz", [page for _, page in pages])
    _write_urls(folder / "urls.parquet", truth)
    _write_lines(folder / "pages.txt", [f"{draft.root}/index.html" for draft in drafts])
    _write_lines(folder / "queries.txt", captions.queries())
    _write_lines(folder / "truth.jsonl", [json.dumps(asdict(reference)) for reference in truth])
    _write_web_json(folder / "web.json", drafts)
    if evaluation_sets:
        write_evaluation_sets(folder / "eval", _sources(good, digests), seed)
    return load(folder)


def load(folder: Path | str) -> Web:
    """Return the web that `build` wrote into `folder`."""
    folder = Path(folder)
    described = json.loads((folder / "web.json").read_text("utf-8"))
    answers = {(a.pop("site"), a.pop("path")): Answer(**a) for a in described["answers"]}
    truth = []
    for line in (folder / "truth.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        row["texts"] = tuple(ImageText(*text) for text in row["texts"])
        row["alternatives"], row["special"] = tuple(row["alternatives"]), tuple(row["special"])
        truth.append(Reference(**row))
    sites = tuple(SiteInfo(**site) for site in described["sites"])
    return Web(folder=folder, sites=sites, answers=answers, references=tuple(truth))


def site_sizes(n_images: int, n_sites: int) -> list[int]:
    """Return how many pictures each site has: LARGEST_SHARE, then a heavy tail; they sum to `n_images`."""
    largest = round(LARGEST_SHARE * n_images)
    weights = [(rank + 3) ** -0.85 for rank in range(n_sites - 1)]
    spare = n_images - largest - (n_sites - 1)  # every site has one at least
    tail = [1 + int(spare * weight / sum(weights)) for weight in weights]
    for rank in range(n_images - largest - sum(tail)):
        tail[rank] += 1
    return [largest, *tail]


def addresses(n_sites: int, port: int | None = None) -> list[str]:
    """Return a host:port on loopback for each site; consecutive ports where only 127.0.0.1 exists."""
    hosts = [f"127.0.{1 + number // 250}.{1 + number % 250}" for number in range(n_sites)]
    if _can_bind(hosts[0], 0):
        port = port or _first_free_port(hosts, 1)
        return [f"{host}:{port}" for host in hosts]
    port = port or _first_free_port(["127.0.0.1"], n_sites)
    return [f"127.0.0.1:{port + number}" for number in range(n_sites)]


def _can_bind(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def _first_free_port(hosts: list[str], ports: int) -> int:
    """Return the first port from which `ports` consecutive ones are free on each host.

    Counting from a fixed number rather than asking the system for any free port keeps URLs, and with them the
    whole web, the same from one run to the next.
    """
    for port in range(_FIRST_PORT, _LAST_PORT):
        if all(_can_bind(host, port + step) for host in hosts for step in range(ports)):
            return port
    raise OSError(f"no free port between {_FIRST_PORT} and {_LAST_PORT} on {hosts[0]}")


def _draft(folder: Path, number: int, address: str, n_sites: int) -> Draft:
    """Return the empty site; small ones in the middle have roles, and some speak German or French."""
    name = f"site-{number:03d}"
    role = dict(zip(range(n_sites // 3, n_sites), _ROLES, strict=False)).get(number, "ordinary")
    draft = Draft(name=name, address=address, folder=folder / "sites" / name, role=role)
    if role == "ordinary" and number % 32 == 25:
        draft.language, draft.charset = "de", "iso-8859-1"
    if role == "ordinary" and number % 32 == 14:
        draft.language = "fr"
    return draft


def _site_headers(draft: Draft) -> dict[str, str]:
    return {"X-Robots-Tag": "noai, noimageai"} if draft.role == "noai" else {}


def _digests(drafts: list[Draft]) -> dict[str, str]:
    """Return the SHA-256 of the bytes behind each URL, redirects followed."""
    found = {}
    for draft in drafts:
        for file in sorted(p for p in draft.folder.rglob("*") if p.is_file()):
            path = "/" + file.relative_to(draft.folder).as_posix()
            if draft.answers.get(path, Answer()).status == 200:
                found[draft.root + path] = hashlib.sha256(file.read_bytes()).hexdigest()
    for draft in drafts:
        for path, answer in draft.answers.items():
            target = urljoin(draft.root, answer.headers.get("Location", ""))
            if answer.status in (301, 302) and target in found:
                found[draft.root + path] = found[target]
    return found


def _write_site_files(draft: Draft, pages: list[str]) -> None:
    """Write sitemap.xml and robots.txt; a third of the ordinary sites has no robots.txt."""
    entries = "".join(f"<url><loc>{url}</loc></url>\n" for url in pages)
    sitemap = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{entries}</urlset>\n'
    )
    draft.put("/sitemap.xml", sitemap.encode())
    disallow = {"robots_disallow": "/", "robots_partial": PRIVATE}.get(draft.role, "")
    if draft.role == "robots_unavailable":
        draft.answers["/robots.txt"] = Answer(status=503)
    elif draft.role != "ordinary" or int(draft.name[-3:]) % 3:
        text = f"User-agent: *\nDisallow: {disallow}\n\nSitemap: {draft.root}/sitemap.xml\n"
        draft.put("/robots.txt", text.encode())


def _write_sitemap_index(drafts: list[Draft]) -> None:
    """Let the first site list the sitemaps of all."""
    entries = "".join(f"<sitemap><loc>{draft.root}/sitemap.xml</loc></sitemap>\n" for draft in drafts)
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<sitemapindex xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{entries}</sitemapindex>\n'
    )
    drafts[0].put(f"/{_INDEX}", text.encode())


def _write_warc(path: Path, pages: list[DrawnPage]) -> None:
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=True, warc_version="1.1")
        info = {"software": "openwit demo", "format": "WARC File Format 1.1"}
        head = writer.create_warcinfo_record(path.name, info)
        head.rec_headers.replace_header("WARC-Date", _DATE)
        head.rec_headers.replace_header("WARC-Record-ID", _record_id(path.name))
        writer.write_record(head)
        for page in pages:
            body = render(page)
            media_type = f"text/html; charset={page.charset}"
            headers = [("Content-Type", media_type), ("Content-Length", str(len(body)))]
            record = writer.create_warc_record(
                page.url,
                "response",
                payload=io.BytesIO(body),
                length=len(body),
                warc_headers_dict={"WARC-Date": _DATE, "WARC-Record-ID": _record_id(page.url)},
                http_headers=StatusAndHeaders("200 OK", headers, protocol="HTTP/1.1"),
            )
            writer.write_record(record)


def _record_id(name: str) -> str:
    return f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name)}>"


def _write_urls(path: Path, truth: list[Reference]) -> None:
    """Write a row for each text of the images on every third site."""
    rows = [
        (reference.url, text.text)
        for reference in truth
        if int(reference.site[-3:]) % 3 == 0
        for text in reference.texts
        if text.text
    ]
    urls, texts = zip(*rows, strict=True)
    pq.write_table(pa.table({"url": pa.array(urls), "caption": pa.array(texts)}), path)


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def _write_web_json(path: Path, drafts: list[Draft]) -> None:
    sites = [
        SiteInfo(name=d.name, address=d.address, role=d.role, charset=d.charset, headers=_site_headers(d))
        for d in drafts
    ]
    answers = [
        {"site": d.name, "path": path, **asdict(answer)}
        for d in drafts
        for path, answer in sorted(d.answers.items())
    ]
    described = {"sites": [asdict(site) for site in sites], "answers": answers}
    path.write_text(json.dumps(described, indent=1) + "\n", "utf-8")


def _sources(good: list[Placed], digests: dict[str, str]) -> list[WebPicture]:
    """Return the pictures that altered copies may be planted of: JPEG files, each at one URL only."""
    found = []
    for site, index, path, spec in good:
        mark = site.marks[index]
        if path.endswith(".jpg") and "same_bytes" not in mark.special:
            url = site.root + path
            found.append(
                WebPicture(url, spec.label, site.folder / path.removeprefix("/"), digests[url], spec)
            )
    return found
