"""What a manifest says of its dataset, in sentences for the card and the Croissant; nothing else."""

import json
import posixpath
from collections.abc import Mapping
from typing import Any

from pipeline import querylist
from pipeline.report.funnel import funnel, is_opt_out

Manifest = Mapping[str, Any]


def code(value: object) -> str:
    """Return a value as Markdown code, whatever is in it."""
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    return "`" + text.replace("`", "'").replace("\n", " ") + "`"


def count(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def is_balanced(manifest: Manifest) -> bool:
    """Return whether there was a query list, so that counts of queries mean something."""
    return bool(manifest["configuration"]["per_query"] < querylist.NO_CAP)


def sources(manifest: Manifest) -> list[str]:
    """Return the sources' names without their folders, which are the crawler's own."""
    added = [path for extension in manifest.get("extensions", []) for path in extension["source"]]
    paths = [*manifest["configuration"]["source"], *added]
    return [posixpath.basename(path.rstrip("/")) or path for path in paths]


def collection(manifest: Manifest) -> list[str]:
    """Return how the samples were found and fetched."""
    options, counts, rounds = manifest["configuration"], manifest["counts"], manifest["rounds"]
    tried = sum(one["images"] for one in rounds)
    good = sum(one["reasons"].get("", 0) for one in rounds)
    said = [
        f"{count(counts['candidates'], 'candidate')}, each a text beside a reference to an image, from "
        + ", ".join(code(name) for name in sources(manifest))
        + ".",
        *_matching(manifest),
        f"{count(tried, 'image')} asked for in {count(len(rounds), 'round')}; {good:,} good ones arrived.",
    ]
    if manifest["crawled"]["first"]:
        said.append(f"They were fetched {timeframe(manifest)}.")
    if options["sample"] < 1:
        said.append(f"It is a pilot: only a hash sample of {options['sample']:g} of the sources was read.")
    return said


def _matching(manifest: Manifest) -> list[str]:
    queries, per_query = manifest["queries"], manifest["configuration"]["per_query"]
    if not is_balanced(manifest):
        return ["No query list was given: every text is taken."]
    return [
        f"A text is taken if it contains one of {count(queries['queries'], 'query', 'queries')}, compared by "
        f"whole words; {count(queries['matched'], 'query', 'queries')} matched something.",
        f"Each query contributes at most {count(per_query, 'sample')}, those of the smallest hash of seed, "
        "URL and query. A sample is in the set if one of its queries keeps it.",
    ]


def timeframe(manifest: Manifest) -> str:
    """Return the days of the crawl, UTC; "" for a run without samples."""
    crawled = manifest["crawled"]
    if not crawled["first"]:
        return ""
    first, last = crawled["first"][:10], crawled["last"][:10]
    return f"on {first}" if first == last else f"from {first} to {last}"


def preprocessing(manifest: Manifest) -> list[str]:
    """Return which filters were on, and what was done to texts and images."""
    options = manifest["configuration"]
    said = [
        "Texts: entities decoded, Unicode normalised to NFC, control characters and repeated white space "
        "removed.",
        f"Texts of {options['min_chars']} to {options['max_chars']:,} characters and of "
        f"{options['min_words']} to {options['max_words']:,} words.",
        _when(options["lang"] != "any", f"Texts that are improbable as {code(options['lang'])} by fastText's "
              "lid.176 and by what their page says are left out; the most probable language is in `lang`."),
        _when(options["file_names"], "No file names, addresses or identifiers as texts."),
        _when(options["camera_settings"], "No camera settings as texts."),
        _when(options["boilerplate"], "No boilerplate texts of pages."),
        _when(options["max_repetition"] < 1,
              f"No text of which more than {options['max_repetition']:.0%} repeats itself."),
        _when(options["shared_captions"],
              f"No text that stands at more than {options['shared_captions']} images."),
        _when(options["mask_contacts"], "Mail addresses and telephone numbers in texts are masked."),
        f"Images: formats {', '.join(options['formats'])}; shorter side of at least {options['min_side']} "
        f"pixels; longer side of at most {options['max_aspect']:g} times that; at most "
        f"{options['max_pixels']:,} pixels; from {options['min_bytes']:,} to {options['max_bytes']:,} bytes.",
        _when(options["dedup"] != "off", "Images of the same bytes are one sample with the texts of all."),
        _when(options["placeholder_captions"], "No image that stands under "
              f"{options['placeholder_captions']} or more texts that share few words."),
        _when(options["scorer"], f"Scores by {code(options['scorer'])}" + (
            f", kept where {code(options['keep_if'])}." if options["keep_if"] else ".")),
        _when(options["drop"], "Samples listed in a file given with --drop are left out."),
        _stored(options),
    ]  # fmt: skip
    return [sentence for sentence in said if sentence]


def _when(on: object, sentence: str) -> str:
    return sentence if on else ""


def _stored(options: Mapping[str, Any]) -> str:
    how = {
        "shorter": f"with a shorter side of at most {options['image_size']} pixels",
        "longer": f"with a longer side of at most {options['image_size']} pixels",
        "square": f"as squares of at most {options['image_size']} pixels, cut from the centre",
        "keep": "in their own size",
    }[options["resize_mode"]]
    return f"Stored as JPEG of quality {options['quality']}, {how}, never enlarged, without metadata."


def opt_outs(manifest: Manifest) -> list[tuple[str, str, int]]:
    """Return (reason, meaning, texts left out) of what was honoured in this crawl."""
    return [
        (cause.reason, cause.meaning, cause.captions)
        for step in funnel(manifest["counts"])
        for cause in step.causes
        if is_opt_out(cause.reason)
    ]


def personal(manifest: Manifest) -> list[str]:
    """Return what personal data may be there."""
    options = manifest["configuration"]
    masked = "are masked" if options["mask_contacts"] else "are not masked"
    exif = "is kept in the column `exif`" if options["keep_exif"] else "is not kept"
    return [
        "Images, texts and URLs come from public web pages and may show or name persons; nothing was done to "
        "find or to blur them.",
        f"Mail addresses and telephone numbers in texts {masked}. The Exif data of the images {exif}.",
    ]


def limitations(manifest: Manifest) -> list[str]:
    """Return what users must know, as far as the configuration tells."""
    options, said = manifest["configuration"], []
    said.append("The texts are what pages say beside an image. Nobody has checked that they describe it.")
    if not options["keep_if"]:
        said.append(
            "No classifier has looked at the images: violent, sexual or hateful content may be among them."
        )
    if options["lang"] != "any":
        said.append(
            f"Texts that were not taken for {code(options['lang'])}, short ones above all, are missing."
        )
    said.append(f"{follows(manifest)}; it represents neither the web nor the world.")
    if options["dedup"] == "exact":
        said.append("Only images of the same bytes are merged; near-duplicates remain.")
    if not options["drop"]:
        said.append(
            "Images of evaluation sets that are on the web may be in it; `openwit overlap` finds them."
        )
    said.append("Behind a URL there may be another image by now; `sha256` is that of the bytes fetched.")
    return said


def follows(manifest: Manifest) -> str:
    """Return what decides on what is in the set."""
    queries = "the queries, " if is_balanced(manifest) else ""
    return f"What the set shows follows {queries}the pages that were read, and who may be crawled"


def rights() -> str:
    """Return to whom the images and texts belong."""
    return (
        "The images and texts belong to their owners, who have licensed nothing by being listed here. "
        "Whoever uses them answers for having the right to."
    )


def takedown(manifest: Manifest) -> str:
    """Return how to have something removed."""
    contact = manifest["configuration"]["contact"]
    whom = f"Write to {contact}."
    if not contact:
        whom = "No contact is published with this set: whoever publishes it should name one here."
    return f"{whom} `openwit takedown` removes samples by URL, domain or hash from every file of the set."
