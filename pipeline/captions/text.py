"""Clean a caption, and give a reason if it is not wanted. Any `str` is safe input.

Rules drop texts that are certainly no description and leave judgement to the query match: CLIP (Radford et
al. 2021, section 2.2) and MetaCLIP (arXiv 2309.16671) state no rules of length at all. The file-name rules
make explicit an accidental effect of MetaCLIP's case-sensitive match, see `match.tokens`.
"""

import html
import re
import unicodedata
from dataclasses import dataclass
from html.entities import html5
from typing import Final

from pipeline.captions import contacts

try:
    from pipeline.captions import _text
except ImportError:  # not built: every text is read by every rule
    _text = None  # type: ignore[assignment]

CUT_CHARS: Final = 8192
"""Raw text beyond this many characters is ignored; a text that was cut exceeds every `max_chars` below it."""

_UNESCAPE_ROUNDS: Final = (
    3  # "&amp;amp;quot;" is seen in the wild; deeper nesting is an attack, not a caption
)
# With its semicolon: a page's parser has resolved the others, and the rest is text ("Pens&notebooks").
_REFERENCE: Final = re.compile(r"&(#[0-9]{1,10};|#[xX][0-9a-fA-F]{1,8};|[A-Za-z][A-Za-z0-9]{1,31};)")
_PASSES: Final = 4  # over a whole text: each may uncover text that the previous could not see
_NO_MARKUP: Final = str.maketrans("", "", "&<")
_VISIBLE_FORMATS: Final = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u08e2")
_JOINERS: Final = "\u200c\u200d"
_STRAY_JOINER: Final = re.compile(f"(?<![^\x00-\x7f])[{_JOINERS}]|[{_JOINERS}](?![^\x00-\x7f])")
_JOINER_RUN: Final = re.compile(f"([{_JOINERS}])[{_JOINERS}]+")
_TAG: Final = re.compile(
    r"</?(?:a|abbr|b|big|blockquote|br|center|cite|code|div|em|figcaption|figure|font|h[1-6]|hr|i|img|li|ol|p"
    r"|pre|q|s|small|span|strong|sub|sup|table|tbody|td|th|tr|u|ul)(?=[\s/>])[^<>]*>",
    re.IGNORECASE,
)


class _Removed(dict[int, int | None]):
    """The translation that deletes invisible characters; learns a code point when it meets it."""

    def __missing__(self, code: int) -> int | None:
        char = chr(code)
        category = unicodedata.category(char)
        noncharacter = 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE
        hidden = category == "Cf" and char not in _VISIBLE_FORMATS and char not in _JOINERS
        control = category == "Cc" and not char.isspace()
        value = None if hidden or control or noncharacter or category in ("Cs", "Co") else code
        if code < 0x20000:  # limits the memory that hostile text can take
            self[code] = value
        return value


_REMOVED: Final = _Removed()


def clean(text: str) -> str:
    """Return `text` as a reader sees it, in NFC and on one line; never raises, and always encodes to UTF-8.

    Clean text stays as it is. Cleaning repeats while it uncovers more to clean, such as a character reference
    that a hidden character had split; a text that never gets clean loses the signs that start markup.

    Character references that end in a semicolon are resolved (also when escaped twice), stray HTML tags
    become spaces, and controls, direction marks, zero-width characters, lone surrogates, private-use
    characters and noncharacters are deleted. ZWJ and ZWNJ stay between characters outside ASCII, where emoji
    and Indic or Persian spelling need them. White space is collapsed. Mojibake is left as it is:
    `ftfy.fix_encoding` changed none of 10,000 alt texts of the web at three times the cost of all the rest.
    Text is cut at `CUT_CHARS` before any work.
    """
    text = text[:CUT_CHARS]
    if "&" in text or "<" in text:
        return _without_markup(text)
    text = " ".join(text.split())
    if text.isascii():
        return text if text.isprintable() else " ".join(text.translate(_REMOVED).split())
    text = _visible(text)
    return text if len(text) <= CUT_CHARS else clean(text)  # NFC may make text longer, but only once


def _without_markup(text: str) -> str:
    """Clean text that may hold markup."""
    for _ in range(_PASSES):
        again = _clean_once(text)
        if again == text:
            return text
        text = again[:CUT_CHARS]
    return clean(text.translate(_NO_MARKUP))


def _clean_once(text: str) -> str:
    for _ in range(_UNESCAPE_ROUNDS):
        if "&" not in text or (plain := _REFERENCE.sub(_referred, text)) == text:
            break
        text = plain
    if "<" in text:
        text = _TAG.sub(" ", text)
    text = " ".join(text.split())
    return text if text.isascii() and text.isprintable() else _visible(text)


def _referred(reference: re.Match[str]) -> str:
    name = reference[1]
    return html.unescape(reference[0]) if name[0] == "#" else html5.get(name, reference[0])


def _visible(text: str) -> str:
    """Delete invisible characters, and compose the rest."""
    text = unicodedata.normalize("NFC", text.translate(_REMOVED))
    if _JOINERS[0] in text or _JOINERS[1] in text:
        text = unicodedata.normalize("NFC", _STRAY_JOINER.sub("", _JOINER_RUN.sub(r"\1", text)))
    return " ".join(text.split())


@dataclass(frozen=True, kw_only=True)
class TextRules:
    """Which cleaned captions are wanted. The defaults keep every caption that could be a description."""

    min_chars: int = 2
    """Fewest characters. LAION-400M: 5; COYO-700M and DataComp's basic filter: 6. Here 2, so that an image
    whose whole text is a query, such as "dog" or "ox", is kept; one letter or digit says nothing."""

    max_chars: int = 1000
    """Most characters. COYO-700M: 1,000; LAION cuts at 2,000 instead. 8192 takes longer texts too, cut."""

    min_words: int = 1
    """Fewest words, split at white space. CC12M, ALIGN, COYO-700M and DataComp's basic filter: 3."""

    max_words: int = 256
    """Most words. CC12M and COYO-700M: 256; ALIGN: 20."""

    max_repetition: float = 0.5
    """Largest share of words that stood before in the caption, or of one character repeated on end. CC12M:
    0.2, over tokens; running English of 100 words has about 0.35. 1 switches it off."""

    file_names: bool = True
    """Drop file names, addresses and identifiers ("foo_bar-123", "IMG_2034.JPG", a URL, a UUID)."""

    camera_settings: bool = True
    """Drop a camera's default names ("DSC_0123") and bare exposure settings ("f/2.8 1/250 ISO 400")."""

    boilerplate: bool = True
    """Drop phrases that a page puts at any image ("click to enlarge", "stock photo"; CC3M does so, too), and
    the phrases that classifiers write ("Image may contain: ...", "Description automatically generated")."""

    undecodable: bool = True
    """Drop text of which more than a fifth could not be decoded: U+FFFD stands in its place."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_chars <= self.max_chars <= CUT_CHARS:
            raise ValueError(
                f"need 0 <= min_chars <= max_chars <= {CUT_CHARS}, got {self.min_chars} and {self.max_chars}"
            )
        if not 0 <= self.min_words <= self.max_words:
            raise ValueError(f"need 0 <= min_words <= max_words, got {self.min_words} and {self.max_words}")
        if not 0 <= self.max_repetition <= 1:
            raise ValueError(f"max_repetition is a share from 0 to 1, got {self.max_repetition}")


def read_caption(text: str, rules: TextRules, mask: bool) -> tuple[str, str]:
    """Return a caption, `clean` and if wanted without contact data, and the reason of `check`, or "".

    Most texts are so plain that the C module sees at once that no rule but those of length is about them, or
    become so once they are clean.
    """
    if _text is None:
        caption, words = clean(text), 0
    elif words := _text.plain(text, _TEMPLATE_WORDS, rules.max_repetition):
        caption = text
    else:
        caption = clean(text)
        if caption != text:
            words = _text.plain(caption, _TEMPLATE_WORDS, rules.max_repetition)
    if words > 0:
        return caption, _check_length(len(caption), words, rules)
    if mask and not words:
        caption = contacts.mask(caption)
    return caption, check(caption, rules) or ""


def check(text: str, rules: TextRules) -> str | None:
    """Return the reason (a word of `reasons.REASONS`) why a cleaned caption is not wanted, or None."""
    if not text:
        return "no_caption"
    if rules.undecodable and is_undecoded(text):
        return "garbled"
    words = text.count(" ") + 1
    if reason := _check_length(len(text), words, rules):
        return reason
    # The extension comes before the camera ("IMG_2034.JPG" is a file name), other identifiers after it.
    if rules.file_names and words == 1 and has_file_extension(text):
        return "file_name"
    if rules.camera_settings and _DIGIT.search(text) and (is_camera_name(text) or is_exposure(text)):
        return "camera_setting"
    if rules.file_names and words == 1 and (is_address(text) or is_joined(text) or is_identifier(text)):
        return "file_name"
    if rules.boilerplate and (is_template(text) or is_machine_caption(text)):
        return "boilerplate"
    if repetition(text) > rules.max_repetition:
        return "repetitive"
    return None


def _check_length(chars: int, words: int, rules: TextRules) -> str:
    if chars < rules.min_chars or words < rules.min_words:
        return "caption_too_short"
    return "caption_too_long" if chars > rules.max_chars or words > rules.max_words else ""


def is_undecoded(text: str) -> bool:
    """Return whether more than a fifth of a text could not be decoded, and is U+FFFD instead."""
    return text.count("\ufffd") * 5 > len(text)


# File names, addresses, identifiers: texts without a space.

_EXTENSION: Final = re.compile(
    r"[^.]\.(?:jpe?g|jpe|jfif|png|gif|webp|avif|heic|svgz?|bmp|tiff?|ico|psd|eps|cr2|nef|arw|dng|pdf|docx?|pptx?"
    r"|xlsx?|html?|php|aspx?|jsp|mp4|mov|avi|zip)(?:[?#]\S*)?$",
    re.IGNORECASE,
)
_ADDRESS: Final = re.compile(
    r"(?:https?:|ftp:|file:|data:|blob:|/|\.{1,2}/|[a-z]:\\|\\\\|www\.)\S+"
    r"|[\w.-]+\.(?:com|org|net|info|biz|edu|gov|co\.[a-z]{2})(?:/\S*)?",
    re.IGNORECASE,
)
_HEX: Final = re.compile(
    r"(?=\D*\d)(?:[0-9a-f]{16,}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", re.IGNORECASE
)
_NUMBER: Final = re.compile(r"\d{7,}|\d*\.\d{6,}")
_PERCENT: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_LETTER_DIGIT: Final = re.compile(r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")
_DIGIT: Final = re.compile(r"\d")


def has_file_extension(word: str) -> bool:
    """Return whether a text without spaces ends like a file ("../_images/plot_thumb.png")."""
    return _EXTENSION.search(word) is not None


def is_address(word: str) -> bool:
    """Return whether the whole text is a URL, a host name or a path."""
    return _ADDRESS.fullmatch(word) is not None


def is_joined(word: str) -> bool:
    """Return whether words are joined as names of files and templates are ("control_14ct", "a-b-c-d-e").

    An underscore or a percent escape is enough. Hyphens also make real words ("jack-in-the-pulpit",
    "SARS-CoV-2"), so four are needed, or three with a digit beside them; shorter names match no query anyhow.
    """
    if "_" in word.strip("_") or _PERCENT.search(word):
        return True
    parts = [part for part in re.split(r"[-+]", word) if part]
    return len(parts) > 4 or (len(parts) == 4 and _DIGIT.search(word) is not None)


def is_identifier(word: str) -> bool:
    """Return whether the whole text is a number, hash, UUID or a code such as "B07XJ8C8F5"."""
    if _NUMBER.fullmatch(word) or _HEX.fullmatch(word):
        return True
    return word.isalnum() and len(_LETTER_DIGIT.findall(word)) >= 5


# Cameras.

_CAMERA_NAME: Final = re.compile(
    r"""(?:_?(?:img|dsc[fn]?)[ _-]?\d{3,}
        |(?:cimg|imgp|hpim|mvi|pict|gopr|dji|pxl|sam|sdc|kif|vid|wp|image)_?\d{4,}
        |_?mg_\d{3,}|p\d{7}|(?:img|vid)-\d{8}-wa\d+)
        (?:[ _-]?[a-z])?(?:[ _-](?:\d+|copy|edit|edited|small|web|\(\d+\)))*
    |(?:screen\ ?shot|whatsapp\ image|photo)[ _-]\d{4}-\d\d-\d\d\b.*""",
    re.IGNORECASE | re.VERBOSE,
)
_APERTURE: Final = re.compile(r"(?<!\w)[fƒ]\s?/?\s?\d{1,2}(?:[.,]\d)?\b", re.IGNORECASE)
_SHUTTER: Final = re.compile(r"\b1/\d{1,5}(?:\s?s(?:ec(?:onds?)?)?)?\b", re.IGNORECASE)
_ISO: Final = re.compile(r"\biso[ :-]?\s?\d{2,6}\b", re.IGNORECASE)
_WORD: Final = re.compile(r"\w+")
# Words that may stand beside the settings without making it a description: makes, models, labels and units.
_CAMERA_WORDS: Final = frozenset(
    """canon nikon sony fujifilm fuji olympus panasonic lumix leica pentax sigma tamron samsung apple iphone
    eos mark rebel kiss coolpix alpha powershot ef rf pro plus max ii iii iv v camera lens aperture shutter
    speed exposure focal length time flash off at with and s sec second seconds mm ev iso f""".split()  # noqa: SIM905 - a word list reads better as text
)


def is_camera_name(text: str) -> bool:
    """Return whether the text is a name that a camera or a phone gives ("DSC_0123", "IMG 2034")."""
    return _CAMERA_NAME.fullmatch(text) is not None


def is_exposure(text: str) -> bool:
    """Return whether nothing but exposure settings, and perhaps the camera, is named.

    Two of aperture, shutter and ISO must be there: "ISO 9001" is a norm and "50mm f/1.8" a lens on sale.
    """
    if "1/" not in text and "iso" not in text.casefold():
        return False
    settings = (_APERTURE, _SHUTTER, _ISO)
    if sum(setting.search(text) is not None for setting in settings) < 2:
        return False
    for setting in settings:
        text = setting.sub(" ", text)
    words = _WORD.findall(text.casefold())
    return all(word in _CAMERA_WORDS or _DIGIT.search(word) for word in words)


# Boilerplate.

# A template is made of these words alone, numbers aside, one of the first kind among them. English only.
_TEMPLATE_NOUNS: Final = frozenset(
    """image images img photo photos photograph photographs photography picture pictures pic pics thumbnail
    thumbnails thumb thumbs placeholder screenshot gravatar spacer untitled loading enlarge zoom permalink
    alt null undefined none""".split()  # noqa: SIM905
)
_TEMPLATE_WORDS: Final = _TEMPLATE_NOUNS | frozenset(
    """a an the this my of for to in on by as is no not and or here text tag title caption description
    alternative available unavailable found provided missing removed broken coming soon blank empty default
    featured main product article blog post news cover header hero banner background gallery slider preview
    video media stock royalty free illustration click tap press view see open larger large bigger full size
    expand roll over hover modal lightbox please wait embedded profile user author member avatar""".split()  # noqa: SIM905
)
_LETTERS: Final = re.compile(r"[^\W\d_]+")
_FIXED_TEMPLATE: Final = re.compile(
    r"\W*(?:\{\{.*\}\}|\{%.*%\}|<%.*%>|\$\{.*\})\W*"  # unrendered
    r"|thumbnail for version as of .*|(?:user|author|member|profile|default)(?:'s)? avatar",
    re.IGNORECASE,
)
_MACHINE_CAPTION: Final = re.compile(
    r"(?:image|photo) may contain\b"
    r"|may be an? (?:[a-z-]+ ){0,4}(?:image|photo|close-?up|cartoon|illustration|graphic|doodle|meme)s?\b",
    re.IGNORECASE,
)


def is_template(text: str) -> bool:
    """Return whether the text is a phrase that fits any image ("Photo 3 of 7", "Click to enlarge")."""
    if len(text) > 80:
        return False
    if _FIXED_TEMPLATE.fullmatch(text):
        return True
    words = _LETTERS.findall(text.casefold())
    return _TEMPLATE_WORDS.issuperset(words) and not _TEMPLATE_NOUNS.isdisjoint(words)


def is_machine_caption(text: str) -> bool:
    """Return whether a classifier wrote the text: Facebook's and Office's automatic alternative texts."""
    return "escription automatically generated" in text or _MACHINE_CAPTION.match(text) is not None


# Repetition.


def repetition(text: str) -> float:
    """Return the larger of two shares: of words that stood before, and of a run of one character.

    Words have 2 characters or more ("-" and "/" between words do not count). Fewer than 4 words or 6
    characters do not repeat ("Duran Duran", "ha ha ha", "XXXL"), and a run counts when it is more than half
    of the text, so that it must cross the middle.
    """
    share = 0.0
    words = text.casefold().split()
    if len(words) >= 4 and len(set(words)) < len(words):
        words = [word for word in words if len(word) > 1]
        if len(words) >= 4:
            share = 1 - len(set(words)) / len(words)
    middle = len(text) // 2
    # Most texts end there: a run that neither crosses the middle nor is all of the second half is too short.
    if len(text) >= 6 and text[middle] in (text[middle - 1], text[-1]):
        before, after = text[:middle], text[middle:]
        run = len(text) - len(before.rstrip(after[0])) - len(after.lstrip(after[0]))
        share = max(share, run / len(text) if run > len(text) / 2 else 0.0)
    return share
