"""Mail addresses, telephone numbers and identity numbers in captions: count them, mask them.

Only forms that are hardly anything else count: years, dates, prices, sizes, ISBNs and the long numbers of
file names stay. Numbers with check digits count only if the digits are right. Any `str` is safe input.
"""

import re
from collections.abc import Callable
from typing import Final

KINDS: Final = {
    "email": "mail addresses",
    "phone": "telephone numbers",
    "id": "identity, bank and card numbers",
}
"""The kinds of data looked for; a caption's mask is the word in brackets, such as [email]."""

LIKELY: Final = r"@|\p{Nd}(?:\P{Nd}{0,3}\p{Nd}){6}|[A-Z]{2}[0-9]{2} ?[A-Z0-9]{4}"
"""RE2 pattern that every text with one of them contains: most texts need no second look."""

_CLOSE_DIGITS: Final = re.compile(r"\d(?:\D{0,3}\d){6}")  # as in LIKELY: in all but mail addresses and IBANs
_EMAIL: Final = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_PHONE: Final = re.compile(
    # International: + and 8 to 15 digits (E.164), grouped at will.
    r"(?<![\w+])(?:\+\d(?:[ ().-]{0,2}\d){7,14}"
    # North America: (555) 123-4567, 555-123-4567, 555.123.4567, also with 1 before.
    r"|(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}([.-]))\d{3}(?(1)\1|[ .-])\d{4}"
    # Europe: (020) 7946 0958, and five pairs as in 01 23 45 67 89.
    r"|\(0\d{1,4}\)(?: ?\d){5,9}|0[1-9](?:([ .])\d\d)(?:\2\d\d){3})(?![\w-]|[.,]\d)"
)
# Numbers called a telephone: 7 digits or more after the word. A bare "phone" or "mobile" names the device.
_CALLED_PHONE: Final = re.compile(
    r"\b((?:tel|telephone|fax|call|call us|whatsapp|hotline)[:. ]{1,2}|(?:phone|mobile|cell|ph|mob)[:.] ?)"
    r"\d(?:[ ()./-]{0,2}\d){6,14}(?!\w)",
    re.IGNORECASE,
)


def _digits(text: str) -> str:
    return "".join(c for c in text if c in "0123456789")


def _is_luhn(text: str) -> bool:
    """Return whether the last digit checks the others (ISO/IEC 7812-1, annex B)."""
    doubled = [int(c) * (1 + n % 2) for n, c in enumerate(reversed(_digits(text)))]
    return sum(n // 10 + n % 10 for n in doubled) % 10 == 0


def _is_iban(text: str) -> bool:
    """Return whether the check digits of ISO 13616 are right: 97 leaves 1."""
    plain = text.replace(" ", "")
    return 15 <= len(plain) <= 34 and int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def _is_cpf(text: str) -> bool:
    """Return whether both check digits of Brazil's CPF are right, and it is not one digit eleven times."""
    numbers = [int(c) for c in _digits(text)]
    for end in (9, 10):
        total = sum(n * (end + 1 - place) for place, n in enumerate(numbers[:end]))
        if total * 10 % 11 % 10 != numbers[end]:
            return False
    return len(set(numbers)) > 1


def _is_resident(text: str) -> bool:
    """Return whether a number of China's identity card (GB 11643) has its check character (ISO 7064)."""
    total = sum(int(c) * pow(2, 17 - place, 11) for place, c in enumerate(text[:17]))
    return "10X98765432"[total % 11] == text[17].upper()


def _is_dni(text: str) -> bool:
    """Return whether Spain's DNI or NIE has its check letter."""
    number = text[:-1].replace("-", "").translate(str.maketrans("XYZ", "012"))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == text[-1]


_IBAN: Final = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?!\w)", re.ASCII)
# Form, and whether the check digits are right.
_NUMBERS: Final[tuple[tuple[re.Pattern[str], Callable[[str], bool]], ...]] = (
    # Payment cards, in the groups in which they are written: bare runs of 16 digits are names of files.
    (re.compile(r"(?<![\w-])(?:(?:4\d{3}|5[1-5]\d\d|2(?:2[2-9]|[3-6]\d|7[0-2])\d|6(?:011|4[4-9]\d|5\d\d))"
                r"([ -])\d{4}\1\d{4}\1\d{4}|3[47]\d\d([ -])\d{6}\2\d{5})(?![\w-])", re.ASCII), _is_luhn),
    (_IBAN, _is_iban),
    # The United States' social security number, without the ranges that are never given out.
    (re.compile(r"(?<![\w-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])", re.ASCII),
     lambda _: True),
    (re.compile(r"(?<![\w.])\d{3}\.\d{3}\.\d{3}-\d{2}(?!\w)", re.ASCII), _is_cpf),
    (re.compile(r"(?<!\w)[1-8]\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx](?!\w)",
                re.ASCII), _is_resident),
    (re.compile(r"(?<!\w)(?:\d{8}|[XYZ]-?\d{7})-?[A-Z](?!\w)", re.ASCII), _is_dni),
)  # fmt: skip


def mask(text: str) -> str:
    """Return `text` with each find replaced by "[email]", "[phone]" or "[id]"."""
    return _masked(text)[0]


def kinds(text: str) -> set[str]:
    """Return which of `KINDS` are in a text."""
    return _masked(text)[1]


def _masked(text: str) -> tuple[str, set[str]]:
    found: set[str] = set()

    def replaced(pattern: re.Pattern[str], text: str, kind: str, is_one: Callable[[str], bool]) -> str:
        def mark(match: re.Match[str]) -> str:
            if not is_one(match[0]):
                return match[0]
            found.add(kind)
            return f"[{kind}]"

        return pattern.sub(mark, text)

    if "@" in text:
        text = replaced(_EMAIL, text, "email", lambda _: True)
    if sum(map(text.count, "0123456789")) < 7:
        return text, found
    if not _CLOSE_DIGITS.search(text) and not _IBAN.search(text):
        return text, found
    for pattern, is_one in _NUMBERS:
        text = replaced(pattern, text, "id", is_one)
    before = text
    text = _PHONE.sub("[phone]", _CALLED_PHONE.sub(r"\1[phone]", text))
    if text != before:
        found.add("phone")
    return text, found
