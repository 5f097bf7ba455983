"""The closed set of reasons for which a candidate is not in the shards.

Every candidate is either a caption in a shard or a row in `rejected/` with one of these words. A word is
documented here once; the report, the documentation and the tests read this table.
"""

from typing import Final, Literal, NamedTuple

Stage = Literal["candidates", "select", "fetch", "finish"]


class Reason(NamedTuple):
    """Return a reason's stages, whether trying again may help, and its meaning."""

    stages: tuple[Stage, ...]
    transient: bool
    meaning: str


def _of(*stages: Stage, transient: bool = False, **meanings: str) -> dict[str, Reason]:
    return {word: Reason(stages, transient, meaning) for word, meaning in meanings.items()}


REASONS: Final[dict[str, Reason]] = {
    # The reference or the text as found on the page.
    **_of(
        "candidates",
        bad_record="the source record could not be read",
        page_unavailable="a page or sitemap of the source could not be fetched; the detail says why",
        page_limit="pages beyond --max-pages or --max-site-pages; one row per site",
        bad_scheme="a scheme other than http and https",
        data_url="the image is inlined in the page",
        svg="a vector image",
        no_caption="the image has no text, or none is left after cleaning",
        garbled="the text's encoding cannot be told, or much of the text could not be decoded",
        caption_too_short="fewer characters or words than asked for",
        caption_too_long="more characters or words than asked for",
        file_name="the text is a file name or an identifier",
        camera_setting="the text is a camera's default name or exposure settings",
        boilerplate="the text is a template of the page, not about the image",
        repetitive="the text repeats itself",
        no_match="no query occurs in the text",
        language="a match, but improbable in the wanted language; the detail has the likeliest and its score",
        opt_out_page="the page reserves its images: meta robots, tdm-reservation, X-Robots-Tag or RSL in it",
    ),
    # Reasons of dedupe, balance and the caption cap.
    **_of(
        "select",
        duplicate="the same caption for the same URL was seen already",
        known_url="the run that is extended has tried this URL; its sample, if there is one, stays as it is",
        shared_caption="the same text stands at too many images",
    ),
    **_of("select", "finish", too_many_captions="the image has more captions than --max-captions"),
    # The request and the answer. Transient ones are tried again in the next round.
    **_of(
        "fetch",
        address_blocked="the name or address is not public (SSRF policy)",
        port_blocked="a port that is not a web port",
        robots_disallow="robots.txt does not allow it",
        opt_out_robots_alias="robots.txt disallows it for img2dataset, LAIONDownloader or CCBot",
        opt_out_content_signal="robots.txt says Content-Signal: ai-train=no",
        opt_out_content_usage="robots.txt or the answer says Content-Usage: train-ai=n",
        opt_out_tdmrep="/.well-known/tdmrep.json reserves it from text and data mining",
        opt_out_x_robots_tag="the answer says X-Robots-Tag: noai or similar",
        opt_out_tdm_reservation="the answer says tdm-reservation: 1",
        opt_out_xmp="the image's own XMP metadata prohibits data mining",
        opt_out_c2pa="a C2PA manifest in the image (CAWG, or JPEG Trust's rights) does not allow training",
        opt_out_rsl="its terms for machines (Really Simple Licensing) do not let it be trained on freely",
        opt_out_ai_txt="/ai.txt disallows it, or its kind of file",
        opt_out_site="not asked: the last answers of this server all opted out",
        redirect_loop="the redirects come back to a URL already seen",
        too_many_redirects="more redirects than allowed",
        bad_redirect="a redirect without a usable target",
        tls_error="the certificate or the handshake is not valid",
        bad_http="not valid HTTP",
        bad_encoding="a Content-Encoding, which was not asked for, that cannot be undone",
        http_gone="404 or 410",
        http_denied="401, 403 or 451",
        http_error="another status that is not 200",
        empty_body="no bytes",
        too_few_bytes="fewer bytes than --min-bytes",
        too_large="more bytes than --max-bytes, declared or sent",
    ),
    **_of(
        "fetch",
        transient=True,
        robots_unavailable="robots.txt answers 429 or 5xx, or not at all: everything is disallowed for now",
        dns_error="the name does not resolve",
        connect_error="no connection",
        connect_timeout="no connection within the time",
        read_timeout="the server fell silent",
        total_timeout="not finished within --timeout",
        too_slow="fewer bytes per second than the minimum",
        disconnected="the server closed the connection",
        incomplete_body="the body is shorter than declared",
        http_throttled="429 or 503",
        http_server_error="another 5xx",
        redirect_elsewhere="redirected to another site, tried there in the next round",
        deferred="the site's share of time was used up",
    ),
    # The bytes as an image.
    **_of(
        "fetch",
        not_image="not an image of an allowed format",
        animated="an animation",
        too_small="a side shorter than --min-side",
        bad_aspect="longer than --max-aspect times its width or height",
        too_many_pixels="more pixels than --max-pixels",
        too_many_scans="a JPEG with more scans than a camera or a browser writes",
        truncated="the image data ends early",
        decode_error="the decoder refused the image data",
        decode_timeout="decoding took longer than allowed and was killed",
        decode_memory="decoding needed more memory than allowed",
        decode_crash="the decoder died on it",
        score_filter="a score does not satisfy --keep-if",
        synthetic="something says that a machine made it or parts of it (--drop-synthetic)",
        hash_listed="its bytes or its look are in --hash-list; nothing of it was stored",
    ),
    # Reasons known only when everything has arrived.
    **_of(
        "finish",
        merged_into="the same bytes as another image, or a near-duplicate of it; its captions went there",
        placeholder="one picture under many unrelated captions",
        dropped="listed in --drop",
    ),
    **_of("fetch", "finish", licence="it has none of the licences that --licence names, or none is stated"),
    # Before it is fetched, and when it has arrived; --retry-failed finds such images among the fetched ones.
    **_of("select", "fetch", "finish", over_cap="every query it matches has its --per-query samples"),
    **_of(
        "candidates",
        "fetch",
        bad_url="not a valid absolute URL, or longer than 2,083 characters",
        taken_down="removed by openwit takedown, or of an image, a page or a site that was",
    ),
    # A fault of openwit's own, counted, never hidden.
    **_of(
        "candidates",
        "fetch",
        transient=True,
        internal_error="an error of openwit itself; the detail names it",
    ),
}


def is_transient(reason: str) -> bool:
    """Return whether a later round may succeed where `reason` stood; KeyError for an unknown word."""
    return REASONS[reason].transient


_OWN: Final = "for your own server give --allow-network, such as 127.0.0.0/8 or 10.0.0.0/8"
_AGAIN: Final = "--retry-failed asks again"

REMEDIES: Final[dict[str, str]] = {
    "bad_record": "look at the details in rejected/: the source may be of another format (--source-format)",
    "page_unavailable": f"the details in rejected/ say why; {_OWN}",
    "bad_url": "look at the details in rejected/: another column may hold the URLs (--url-col)",
    "bad_scheme": "look at the details in rejected/: another column may hold the URLs (--url-col)",
    "no_caption": "another column may hold the captions (--caption-col); --empty-captions takes rows without",
    "caption_too_short": "--min-chars and --min-words decide",
    "caption_too_long": "--max-chars and --max-words decide",
    "file_name": "another column may hold the captions (--caption-col), or --no-file-names keeps such texts",
    "camera_setting": "--no-camera-settings keeps such texts",
    "boilerplate": "--no-boilerplate keeps such texts",
    "repetitive": "--max-repetition decides",
    "language": "--lang names the language that is kept; any keeps all",
    "no_match": "no query of --queries is in these texts; --queries all takes every row",
    "shared_caption": "--shared-captions 0 keeps texts that stand at many images",
    "too_many_captions": "--max-captions decides",
    "dropped": "--drop names these samples",
    "address_blocked": f"{_OWN}; names that lead to private addresses are refused otherwise",
    "port_blocked": _OWN,
    "robots_disallow": "the sites do not want it: other sources are the only remedy",
    "tls_error": "the details in rejected/ name the fault of the certificates",
    "http_gone": "the list is old: the images are gone",
    "http_denied": "the hosts refuse this crawler; a lower rate (--host-delay) and a --contact may help",
    "too_few_bytes": "--min-bytes decides",
    "too_large": "--max-bytes decides",
    "robots_unavailable": f"the hosts do not answer for robots.txt; {_AGAIN}",
    "dns_error": f"is there a network, and a name server (--dns-server)? {_AGAIN}",
    "connect_error": f"is there a network, and may this machine reach these ports? {_AGAIN}",
    "connect_timeout": f"is there a network? --connect-timeout decides; {_AGAIN}",
    "read_timeout": f"--read-timeout decides; {_AGAIN}",
    "total_timeout": f"--timeout decides; {_AGAIN}",
    "too_slow": f"--min-rate decides; {_AGAIN}",
    "disconnected": _AGAIN,
    "incomplete_body": _AGAIN,
    "http_throttled": f"the hosts want a lower rate: --host-delay; {_AGAIN}",
    "http_server_error": _AGAIN,
    "redirect_elsewhere": f"more --rounds follow redirects to other sites; {_AGAIN}",
    "deferred": f"sites were slower than --unit-seconds and --rounds allow; {_AGAIN}",
    "not_image": "do the URLs name images, and not pages about them? --formats decides",
    "animated": "--allow-animated takes the first frame",
    "too_small": "--min-side decides",
    "bad_aspect": "--max-aspect decides",
    "too_many_pixels": "--max-pixels decides",
    "score_filter": "--keep-if decides",
    "synthetic": "--drop-synthetic leaves such pictures out",
    "licence": "--licence decides; most pages state none",
    "placeholder": "--placeholder-captions 0 keeps one picture under many unrelated captions",
    "internal_error": "the details in rejected/ name a fault of openwit: please report it",
}
"""Advice for a user on a reason that takes most of a stage."""

USUAL: Final = frozenset(
    ("over_cap", "duplicate", "merged_into", "known_url", "taken_down", "too_many_captions", "opt_out_site")
)
"""Reasons that take most of a stage while all is well."""
USUAL_OF_PAGES: Final = USUAL | {
    *("no_match", "language", "no_caption", "caption_too_short", "file_name", "boilerplate"),
    *("camera_setting", "repetitive", "data_url", "svg", "shared_caption"),
}
"""The same where the sources are pages and not a list of images: most texts on a page are no captions."""


def remedy(reason: str) -> str:
    """Return the remedy for a reason, or its meaning if there is none."""
    if reason.startswith("opt_out"):
        return "the sites do not want it: other sources are the only remedy"
    return REMEDIES.get(reason) or REASONS[reason].meaning
