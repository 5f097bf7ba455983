"""croissant.json: the dataset for machines (MLCommons Croissant 1.1): files, rows, provenance, terms of use.

Every shard is a file with its SHA-256; the images form a set of files inside the tars, and the rows a set of
Parquet files. Both have the key of the sample; no reference joins them, because mlcroissant 1.1.1 cannot join
two sets of files that it streams.
"""

import posixpath
from typing import Any, Final

from pipeline import storage
from pipeline.checked_manifest import Manifest
from pipeline.formats import count
from pipeline.report import statements
from pipeline.report.card import plain
from pipeline.run_folder import Layout

Node = dict[str, Any]
"""A JSON-LD object."""

_CONTEXT: Final = {
    "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/", "prov": "http://www.w3.org/ns/prov#",
    "odrl": "http://www.w3.org/ns/odrl/2/", "conformsTo": "dct:conformsTo", "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs", "containedIn": "cr:containedIn", "description": {"@container": "@language"},
    "isArray": "cr:isArray", "name": {"@container": "@language"}, "column": "cr:column",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract", "field": "cr:field", "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty", "fileSet": "cr:fileSet", "format": "cr:format",
    "includes": "cr:includes", "isLiveDataset": "cr:isLiveDataset", "jsonPath": "cr:jsonPath",
    "key": "cr:key", "md5": "cr:md5", "parentField": "cr:parentField", "path": "cr:path",
    "recordSet": "cr:recordSet", "references": "cr:references", "regex": "cr:regex",
    "repeated": "cr:repeated", "replace": "cr:replace", "samplingRate": "cr:samplingRate",
    "separator": "cr:separator", "source": "cr:source", "subField": "cr:subField",
    "transform": "cr:transform",
}  # fmt: skip
_COLUMNS: Final = {
    "url": ("sc:URL", "where the image was found"),
    "caption": ("sc:Text", "the first caption, also in KEY.txt"),
    "captions": ("sc:Text", "all captions"),
    "query_ids": ("sc:Integer", "the queries that keep the sample"),
    "matched_query_ids": ("sc:Integer", "all queries that its captions contain"),
    "uid": ("sc:Text", "first 32 hex digits of the SHA-256 of the canonical URL"),
    "sha256": ("sc:Text", "of the bytes as fetched"),
    "phash": ("sc:Text", "sign hash of the 64-pixel DCT, 256 bits in hex"),
    "width": ("sc:Integer", "of the stored image"),
    "height": ("sc:Integer", "of the stored image"),
    "original_width": ("sc:Integer", "as served"),
    "original_height": ("sc:Integer", "as served"),
    "format": ("sc:Text", "as served"),
    "bytes": ("sc:Integer", "as served"),
    "page_url": ("sc:Text", "the page that shows the image"),
    "source": ("sc:Text", "the source file"),
    "lang": ("sc:Text", "most probable language of the first caption, given its page"),
    "lang_score": ("sc:Float", "its probability"),
    "lang_page": ("sc:Text", "language that the page declares, a BCP 47 tag, or empty"),
    "licence": (
        "sc:Text",
        "as stated by the picture or its page: an identifier of SPDX or Creative Commons, "
        "RS-... of rightsstatements.org, other, conflict, or empty",
    ),
    "licence_url": ("sc:Text", "of the licence, or of a page about the terms"),
    "licence_source": ("sc:Text", "where the licence is stated; of a conflict each statement"),
    "creator": ("sc:Text", "as the picture's metadata or its page name them"),
    "copyright_notice": ("sc:Text", "of the picture, or else of its page"),
    "synthetic": ("sc:Text", "generated or partly, where something says that a machine made it, or empty"),
    "synthetic_source": ("sc:Text", "what says so"),
    "http_status": ("sc:Integer", "of the answer"),
    "fetched_at": ("sc:DateTime", "when it was fetched, UTC"),
}
_LISTS: Final = frozenset({"captions", "query_ids", "matched_query_ids"})
_ARRAY: Final = {"isArray": True, "arrayShape": "-1"}
_QUERY_COLUMNS: Final = {
    "query_id": ("sc:Integer", "row of the query list"), "query": ("sc:Text", "the query"),
    "matched": ("sc:Integer", "samples that matched"),
    "kept": ("sc:Integer", "samples that list it in query_ids"),
    "present": ("sc:Integer", "samples in the set that contain it"),
    "short": ("sc:Integer", "samples that it lacks although there were more to try"),
}  # fmt: skip


def build(layout: Layout, manifest: Manifest) -> Node:
    """Return croissant.json of a finished run."""
    counts = manifest.counts
    found: Node = {
        "@context": _CONTEXT, "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": plain(posixpath.basename(layout.root.rstrip("/"))),
        "description": f"{count(counts.samples, 'image')} with "
        f"{count(counts.captions, 'caption')} from the web, collected by openwit.",
        "license": {
            "@type": "sc:CreativeWork", "name": "Rights of the owners", "description": statements.rights(),
        },
        "usageInfo": _usage(), **_provenance(manifest), "version": "1.0.0",
        "distribution": _files(layout, manifest),
        "recordSet": _records(manifest),
        **_responsible(manifest),
    }  # fmt: skip
    if manifest.crawled.last:
        found["dateCreated"] = found["datePublished"] = manifest.crawled.last[:10]
    return found


def _usage() -> Node:
    """Return the terms of use (schema.org usageInfo, as an ODRL offer): an owner's consent, or the law's."""
    return {
        "@type": ["sc:CreativeWork", "odrl:Offer"], "name": "Terms of use",
        "description": f"{statements.rights()} Where the law does not permit a use, their consent is needed.",
        "odrl:permission": {
            "@type": "odrl:Permission", "odrl:action": {"@id": "odrl:use"},
            "odrl:duty": {"@type": "odrl:Duty", "odrl:action": {"@id": "odrl:obtainConsent"}},
        },
    }  # fmt: skip


def _provenance(manifest: Manifest) -> Node:
    """Return the sources and software that made the set, in the terms of PROV-O."""
    crawl: Node = {"@type": "prov:Activity", "prov:label": "Web crawl by openwit"}
    if manifest.crawled.first:
        crawl["prov:startedAtTime"], crawl["prov:endedAtTime"] = manifest.crawled.first, manifest.crawled.last
    agent = f"openwit {manifest.versions.get('openwit', '')}".strip()
    return {
        "prov:wasGeneratedBy": crawl,
        "prov:wasAttributedTo": {"@type": "prov:SoftwareAgent", "prov:label": agent},
        "prov:wasDerivedFrom": [
            {"@type": "prov:Entity", "prov:label": name} for name in statements.sources(manifest)
        ],
    }  # fmt: skip


def _files(layout: Layout, manifest: Manifest) -> list[Node]:
    files: list[Node] = []
    for shard in manifest.shards:
        name = storage.stem(shard.name)
        tar, parquet = f"shards/{name}.tar", f"shards/{name}.parquet"
        size = {"contentSize": f"{shard.bytes} B"}
        files.append(_file(f"{name}.tar", tar, "application/x-tar", shard.sha256) | size)
        files.append(_file(f"{name}.parquet", parquet, "application/x-parquet", shard.parquet_sha256))
    if manifest.shards:
        inside = [{"@id": shard.name} for shard in manifest.shards]
        files.append(_file_set("images", "image/jpeg", "*.jpg") | {"containedIn": inside})
        files.append(_file_set("rows", "application/x-parquet", "shards/*.parquet"))  # in this very folder
    counts = layout.query_counts
    if storage.exists(counts):
        digest = storage.sha256_file(counts)
        files.append(_file("query_counts.parquet", "query_counts.parquet", "application/x-parquet", digest))
    return files


def _file(name: str, path: str, kind: str, sha256: str) -> Node:
    return {
        "@type": "cr:FileObject", "@id": name, "name": name, "contentUrl": path, "encodingFormat": kind,
        "sha256": sha256,
    }  # fmt: skip


def _file_set(name: str, kind: str, pattern: str) -> Node:
    return {"@type": "cr:FileSet", "@id": name, "name": name, "encodingFormat": kind, "includes": pattern}


def _records(manifest: Manifest) -> list[Node]:
    file = {"fileObject": {"@id": "query_counts.parquet"}}
    queries = [
        _field("queries", name, kind, text, file | {"extract": {"column": name}})
        for name, (kind, text) in _QUERY_COLUMNS.items()
    ]
    found = [_record_set("queries", "query_id", "Samples that each query matched and kept.", queries)]
    if not manifest.shards:
        return found
    key = {"fileSet": {"@id": "images"}, "extract": {"fileProperty": "filename"},
           "transform": {"regex": r"^([0-9]+)\.jpg$"}}  # fmt: skip
    pictures = [
        _field("pictures", "key", "sc:Text", "shard number, then index", key),
        _field("pictures", "image", "sc:ImageObject", "JPEG",
               {"fileSet": {"@id": "images"}, "extract": {"fileProperty": "content"}}),
    ]  # fmt: skip
    rows = [_field("samples", "key", "sc:Text", "that of the picture", _column("key"))]
    rows += [
        _field("samples", name, kind, text, _column(name)) | (_ARRAY if name in _LISTS else {})
        for name, (kind, text) in _COLUMNS.items()
    ]
    return [
        *found,
        _record_set("pictures", "key", "The images by key.", pictures),
        _record_set("samples", "key", "One row per sample; the image has the same key.", rows),
    ]


def _record_set(name: str, key: str, text: str, fields: list[Node]) -> Node:
    return {
        "@type": "cr:RecordSet", "@id": name, "name": name, "key": {"@id": f"{name}/{key}"},
        "description": text, "field": fields,
    }  # fmt: skip


def _column(name: str) -> Node:
    return {"fileSet": {"@id": "rows"}, "extract": {"column": name}}


def _field(record_set: str, name: str, kind: str, text: str, source: Node) -> Node:
    return {
        "@type": "cr:Field", "@id": f"{record_set}/{name}", "name": name, "description": text,
        "dataType": kind, "source": source,
    }  # fmt: skip


def _responsible(manifest: Manifest) -> Node:
    """Return the fields of the Croissant RAI vocabulary 1.0 that a manifest can fill."""
    counts, crawled = manifest.counts, manifest.crawled
    left_out = sum(number for _, _, number in statements.opt_outs(manifest))
    fields: Node = {
        "dataCollection": " ".join(statements.collection(manifest)),
        "dataCollectionType": ["Web Scraping"],
        "dataCollectionMissingData": f"{counts.rejected:,} of {counts.candidates:,} candidates are not "
        f"in the set, {left_out:,} of them because a site or page opted out; rejected/ has the reasons.",
        "dataCollectionRawData": "Web pages, and the images that they refer to: "
        + ", ".join(statements.code(name) for name in statements.sources(manifest)) + ".",
        "dataPreprocessingProtocol": statements.preprocessing(manifest),
        "dataLimitations": statements.limitations(manifest),
        "dataBiases": [f"{statements.follows(manifest)}."],
        "personalSensitiveInformation": statements.personal(manifest),
        "dataUseCases": ["Contrastive training of image and text encoders, and research on it."],
        "dataReleaseMaintenancePlan": statements.takedown(manifest),
    }  # fmt: skip
    if crawled.first:
        fields["dataCollectionTimeFrame"] = [crawled.first, crawled.last]
    return {f"rai:{name}": value for name, value in fields.items()}
