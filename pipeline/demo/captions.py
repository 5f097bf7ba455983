"""Write the texts beside the drawings: good captions, and the texts that real pages have in their place."""

import random
from typing import Final, NamedTuple

from pipeline.demo.draw import CLASSES, COLOURS, PictureSpec

PLACES: Final[dict[str, tuple[str, str, str]]] = {
    "meadow": ("in a green meadow", "auf einer grünen Wiese", "dans un pré vert"),
    "lake": ("on a calm lake", "an einem stillen See", "au bord d'un lac calme"),
    "beach": ("on a sandy beach", "an einem Sandstrand", "sur une plage de sable"),
    "snow": ("in the snow", "im Schnee", "dans la neige"),
    "street": ("on a quiet street", "auf einer ruhigen Straße", "dans une rue tranquille"),
    "table": ("on a wooden table", "auf einem Holztisch", "sur une table en bois"),
    "wall": ("in front of a brick wall", "vor einer Ziegelmauer", "devant un mur de briques"),
    "water": ("in deep water", "in tiefem Wasser", "dans une eau profonde"),
    "sky": ("against the sky", "vor dem blauen Himmel", "devant le ciel bleu"),
    "night": ("at night", "bei Nacht", "pendant la nuit"),
}
"""Where each scene is, in English, German and French."""

_GERMAN_NOUNS: Final = {
    "ball": "er Ball", "boat": "es Boot", "car": "es Auto", "cup": "e Tasse", "fish": "er Fisch",
    "flower": "e Blume", "house": "es Haus", "star": "er Stern", "tree": "er Baum",
    "umbrella": "er Regenschirm",
}  # fmt: skip
_GERMAN_COLOURS: Final = {
    "red": "rot", "orange": "orangefarben", "yellow": "gelb", "green": "grün",
    "blue": "blau", "purple": "violett", "white": "weiß", "black": "schwarz",
}  # fmt: skip
_FRENCH_NOUNS: Final = {
    "ball": "un ballon", "boat": "un bateau", "car": "une voiture", "cup": "une tasse", "fish": "un poisson",
    "flower": "une fleur", "house": "une maison", "star": "une étoile", "tree": "un arbre",
    "umbrella": "un parapluie",
}  # fmt: skip
_FRENCH_COLOURS: Final = {  # masculine, feminine
    "red": ("rouge", "rouge"), "orange": ("orange", "orange"), "yellow": ("jaune", "jaune"),
    "green": ("vert", "verte"), "blue": ("bleu", "bleue"), "purple": ("violet", "violette"),
    "white": ("blanc", "blanche"), "black": ("noir", "noire"),
}  # fmt: skip

# {a}: "a small red boat"; {thing}: "red boat"; {place}: "on a calm lake".
_TEMPLATES: Final = (
    "{a} {place}",
    "{a} {place}",
    "{a} {place} near {town}",
    "a photo of {a} {place}",
    "a picture of {a} taken {place} in {month}",
    "photo of {a}, {town} {year}",
    "this is {a} {place}",
    "here you can see {a} {place}",
    "close-up of {a}",
    "close-up view of {a} {place}",
    "{a}, photographed by {name} in {month} {year}",
    "{a} as seen {place} by visitors from {town}",
    "our {thing} {place}",
    "our own {thing} {place} in {month} {year}",
    "the {thing} of {town}, {place}",
    "the famous {thing} that {name} found {place}",
    "{name}'s {thing} {place}",
    "{name} and the {thing} {place}",
    "look at this {thing} {place}!",
    "what a beautiful {thing}, seen {place} in {town}",
    "we found {a} {place} last {month}",
    "there was {a} {place} when we came to {town}",
    "postcard from {town} showing {a} {place}",
    "illustration of {a} {place}, made in {year}",
    "every {month} there is {a} {place}",
    "my daughter likes the {thing} {place}",
)
_TOWNS: Final = (
    "York", "Bristol", "Dover", "Oxford", "Boston", "Dublin", "Glasgow", "Chester", "Norwich", "Toronto",
)  # fmt: skip
_NAMES: Final = ("Anna", "Peter", "Maria", "Thomas", "Julia", "Martin", "Laura", "Simon", "Helen", "Oscar")
_MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
)  # fmt: skip

# Texts that no caption filter should let through, and texts that a careless reader of captions trips over.
BOILERPLATE: Final = (
    "Click to enlarge",
    "click to enlarge image",
    "Image may contain copyrighted material",
    "Embedded image permalink",
    "profile photo",
    "thumbnail for",
    "Loading...",
    "image",
)
HOSTILE: Final = (
    "{A} <script>alert('{thing}')</script> {place}",
    "{A} &amp; friends &lt;b&gt;{place}&lt;/b&gt;",
    "{A} \"{place}\" said {name}, 'twice'",
    "{A} {place} 🚀🎉👩‍👩‍👧 by {name}",
    "../../../etc/passwd {a} {place}",
    '=HYPERLINK("http://127.0.0.1/","{thing}") {place}',
    "{A}\n\t   {place}\n in {town}",
    "{A}\u200b\u202e {place}\u202c\ufeff",
    "{A} {place}'); DROP TABLE images;--",
    "{A} {place} {{jinja}} ${{HOME}} %s %(x)d",
    "{A} {place} call +44 20 7946 0958 or write to {name}@example.org",
)


class Phrase(NamedTuple):
    """Hold the words for one picture that templates draw on."""

    a: str
    thing: str
    place: str


def phrase(spec: PictureSpec) -> Phrase:
    """Return a picture's words: with its size if that stands out, its colour, class and place."""
    size = "small " if spec.size < 0.5 else "large " if spec.size > 0.75 else ""
    thing = f"{spec.colour} {spec.label}"
    article = "an" if (size + thing)[0] in "aeiou" else "a"
    return Phrase(f"{article} {size}{thing}", thing, PLACES[spec.scene][0])


def _fill(template: str, spec: PictureSpec, rng: random.Random) -> str:
    words = phrase(spec)
    return template.format(
        a=words.a,
        A=words.a[0].upper() + words.a[1:],
        thing=words.thing,
        place=words.place,
        town=rng.choice(_TOWNS),
        name=rng.choice(_NAMES),
        month=rng.choice(_MONTHS),
        year=rng.randint(2004, 2023),
    )


def english(spec: PictureSpec, rng: random.Random) -> str:
    """Return a natural caption that names the picture's colour and class."""
    text = _fill(rng.choice(_TEMPLATES), spec, rng)
    text = text[0].upper() + text[1:] if rng.random() < 0.7 else text
    return text + "." if text[-1] not in "!." and rng.random() < 0.3 else text


def title(spec: PictureSpec, rng: random.Random) -> str:
    """Return a short title that names the picture's colour and class."""
    thing = phrase(spec).thing
    town, year = rng.choice(_TOWNS), rng.randint(2004, 2023)
    return rng.choice((f"{thing.capitalize()} in {town}", f"The {thing}", f"{thing.title()}, {year}"))


def german(spec: PictureSpec, rng: random.Random) -> str:
    """Return a German caption."""
    ending, noun = _GERMAN_NOUNS[spec.label].split()
    article = "eine" if ending == "e" else "ein"
    what = f"{article} {_GERMAN_COLOURS[spec.colour]}{ending} {noun} {PLACES[spec.scene][1]}"
    before = rng.choice(("", "Hier sieht man, wie schön das ist: ", "Auf diesem Bild ist zu sehen: "))
    by = f", aufgenommen von {rng.choice(_NAMES)} im Jahr {rng.randint(2004, 2023)}"
    text = before + what + rng.choice(("", by))
    return text[0].upper() + text[1:]


def french(spec: PictureSpec, rng: random.Random) -> str:
    """Return a French caption."""
    noun = _FRENCH_NOUNS[spec.label]
    colour = _FRENCH_COLOURS[spec.colour][noun.startswith("une ")]
    before = rng.choice(("", "Voici ", "Sur cette photo, on peut voir "))
    after = rng.choice(("", f", photographie prise par {rng.choice(_NAMES)} en {rng.randint(2004, 2023)}"))
    text = f"{before}{noun} {colour} {PLACES[spec.scene][2]}{after}"
    return text[0].upper() + text[1:]


def file_name(spec: PictureSpec, rng: random.Random) -> str:
    """Return the text that programs put into an alt text: the file's name, with the class in it."""
    number = rng.randint(1, 9999)
    colour, label = spec.colour, spec.label
    names = (
        f"{colour}_{label}_{number:04d}.jpg",
        f"{label}-{colour}-{number}-1024x768",
        f"{label}{number}.JPG",
    )
    return rng.choice(names)


def camera(spec: PictureSpec, rng: random.Random) -> str:
    """Return a camera's default name for a picture."""
    number = rng.randint(1, 9999)
    names = (f"DSC_{number:04d}", f"IMG_{number:04d}.JPG", f"DSCN{number:04d}", f"P{number:07d}")
    return rng.choice((*names, "OLYMPUS DIGITAL CAMERA"))


def boilerplate(spec: PictureSpec, rng: random.Random) -> str:
    """Return a text of the page's template."""
    return rng.choice(BOILERPLATE)


def hostile(spec: PictureSpec, rng: random.Random) -> str:
    """Return a caption about the picture that holds markup, control characters, formulas or contacts."""
    return _fill(rng.choice(HOSTILE), spec, rng)


def too_long(spec: PictureSpec, rng: random.Random) -> str:
    """Return a caption of several thousand characters, of the kind that stuffs a page with words."""
    return " ".join(english(spec, rng) for _ in range(120))


def queries() -> list[str]:
    """Return the demonstration's queries: classes, colours, both together, places, and some without match."""
    pairs = [f"{colour} {label}" for label in CLASSES for colour in COLOURS]
    places = [places[0].split()[-1] for places in PLACES.values()]
    unmatched = ["zeppelin", "quantum chromodynamics", "St. Petersburg", "hippopotamus", "purple rhinoceros"]
    common = ["photo", "picture", "close-up", "a", "the", *(town.lower() for town in _TOWNS)]
    return list(dict.fromkeys([*CLASSES, *COLOURS, *pairs, *places, *common, *unmatched]))
