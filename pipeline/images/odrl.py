"""Whether a rights declaration of JPEG Trust lets a picture be trained on.

JPEG Trust (ISO/IEC 21617-1:2025) keeps its Trust Manifests in the boxes of C2PA; the assertion `jpt.rights`
has a policy in ODRL 2.2 (W3C, 2018), as JSON-LD. It refuses where it prohibits mining, training or any use,
or permits that only under a duty or a constraint, as TDMRep's policies do (`tdm:mine` with the duty to
obtain consent): nobody here has agreed to it.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

_MINING: Final = frozenset(
    ("mine", "tdm", "datamining", "textanddatamining", "aitraining", "trainai", "train", "training")
)
_ANY_USE: Final = frozenset(("use", "reproduce", "derive"))
"""Uses for training, too; a policy prohibits it in terms of its own."""
_MAX_ITEMS: Final = 2_000


def refusal(policy: Any) -> str:
    """Return the refusal of training in a policy decoded from JSON, such as `prohibition: mine`, or ""."""
    for name, rule in _rules(policy):
        is_bound = any(rule.get(key) for key in ("duty", "constraint"))
        for action, is_refined in _actions(rule.get("action")):
            word = re.sub(r"[^a-z]", "", re.split(r"[:/#]", action)[-1].lower())
            if name == "prohibition" and word in _ANY_USE and not (is_bound or is_refined):
                return f"prohibition: {word}"
            if word in _MINING and (name == "prohibition" or is_bound or is_refined):
                return f"{name}: {word}" + " under conditions" * (is_bound or is_refined)
    return ""


def _rules(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the permissions and prohibitions of all policies in a document, however deep."""
    waiting, left = [value], _MAX_ITEMS
    while waiting and left:
        left -= 1
        one = waiting.pop()
        if isinstance(one, dict):
            for key, inner in one.items():
                name = str(key).rpartition(":")[2].rpartition("/")[2].lower().removesuffix("s")
                if name in ("permission", "prohibition"):
                    rules = inner if isinstance(inner, list) else [inner]
                    yield from ((name, rule) for rule in rules[:_MAX_ITEMS] if isinstance(rule, dict))
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _actions(value: Any) -> Iterator[tuple[str, bool]]:
    """Yield the names of actions, and whether each is refined: a text, an object, or a list of these."""
    for one in value[:_MAX_ITEMS] if isinstance(value, list) else [value]:
        named, is_refined = one, False
        if isinstance(one, dict):
            is_refined = bool(one.get("refinement"))
            named = next((one[key] for key in ("@id", "id", "rdf:value", "rdf: value") if key in one), None)
            named = named.get("@id") if isinstance(named, dict) else named
        if isinstance(named, str):
            yield named, is_refined
