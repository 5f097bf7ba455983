"""Small MediaWiki dumps for tests, written as Wikimedia's exporter writes them."""

import bz2
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="en">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <base>https://en.wikipedia.org/wiki/Main_Page</base>
    <namespaces>
      <namespace key="0" case="first-letter" />
      <namespace key="6" case="first-letter">Datei</namespace>
      <namespace key="10" case="first-letter">Template</namespace>
      <namespace key="14" case="first-letter">Kategorie</namespace>
    </namespaces>
  </siteinfo>
"""
TAIL = "</mediawiki>\n"
SAMPLE = Path(__file__).resolve().parents[2] / "shared/data/text"
SAMPLE_DUMP = SAMPLE / "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
WORDNET = Path("/usr/share/wordnet")


class Written(NamedTuple):
    title: str
    text: str = ""
    redirect: str = ""
    namespace: int = 0


def page(written: Written, number: int = 1) -> str:
    redirect = f"    <redirect title={quoteattr(written.redirect)} />\n" if written.redirect else ""
    text = escape(written.text, {'"': "&quot;"})
    return (
        f"  <page>\n    <title>{escape(written.title)}</title>\n    <ns>{written.namespace}</ns>\n"
        f"    <id>{number}</id>\n{redirect}    <revision>\n      <id>7</id>\n"
        "      <comment>a &lt;b&gt;</comment>\n"
        f'      <text bytes="{len(text)}" xml:space="preserve">{text}</text>\n    </revision>\n  </page>\n'
    )


def plain(pages: list[Written]) -> bytes:
    return (HEAD + "".join(page(p, i) for i, p in enumerate(pages)) + TAIL).encode()


def write_multistream(folder: Path, pages: list[Written], pages_per_stream: int) -> tuple[Path, list[int]]:
    """Write a multistream dump and its index; return its path and the offsets of its streams of pages."""
    path = folder / "testwiki-20260101-pages-articles-multistream.xml.bz2"
    data = bz2.compress(HEAD.encode())
    index, offsets = [], []
    for start in range(0, len(pages), pages_per_stream):
        group = pages[start : start + pages_per_stream]
        offsets.append(len(data))
        index += [f"{len(data)}:{start + i}:{p.title}\n" for i, p in enumerate(group)]
        data += bz2.compress("".join(page(p, start + i) for i, p in enumerate(group)).encode())
    path.write_bytes(data + bz2.compress(TAIL.encode()))
    name = "testwiki-20260101-pages-articles-multistream-index.txt.bz2"
    (folder / name).write_bytes(bz2.compress("".join(index).encode()))
    return path, offsets
