"""Whether something says that a machine made a picture: IPTC's digital source type, C2PA, generators' names.

`generated` is a picture made by a model or an algorithm, `partly` a picture that was edited by it or has
parts of it. A picture of which nothing is said may be either: most tools leave no trace, and most sites
remove it.
"""

import re
from typing import Final

from pipeline.images import c2pa
from pipeline.images.embedded import Embedded, exif_texts
from pipeline.images.xmp import Properties

GENERATED: Final = "generated"
PARTLY: Final = "partly"

# https://cv.iptc.org/newscodes/digitalsourcetype/
_TERMS: Final = {
    "trainedAlgorithmicMedia": GENERATED, "algorithmicMedia": GENERATED,
    "compositeWithTrainedAlgorithmicMedia": PARTLY, "compositeSynthetic": PARTLY,
}  # fmt: skip
_LOWER: Final = {term.lower(): term for term in _TERMS}
_CREATING: Final = ("", "c2pa.created", "c2pa.opened", "c2pa.converted", "c2pa.published", "c2pa.resized")

# Keywords of PNG's texts that only generators write, and whose texts they are.
_KEYWORDS: Final = {
    "sd-metadata": "InvokeAI", "invokeai_metadata": "InvokeAI", "invokeai_graph": "InvokeAI",
    "dream": "InvokeAI", "fooocus_scheme": "Fooocus", "generation_data": "TensorArt",
    "sui_image_params": "SwarmUI",
}  # fmt: skip
_WORKFLOW: Final = re.compile(r'"class_type"\s*:\s*"|"inputs"\s*:\s*\{')
_PARAMETERS: Final = re.compile(r"\bSteps: \d+, (?:Sampler|Schedule type|CFG scale|Seed|Size|Model)\b")
# Names that a program gives itself; a word alone, such as "Firefly", may be a camera's or a person's.
_PROGRAM: Final = re.compile(
    r"\b(adobe firefly|midjourney|stable diffusion|stability\.?ai|novelai|dall[·-]?e(?: ?[23])?|comfyui"
    r"|invokeai|automatic1111|fooocus|leonardo\.ai|ideogram(?:\.ai)?|bing image creator|microsoft designer"
    r"|google imagen|made with google ai|gpt-4o|gpt-image(?:-\d)?|grok image|black forest labs|flux\.1"
    r"|dreamstudio|nightcafe|craiyon|playground ai|recraft)\b",
    re.IGNORECASE,
)
_JOB: Final = re.compile(r"\bJob ID: [0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_MAX_TEXT: Final = 8_000


def origin(found: Embedded, xmp: Properties, store: c2pa.Store) -> tuple[str, str]:
    """Return (`generated`, `partly` or "", the statement); the first `generated` counts."""
    said: list[tuple[str, str]] = []
    for one in c2pa.source_types(store):
        kind = _TERMS.get(_LOWER.get(one.term.lower(), ""), "")
        if kind and (not one.is_active or one.action not in _CREATING):
            kind = PARTLY
        said.append((kind, f"c2pa {one.action or 'metadata'}: {one.term}"))
    for text in xmp.get("iptcExt:DigitalSourceType", ()):
        term = text.rstrip("/").rpartition("/")[2]
        said.append((_TERMS.get(_LOWER.get(term.lower(), ""), ""), f"xmp DigitalSourceType: {term}"))
    said += ((GENERATED, text) for text in _generators(found, xmp))
    marked = [one for one in said if one[0]]
    first = next((one for one in marked if one[0] == GENERATED), marked[0] if marked else ("", ""))
    return first[0], first[1][:200]


def _generators(found: Embedded, xmp: Properties) -> list[str]:
    """Return the text that names a generator: in PNG's texts, Exif and XMP."""
    said: list[str] = []
    for key, text in found.texts:
        name, text = key.lower(), text[:_MAX_TEXT]
        if name in _KEYWORDS:
            said.append(f"png {name}: {_KEYWORDS[name]}")
        elif name in ("prompt", "workflow") and _WORKFLOW.search(text):
            said.append(f"png {name}: ComfyUI")
        elif name == "parameters" and _PARAMETERS.search(text):
            said.append("png parameters: Stable Diffusion")
        elif name in ("software", "source", "title") and (program := _PROGRAM.search(text)):
            said.append(f"png {name}: {program[1]}")
        elif name == "description" and _JOB.search(text):
            said.append("png description: Midjourney")
    exif = exif_texts(found.exif)
    if _PARAMETERS.search(exif.get("comment", "")[:_MAX_TEXT]):
        said.append("exif UserComment: Stable Diffusion")
    for field in ("software", "artist"):
        if program := _PROGRAM.search(exif.get(field, "")[:_MAX_TEXT]):
            said.append(f"exif {field}: {program[1]}")
    for name in ("xmp:CreatorTool", "photoshop:Credit", "iptcExt:AISystemUsed"):
        for text in xmp.get(name, ()):
            if program := _PROGRAM.search(text):
                said.append(f"xmp {name}: {program[1]}")
    if any(_JOB.search(text) for text in xmp.get("dc:description", ())):
        said.append("xmp dc:description: Midjourney")
    return said
