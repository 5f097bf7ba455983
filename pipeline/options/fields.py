"""Say in an option's own field from which stage on it decides the content."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

_DECIDES: Final = "decides"


def decides(*stages: str, default: Any, **told: Callable[[Any], Any]) -> Any:
    """Return a field for an option, or a class of options, that decides the content from a stage on.

    told: stages at which another value than the option's own stands for it, and how that follows from it.

        seed: int = decides("select", default=0)
    """
    how = {**told, **dict.fromkeys(stages, _as_it_is)}
    given = {"default_factory": default} if isinstance(default, type) else {"default": default}
    return dataclasses.field(**given, metadata={_DECIDES: how})


def _as_it_is(value: Any) -> Any:
    return value


def deciding(
    config_class: type, inherited: Mapping[str, Callable[[Any], Any]] | None = None
) -> Iterator[tuple[str, str, Callable[[Any], Any]]]:
    """Yield (stage, option, told) for each stage that an option of a class decides; see `decides`."""
    for field in dataclasses.fields(config_class):
        how = field.metadata.get(_DECIDES, inherited or {})
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            yield from deciding(field.type, how)
        else:
            yield from ((stage, field.name, told) for stage, told in how.items())
