"""The template's sections and fields, each filled from a run as far as it is known."""

import math
from datetime import datetime
from typing import Any, Final

import numpy as np

from pipeline.checked_manifest import Manifest
from pipeline.formats import count, size
from pipeline.http.user_agent import ALIASES, TOKEN
from pipeline.options.fetch import OPT_OUTS
from pipeline.report import statements
from pipeline.report.samples import SampleFigures
from pipeline.report.totals import largest

Field = dict[str, Any]
Section = dict[str, Any]

TOP_SHARE: Final = 0.10
"""The template's section 2.3: the top 10% of all domain names by the size of everything that was scraped of
each."""
TOP_SHARE_SME: Final = 0.05
MOST_SME: Final = 1_000
"""For SMEs, start-ups among them: the top 5%, or 1,000 domain names, whichever is less."""

_IMAGE_RANGES: Final = ((10**6, "Less than 1 million images"), (10**9, "1 million to 1 billion images"))
_TEXT_RANGES: Final = ((10**9, "Less than 1 billion tokens"), (10**13, "1 billion to 10 trillion tokens"))


def shown_domains(domains: int, *, sme: bool) -> int:
    """Return how many of that many domain names the template asks for."""
    if sme:
        return min(math.ceil(TOP_SHARE_SME * domains), MOST_SME)
    return math.ceil(TOP_SHARE * domains)


def of(manifest: Manifest, figures: SampleFigures, *, sme: bool) -> list[Section]:
    """Return all sections in the template's order; a value of None is for a person to fill."""
    return [
        _section("1.1", "Provider identification", _provider()),
        _section("1.2", "Model identification", _model()),
        _section("1.3", "Modalities, overall training data size and other characteristics",
                 _modalities(figures)),
        _section("2.1", "Publicly available datasets", _public(figures)),
        _section("2.2", "Private non-publicly available datasets obtained from third parties", [
            _asked("licensed_datasets", "Datasets commercially licensed by rightsholders"),
            _asked("other_private_datasets", "Private datasets obtained from other third parties"),
        ]),
        _section("2.3", "Data crawled and scraped from online sources", _crawled(manifest, figures, sme)),
        _section("2.4", "User data", [_asked("user_data", "Data collected from users of the provider")]),
        _section("2.5", "Synthetic data", _synthetic(figures)),
        _section("2.6", "Other sources of data", [_asked("other_sources", "Any other source of data")]),
        _section("3.1", "Respect of reservation of rights from the text and data mining exception",
                 _reservations(manifest)),
        _section("3.2", "Removal of illegal content", _illegal(manifest)),
        _section("3.3", "Other information", [
            *_personal(manifest, figures), _asked("other_information", "Other information (optional)"),
        ]),
    ]  # fmt: skip


def _section(number: str, title: str, fields: list[Field]) -> Section:
    return {"number": number, "title": title, "fields": fields}


def _known(name: str, label: str, value: Any) -> Field:
    return {"id": name, "label": label, "filled_by": "openwit", "value": value}


def _asked(name: str, label: str) -> Field:
    return {"id": name, "label": label, "filled_by": "person", "value": None}


def _provider() -> list[Field]:
    return [
        _asked("provider", "Provider's name and contact details"),
        _asked("representative", "Authorised representative's name and contact details, for providers "
               "outside the Union"),
    ]  # fmt: skip


def _model() -> list[Field]:
    return [
        _asked("model", "Versioned model names"),
        _asked("dependencies", "Models that it is a modification of, with the summaries of those"),
        _asked("market_date", "Date of placement on the Union market"),
    ]


def _modalities(found: SampleFigures) -> list[Field]:
    text: dict[str, Any] = {
        "captions": found.captions, "words": found.words, "bytes": found.text_bytes, "range": None,
    }  # fmt: skip
    # A token has at least one byte, and a word at least one token: where both are in a range, so are tokens.
    low, high = (_range(number, _TEXT_RANGES, "tokens") for number in (found.words, found.text_bytes))
    text["range"] = low if low == high else f"{low}, or {high[0].lower()}{high[1:]}: it depends on the tokens"
    images = {
        "images": found.samples, "bytes_as_fetched": found.image_bytes,
        "range": _range(found.samples, _IMAGE_RANGES, "images"),
    }  # fmt: skip
    return [
        _known("modalities", "Modalities in this source", ["text", "image"]),
        _known("text_size", "Size of the text: image captions in natural language", text),
        _known("image_size", "Size of the images: still pictures from web pages", images),
        _asked("content_types", "Types of content, such as photography, visual art, infographics"),
        _known("latest_date", "Latest date of collection (MM/YYYY)", _month(found.last)),
        _asked("after_market", "Whether the model is trained further on new data after that date"),
        _known("languages", "Languages of the captions, by samples, as fastText's lid.176 tells them",
               found.languages),
        _asked("overall_size", "Overall size of the training data, all sources together"),
        _asked("other_characteristics", "Other relevant characteristics of the overall training data"),
    ]  # fmt: skip


def _range(number: int, ranges: tuple[tuple[int, str], ...], noun: str) -> str:
    top = ranges[-1][0]
    most = f"More than {'1 billion' if top == 10**9 else '10 trillion'} {noun}"
    return next((text for limit, text in ranges if number < limit), most)


def _month(moment: datetime | None) -> str:
    return moment.strftime("%m/%Y") if moment else ""


def _public(found: SampleFigures) -> list[Field]:
    return [
        _known("source_files", "Lists and archives in which the images' addresses were found, by samples",
               found.sources),
        _asked("public_datasets", "Large publicly available datasets among them, such as Common Crawl, with "
               "their addresses, and a description of the others"),
    ]  # fmt: skip


def _crawled(manifest: Manifest, found: SampleFigures, sme: bool) -> list[Field]:
    options = statements.options_of(manifest)
    contact = manifest.configuration.get("contact")
    delay = options.fetch.host_delay if options.fetch.host_delay is not None else 1.0
    named = f" and where {', '.join(ALIASES)} are named"
    aliases = named if "robots-alias" in options.fetch.opt_out else ""
    behaviour = [
        f"One crawler, which names itself {TOKEN} in its User-Agent"
        + (f" and gives {contact} as its contact." if contact else "."),
        f"At most one request in {delay:g} s and {options.fetch.host_concurrency} at a time to a site, "
        "robots.txt included; answers of 429 and 503 are waited for.",
        "It solves no captcha, passes no login or paywall, sends no cookie and runs no script.",
        f"It obeys robots.txt (RFC 9309) for itself{aliases}, and the reservations of section 3.1.",
    ]
    period = {"from": _month(found.first), "to": _month(found.last)}
    return [
        _known("crawlers_used", "Were crawlers used by the provider or on its behalf?", True),
        _known("crawler_name", "Crawler name or identifier", TOKEN),
        _asked("crawler_operator", "Who operates the crawler"),
        _known("crawler_purpose", "Purpose of the crawler",
               "Collecting images with their texts for training encoders of images and text"),
        _known("crawler_behaviour", "How the crawler behaves", behaviour),
        _known("period", "Period of data collection (MM/YYYY)", period),
        _known("collection", "How the content was found and chosen",
               [sentence.replace("`", "") for sentence in statements.collection(manifest)]),
        _known("crawled_modalities", "Modalities crawled", ["text", "image"]),
        _known("domains", "Most relevant domain names, by the size of what was scraped of each",
               _domains(found, sme)),
        _asked("crawled_content", "Types of the content and of the online sources, in words"),
    ]  # fmt: skip


def _domains(found: SampleFigures, sme: bool) -> dict[str, Any]:
    """Return the domains with the most bytes, images as fetched and captions together."""
    table, total = found.sites, found.image_bytes + found.text_bytes
    shown = shown_domains(len(table), sme=sme)
    rows = largest(table, "content", shown).to_pylist()
    return {
        "domains": len(table), "bytes": total, "shown": len(rows),
        "cut": f"top {TOP_SHARE_SME:.0%}, or {MOST_SME:,}" if sme else f"top {TOP_SHARE:.0%}",
        "shown_bytes": sum(row["content"] for row in rows),
        "shown_samples": sum(row["samples"] for row in rows),
        "list": [
            {"domain": row["site"], "samples": row["samples"], "bytes": row["content"],
             "share": _share(row["content"], total)}
            for row in rows
        ],
    }  # fmt: skip


def _share(part: int, whole: int) -> float:
    return float(np.round(part / max(whole, 1), 6))


def _synthetic(found: SampleFigures) -> list[Field]:
    fields = [_asked("synthetic_data", "Synthetic data that the provider made or had made for training")]
    if found.synthetic:
        counted = {name or "not known": number for name, number in found.synthetic.items()}
        label = "Images in this source that say of themselves how they were made, by samples"
        fields.insert(0, _known("synthetic_found", label, counted))
    return fields


def _reservations(manifest: Manifest) -> list[Field]:
    honoured = statements.options_of(manifest).fetch.opt_out
    not_honoured = [name for name in OPT_OUTS if name not in honoured]
    left_out = [
        {"reason": reason, "meaning": meaning, "captions": number}
        for reason, meaning, number in statements.opt_outs(manifest)
    ]
    return [
        _asked("code_of_practice", "Whether the provider has signed the Code of Practice for general-purpose "
               "AI models, which commits to respect reservations of rights"),
        _known("protocols", "Opt-out protocols and solutions honoured before and while collecting",
               ["robots.txt (RFC 9309)", *honoured]),
        _known("protocols_not_honoured", "Protocols that this run did not honour", not_honoured),
        _known("left_out", "Captions left out for a reservation, by reason", left_out),
        _known("takedown", "After collection", statements.takedown(manifest).replace("`", "")),
        _asked("copyright_policy", "The provider's copyright policy (Article 53(1)(c)), and other measures"),
    ]  # fmt: skip


def _illegal(manifest: Manifest) -> list[Field]:
    options = statements.options_of(manifest)
    listed = sum(reasons.get("hash_listed", 0) for reasons in manifest.counts.rejected_by_stage.values())
    measures = [
        f"Images were compared with a list of hashes of unwanted images before anything was stored; "
        f"{count(listed, 'caption')} of listed images were left out."
        if options.hash_list
        else "No list of hashes of known illegal images was given to this run (--hash-list).",
        f"Images were kept where {options.keep_if} by the scorers {', '.join(options.scorer)}."
        if options.keep_if
        else "No classifier chose among the images (--scorer, --keep-if).",
    ]
    return [
        _known("illegal_measures", "Measures against illegal content in this run", measures),
        _asked("illegal_other", "Other measures of the provider, such as lists of sites or words"),
    ]


def _personal(manifest: Manifest, found: SampleFigures) -> list[Field]:
    words = {
        "captions_with_mail_addresses": found.contacts["email"],
        "captions_with_telephone_numbers": found.contacts["phone"],
        "captions_with_identity_numbers": found.contacts["id"],
    }
    fields = [
        _known(
            "personal_data",
            "Personal data",
            [sentence.replace("`", "") for sentence in statements.personal(manifest)],
        ),
        _known("contacts_found", "What a search for contacts and numbers finds in the captions", words),
    ]
    if found.licences:
        counted = {name or "not known": number for name, number in found.licences.items()}
        fields.append(_known("licences", "Licences that pages and images state, by samples", counted))
    stored = sum(shard.bytes for shard in manifest.shards)
    fields.append(_known("stored", "Stored", f"{count(len(manifest.shards), 'shard')}, {size(stored)}"))
    return fields
