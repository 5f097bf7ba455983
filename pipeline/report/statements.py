"""The sentences that a manifest supports about its dataset, for the card and the Croissant; nothing else."""

import json
import posixpath

from pipeline import config, querylist
from pipeline.checked_manifest import Manifest
from pipeline.formats import count
from pipeline.options import CrawlConfig, ImageOptions
from pipeline.report.funnel import funnel, is_opt_out


def options_of(manifest: Manifest) -> CrawlConfig:
    """Return the options of a run; ValueError if its configuration is not one of this version."""
    configuration = dict(manifest.configuration)
    if isinstance(scorer := configuration.get("scorer"), str):  # when only a single scorer was allowed
        configuration["scorer"] = (scorer,) if scorer else ()
    return config.from_effective(CrawlConfig, configuration)


def code(value: object) -> str:
    """Return a value as Markdown code, whatever is in it."""
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    return "`" + text.replace("`", "'").replace("\n", " ") + "`"


def is_balanced(manifest: Manifest) -> bool:
    """Return whether there was a query list, so that counts of queries mean something."""
    return manifest.per_query < querylist.NO_CAP


def sources(manifest: Manifest) -> list[str]:
    """Return the sources' names without their folders, which are the crawler's own."""
    added = [path for extension in manifest.extensions for path in extension.source]
    paths = [*manifest.source, *added]
    return [posixpath.basename(path.rstrip("/")) or path for path in paths]


def collection(manifest: Manifest) -> list[str]:
    """Return how the samples were found and fetched."""
    rounds = manifest.rounds
    tried, good = sum(one.images for one in rounds), sum(one.good for one in rounds)
    sample = options_of(manifest).sample
    said = [
        f"{count(manifest.counts.candidates, 'candidate')}, each a text beside a reference to an image, from "
        + ", ".join(code(name) for name in sources(manifest))
        + ".",
        *_matching(manifest),
        f"{count(tried, 'image')} asked for in {count(len(rounds), 'round')}; {good:,} good ones arrived.",
    ]
    if manifest.crawled.first:
        said.append(f"They were fetched {timeframe(manifest)}.")
    if sample < 1:
        said.append(f"It is a pilot: only a hash sample of {sample:g} of the sources was read.")
    return said


def _matching(manifest: Manifest) -> list[str]:
    queries = manifest.queries
    if not is_balanced(manifest):
        return ["No query list was given: every text is taken."]
    words = (
        "whole words, case and all, as MetaCLIP's code does" if manifest.rule == "metaclip" else "whole words"
    )
    return [
        f"A text is taken if it contains one of {count(queries.queries, 'query', 'queries')}, compared by "
        f"{words}; {count(queries.matched, 'query', 'queries')} matched something.",
        f"Each query contributes at most {count(manifest.per_query, 'sample')}, those of the smallest hash "
        "of seed, URL and query. A sample is in the set if one of its queries keeps it.",
    ]


def timeframe(manifest: Manifest) -> str:
    """Return the days of the crawl, UTC; "" for a run without samples."""
    crawled = manifest.crawled
    if not crawled.first or not crawled.last:
        return ""
    first, last = crawled.first[:10], crawled.last[:10]
    return f"on {first}" if first == last else f"from {first} to {last}"


def preprocessing(manifest: Manifest) -> list[str]:
    """Return which filters were on, and how texts and images were changed."""
    options = options_of(manifest)
    text, images = options.text, options.images
    said = [
        "Texts: entities decoded, Unicode normalised to NFC, control characters and repeated white space "
        "removed.",
        f"Texts of {text.min_chars} to {text.max_chars:,} characters and of "
        f"{text.min_words} to {text.max_words:,} words.",
        _when(options.lang != "any", f"Texts that are improbable as {code(options.lang)} by fastText's "
              "lid.176 and by their page are left out; the most probable language is in `lang`."),
        _when(text.file_names, "No file names, addresses or identifiers as texts."),
        _when(text.camera_settings, "No camera settings as texts."),
        _when(text.boilerplate, "No boilerplate texts of pages."),
        _when(text.max_repetition < 1,
              f"No text of which more than {text.max_repetition:.0%} repeats itself."),
        _when(options.shared_captions,
              f"No text that stands at more than {options.shared_captions} images."),
        _when(options.mask_contacts, "Mail addresses, telephone and identity numbers in texts are masked."),
        f"Images: formats {', '.join(images.formats)}; shorter side of at least {images.min_side} pixels; "
        f"longer side of at most {images.max_aspect:g} times that; at most {images.max_pixels:,} pixels; "
        f"from {images.min_bytes:,} to {options.fetch.max_bytes:,} bytes.",
        _when(options.dedup != "off", "Images of the same bytes are one sample with the texts of all."),
        _when(options.placeholder_captions, "No image that stands under "
              f"{options.placeholder_captions} or more texts that share few words."),
        _when(options.scorer, f"Scores by {', '.join(map(code, options.scorer))}" + (
            f", kept where {code(options.keep_if)}." if options.keep_if else ".")),
        _when(options.drop, "Samples listed in a file given with --drop are left out."),
        _stored(images),
    ]  # fmt: skip
    return [sentence for sentence in said if sentence]


def _when(on: object, sentence: str) -> str:
    return sentence if on else ""


def _stored(options: ImageOptions) -> str:
    how = {
        "shorter": f"with a shorter side of at most {options.image_size} pixels",
        "longer": f"with a longer side of at most {options.image_size} pixels",
        "square": f"as squares of at most {options.image_size} pixels, cut from the centre",
        "keep": "in their own size",
    }[options.resize_mode]
    return f"Stored as JPEG of quality {options.quality}, {how}, never enlarged, without metadata."


def opt_outs(manifest: Manifest) -> list[tuple[str, str, int]]:
    """Return (reason, meaning, texts left out) of everything that was honoured in this crawl."""
    return [
        (cause.reason, cause.meaning, cause.captions)
        for step in funnel(manifest.counts)
        for cause in step.causes
        if is_opt_out(cause.reason)
    ]


def personal(manifest: Manifest) -> list[str]:
    """Return the personal data that the set may hold."""
    options = options_of(manifest)
    masked = "are masked" if options.mask_contacts else "are not masked"
    people = (
        "Faces that CenterFace finds are blurred in the stored images; it misses some, from behind above all."
        if "blur-faces" in options.scorer
        else "Nothing was done to find or to blur them."
    )
    exif = "is kept in the column `exif`" if options.images.keep_exif else "is not kept"
    return [
        f"Images, texts and URLs come from public web pages and may show or name persons. {people}",
        f"Mail addresses, telephone and identity numbers in texts {masked}. The images' Exif data {exif}.",
    ]


def limitations(manifest: Manifest) -> list[str]:
    """Return the facts that users must know, as far as the configuration has them."""
    options, said = options_of(manifest), []
    said.append(
        "The texts are those that pages put beside an image. Nobody has checked that they describe it."
    )
    if not options.keep_if:
        said.append(
            "No classifier has looked at the images: violent, sexual or hateful content may be among them."
        )
    if options.lang != "any":
        said.append(
            f"Texts that were not recognized as {code(options.lang)}, most of them short, are missing."
        )
    said.append(f"{follows(manifest)}; it represents neither the web nor the world.")
    if options.dedup == "exact":
        said.append("Only images of the same bytes are merged; near-duplicates remain.")
    if not options.drop:
        said.append(
            "Images of evaluation sets that are on the web may be in it; `openwit overlap` finds them."
        )
    said.append("Behind a URL there may be another image by now; `sha256` is that of the bytes fetched.")
    return said


def follows(manifest: Manifest) -> str:
    """Return the options that decide the content of the set."""
    queries = "the queries, " if is_balanced(manifest) else ""
    return f"The content of the set follows {queries}the pages that were read, and who may be crawled"


def rights() -> str:
    """Return to whom the images and texts belong."""
    return (
        "The images and texts belong to their owners, who have licensed nothing by being listed here. "
        "If you use them, you are responsible for having the right to."
    )


def takedown(manifest: Manifest) -> str:
    """Return how to have something removed."""
    contact = manifest.configuration.get("contact")
    whom = f"Write to {contact}."
    if not contact:
        whom = "No contact is published with this set: if you publish it, name one here."
    return f"{whom} `openwit takedown` removes samples by URL, domain or hash from every file of the set."


def datasheet(manifest: Manifest) -> list[tuple[str, str, str]]:
    """Return (section, question, answer) of Datasheets for Datasets (Gebru et al. 2021), as a run knows them.

    An answer of "" is for a person to give.
    """
    counts, preparation = manifest.counts, " ".join(preprocessing(manifest))
    duplicates = "Images of the same bytes are one sample." if options_of(manifest).dedup != "off" else ""
    return [
        ("Motivation", "For what purpose was the dataset created?",
         "Contrastive training of encoders of images and text, and research on it."),
        ("Motivation", "Who created it, on behalf of which entity, and who funded it?", ""),
        ("Composition", "What do the instances represent, and how many are there?",
         f"{count(counts.samples, 'image')} with {count(counts.captions, 'caption')}."),
        ("Composition", "Is it a sample of a larger set?",
         f"Yes: of {count(counts.candidates, 'candidate')} that were found. {follows(manifest)}."),
        ("Composition", "Is information missing from instances?",
         "rejected/ has what was left out, and why."),
        ("Composition", "Are there errors, noise or redundancies?",
         f"{duplicates} The texts are what pages say beside an image; nobody has checked them.".strip()),
        ("Composition", "Is it self-contained?", "Yes: the images are in the shards."),
        ("Composition", "Might it contain confidential, offensive or personal data?",
         " ".join(personal(manifest))),
        ("Collection", "How was the data acquired?", " ".join(collection(manifest))),
        ("Collection", "Over what time was it collected?", timeframe(manifest)),
        ("Collection", "Did people consent, and could they refuse?",
         "Nobody was asked. robots.txt and the opt-outs named above were honoured."),
        ("Collection", "Was an ethical review or an analysis of impact on data subjects conducted?", ""),
        ("Preprocessing", "Was the data cleaned, and is the raw data kept?",
         f"{preparation} The images as served are not kept."),
        ("Uses", "What has it been used for, and what should it not be used for?", ""),
        ("Distribution", "How, when and to whom is it distributed?", ""),
        ("Distribution", "Under what licence, and do others hold rights?", rights()),
        ("Maintenance", "Who maintains it, and how is something removed?", takedown(manifest)),
        ("Maintenance", "Will it be updated?", ""),
    ]  # fmt: skip
