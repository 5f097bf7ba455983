"""One parser for the command line and TOML: options are the fields of frozen dataclasses.

A TOML file holds the same options, at its top level or in a table named after the command, and Beam's flags
in the table [beam]; flags on the command line win. An unknown key or flag is refused with the nearest valid
name.
"""

import ast
import contextlib
import copy
import dataclasses
import difflib
import inspect
import io
import json
import sys
import tomllib
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, NoReturn, TypeVar

import msgspec
import tyro

from pipeline import storage, wrong_value
from pipeline.publishing import Value

C = TypeVar("C")

_MARKERS = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
HELP: Final = frozenset({"-h", "--help", "--help-all"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counterparts:
    """The options of a tool that people come from, and their names here."""

    tool: str
    flags: Mapping[str, str]
    """By name with `_`, without `--`: the flag to give here, or a phrase such as "not needed"."""

    def advice(self, flag: str) -> str:
        """Return the line for a flag of that tool, or "" for any other.

        >>> Counterparts(tool="img2dataset", flags={"url_list": "--source"}).advice("--url_list")
        '--url_list is an option of img2dataset; use --source here'
        """
        instead = self.flags.get(flag.removeprefix("--").replace("-", "_"))
        if instead is None:
            return ""
        verb = "use " if instead.startswith("--") else ""
        return f"{flag} is an option of {self.tool}; {verb}{instead}{' here' if verb else ''}"


def fields(config_class: type) -> Iterator[tuple[str, Any]]:
    """Yield (name, field) of all options, those of nested option classes in their place."""
    for field in dataclasses.fields(config_class):
        inner = field.type if isinstance(field.type, type) else None
        if inner is not None and dataclasses.is_dataclass(inner):
            yield from fields(inner)
        else:
            yield field.name, field


def texts_of(config_class: type) -> dict[str, str]:
    """Return the text below each field, by name, as one line."""
    bases = [base for base in config_class.__bases__ if dataclasses.is_dataclass(base)]
    found = {name: text for base in bases for name, text in texts_of(base).items()}
    # inspect.getsource of a class would walk through all of its module.
    nodes = ast.parse(inspect.getsource(sys.modules[config_class.__module__])).body
    classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
    body = classes[config_class.__name__]
    for node, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            match after:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    found[node.target.id] = " ".join(text.split())
    return found


def _explained(config_class: type, only: Collection[str] = ()) -> type:
    """Return a class that tyro prints the help of: of every option, or `only` of some.

    Of indented docstrings tyro keeps the line breaks, and then breaks the lines again.
    """
    texts = texts_of(config_class)
    described: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(config_class):
        kind, default = field.type, copy.copy(field)
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            inner = _explained(kind, only)
            default = dataclasses.field(default_factory=inner)
            wanted = bool(dataclasses.fields(inner))
            kind = Annotated[inner, tyro.conf.arg(help=inspect.getdoc(inner))]  # else tyro reads its source
        else:
            kind = Annotated[kind, tyro.conf.arg(help=texts[field.name])]
            wanted = not only or field.name in only
        if wanted:
            described.append((field.name, kind, default))
    namespace = {"__doc__": config_class.__doc__}
    return dataclasses.make_dataclass(config_class.__name__, described, namespace=namespace, kw_only=True)


def common_of(config_class: type) -> Collection[str]:
    """Return the options that --help explains: the class's COMMON, or () for all of them."""
    return getattr(config_class, "COMMON", ())


def print_help(config_class: type, prog: str, *, everything: bool) -> NoReturn:
    """Print the help of the common options, or of `everything`, and exit."""
    description = inspect.cleandoc(config_class.__doc__ or "")
    common = () if everything else common_of(config_class)
    examples: Sequence[str] = getattr(config_class, "EXAMPLES", ())
    if examples:
        description += f"\n\nExamples:\n{chr(10).join(f'  {line}' for line in examples)}"
    description += (
        "\n\nEvery command also takes --config FILE.toml with the same options, --quiet and --verbose."
    )
    if common:
        total = sum(1 for _ in fields(config_class))
        description += f"\n\nMost runs need only the options below; `{prog} --help-all` explains all {total}."
    tyro.cli(
        _explained(config_class, common), args=["--help"], prog=prog, config=_MARKERS, description=description
    )
    raise SystemExit(0)


def completion(commands: Mapping[str, type], shell: str) -> str:
    """Return the script that completes `openwit` in bash, zsh or fish.

    commands: the options of each command, such as "crawl" or "detector train".
    """
    choices: dict[str, list[Any]] = {}
    for command, config_class in commands.items():
        group, _, name = command.rpartition(" ")
        explained = _explained(config_class)
        choices.setdefault(group, []).append(Annotated[explained, tyro.conf.subcommand(name)])
    top = choices.pop("")
    for group, inner in choices.items():
        both = dataclasses.make_dataclass(group, [("command", typing.Union[tuple(inner)])])  # noqa: UP007
        top.append(Annotated[both, tyro.conf.subcommand(group)])
    script = io.StringIO()
    with contextlib.redirect_stdout(script), contextlib.suppress(SystemExit):
        every: Any = typing.Union[tuple(top)]  # noqa: UP007
        tyro.cli(
            every, prog="openwit", config=_MARKERS,
            args=["--tyro-write-completion", shell, "-"],
        )  # fmt: skip
    return script.getvalue()


def first_as(flag: str, argv: Sequence[str]) -> list[str]:
    """Return the arguments, with this flag put before a first argument that has none."""
    return [flag, *argv] if argv and not argv[0].startswith("-") else [*argv]


def nearest(name: str, valid: Sequence[str]) -> str:
    """Return a sentence that names the closest valid option, or nothing if none is close."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def parse(
    config_class: type[C], argv: Sequence[str], *, prog: str, beam: bool = False,
    implied: Callable[[Sequence[str]], list[str]] | None = None, other: Counterparts | None = None,
) -> tuple[C, tuple[str, ...]]:  # fmt: skip
    """Return the configuration and, if `beam`, the Beam flags among `argv`.

    Exits with 2 after a usage error, as argparse does. `--config FILE.toml` may stand anywhere. implied:
    returns the flags that other flags stand for; flags that are given win over them. other: the tool that
    people come from, whose flags are refused with the name of their counterpart here.
    """
    arguments = list(argv)
    if HELP & set(arguments):
        print_help(config_class, prog, everything="--help-all" in arguments)
    toml_flags, from_toml = _take_config(arguments, config_class, prog, beam)
    arguments = _join_repeated([*toml_flags, *arguments], config_class)
    try:
        _refuse_misspelt(arguments, config_class, beam, other)
        if implied is not None:
            arguments = [*implied(arguments), *arguments]
        _ask_for_required(arguments, config_class, prog)
        kinds = {f"--{name.replace('_', '-')}": field.type for name, field in fields(config_class)}
        with wrong_value.in_one_line(arguments, kinds, prog):
            config, rest = tyro.cli(
                config_class, args=arguments, prog=prog, config=_MARKERS, return_unknown_args=True
            )
        if rest:
            _refuse_several(arguments, rest, config_class)
            check_flags(rest, [f"--{name.replace('_', '-')}" for name, _ in fields(config_class)], beam)
        if from_toml or rest:
            from pipeline.flow import beam_options

            beam_options.check((*from_toml, *rest))
    except ValueError as error:
        usage_error(prog, str(error))
    return config, (*from_toml, *rest)


def _refuse_misspelt(
    arguments: Sequence[str], config_class: type, beam: bool, other: Counterparts | None
) -> None:
    """Raise ValueError for an unknown flag, before the flag it was meant to be is reported as missing."""
    names = [name.replace("_", "-") for name, _ in fields(config_class)]
    known = {*HELP, "--config", *(f"--{name}" for name in names), *(f"--no-{name}" for name in names)}
    given = [
        argument.partition("=")[0] for argument in arguments if argument.startswith("--") and argument != "--"
    ]
    unknown = [flag for flag in given if flag.replace("_", "-") not in known]
    for flag in unknown:
        if other is not None and (line := other.advice(flag)):
            raise ValueError(line)
    if unknown:
        check_flags(unknown, [f"--{name}" for name in names], beam)


def _ask_for_required(arguments: Sequence[str], config_class: type, prog: str) -> None:
    """Raise ValueError that names the options without a default that are not given."""
    optional = defaults(config_class)
    given = {argument.partition("=")[0].replace("_", "-") for argument in arguments}
    names = [f"--{name.replace('_', '-')}" for name, _ in fields(config_class) if name not in optional]
    missing = [name for name in names if name not in given]
    if missing:
        is_or_are = "is" if len(missing) == 1 else "are"
        raise ValueError(f"{' and '.join(missing)} {is_or_are} missing; `{prog} --help` has examples")


def _refuse_several(arguments: Sequence[str], rest: Sequence[str], config_class: type) -> None:
    """Raise ValueError where several values follow an option that stands before each of its values."""
    repeated = {f"--{name}" for name, f in fields(config_class) if hasattr(f.type, "__metadata__")}
    for index, argument in enumerate(arguments[:-2]):
        name = argument.replace("-", "_").replace("__", "--", 1)
        if name in repeated and arguments[index + 2] in rest and not arguments[index + 2].startswith("-"):
            values = " ".join(f"{argument} {value}" for value in arguments[index + 1 : index + 3])
            raise ValueError(f"{argument} stands before each of its values: {values}")


def _join_repeated(arguments: list[str], config_class: type) -> list[str]:
    """Return the arguments with all values of a list after its first flag; a second would start again."""
    lists = {
        f"--{name.replace('_', '-')}" for name, field in fields(config_class)
        if typing.get_origin(field.type) is tuple and not hasattr(field.type, "__metadata__")
    }  # fmt: skip
    joined: list[str] = []
    values: dict[str, list[str]] = {}
    flag = ""
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            flag = name.replace("_", "-").replace("--", "--", 1)
            if flag in lists:
                if flag not in values:
                    joined.append(flag)
                values.setdefault(flag, []).extend([value] if equals else [])
                continue
            flag = ""
        if flag:
            values[flag].append(argument)
        else:
            joined.append(argument)
    return [part for one in joined for part in (one, *values.get(one, []))]


def usage_error(prog: str, message: str) -> NoReturn:
    """Print the error and exit with 2."""
    from pipeline.terminal import complaint

    sys.stderr.write(f"{prog}: error: {complaint(message)}\n")
    raise SystemExit(2)


def _take_config(
    arguments: list[str], config_class: type, prog: str, beam: bool
) -> tuple[list[str], list[str]]:
    """Remove `--config FILE` from the arguments and return the file's flags: openwit's, and Beam's."""
    for index, argument in enumerate(arguments):
        if argument == "--config" or argument.startswith("--config="):
            path = argument.partition("=")[2] or (arguments[index + 1] if index + 1 < len(arguments) else "")
            if not path:
                usage_error(prog, "--config needs the path of a TOML file")
            del arguments[index : index + (1 if "=" in argument else 2)]
            try:
                values = tomllib.loads(storage.read_bytes(path).decode("utf-8-sig"))
                return _flags_of(values, config_class, prog.split()[-1], path, arguments, beam)
            except (FileNotFoundError, IsADirectoryError) as error:
                from pipeline.terminal import told

                usage_error(prog, told(error))
            except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValueError) as error:
                usage_error(prog, f"{path}: {error}")
    return [], []


def _flags_of(
    values: dict[str, Any], config_class: type, command: str, path: str, arguments: list[str], beam: bool
) -> tuple[list[str], list[str]]:
    beam_values = values.pop("beam", {})
    tables = {name: value for name, value in values.items() if isinstance(value, dict)}
    for name in tables:
        meant = difflib.get_close_matches(name, [command, "beam"], n=1, cutoff=0.7)
        if meant and name not in meant:
            raise ValueError(f"unknown table [{name}]; did you mean [{meant[0]}]?")
    own = {name: value for name, value in values.items() if name not in tables} | tables.get(command, {})
    valid = dict(fields(config_class))
    flags: list[str] = []
    for key, value in own.items():
        name = key.replace("-", "_")
        if name not in valid:
            raise ValueError(f"unknown option {key!r}{nearest(name, sorted(valid))}")
        flags += flag(name, value, arguments, repeated=hasattr(valid[name].type, "__metadata__"))
    if not (beam and beam_values):
        return flags, []
    from pipeline.flow import beam_options

    extra = beam_options.of_table(beam_values)
    check_flags(extra, (), beam)
    return flags, extra


def flag(name: str, value: Any, arguments: Sequence[str] = (), *, repeated: bool = False) -> list[str]:
    """Return an option as it is typed; nothing for a list that stands among the arguments, which replaces it.

    repeated: the flag stands before each item of a list.
    """
    given = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [given if value else f"--no-{given.removeprefix('--')}"]
    if not isinstance(value, list | tuple):
        return [given, str(value)]
    if any(argument == given or argument.startswith(f"{given}=") for argument in arguments):
        return []
    return [part for item in value for part in (given, str(item))] if repeated else [given, *map(str, value)]


def check_flags(rest: Sequence[str], valid: Sequence[str], beam: bool) -> None:
    """Refuse flags that neither openwit nor Beam knows; Beam itself would only warn and drop them."""
    unknown = [argument.partition("=")[0] for argument in rest if argument.startswith("-")]
    stray = [] if rest[0].startswith("-") else [rest[0]]
    known = list(valid)
    if beam and not stray:
        from pipeline.flow import beam_options

        known += beam_options.known()
    for name in [*stray, *unknown]:
        if name not in known:
            raise ValueError(f"unknown option {name}{nearest(name, known) or '; --help-all lists them all'}")


def effective(config: Any) -> dict[str, Value]:
    """Return every option's value by name, nested option classes flattened."""
    values: dict[str, Value] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        values |= effective(value) if dataclasses.is_dataclass(value) else {field.name: value}
    return values


def from_effective(config_class: type[C], values: Mapping[str, Value]) -> C:
    """Return the options of which `effective` gave the values; other names are skipped.

    ValueError for values that are not those of the options.
    """
    try:
        return msgspec.convert(_nested(config_class, values), config_class)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


def from_python(config_class: type[C], values: Mapping[str, Any]) -> C:
    """Return options given by name, as Python has them; ValueError says which is wrong.

    An option that may be repeated takes a list, or a single text for a list of it.
    """
    known = defaults(config_class)
    names = [name for name, _ in fields(config_class)]
    if unknown := next((name for name in values if name not in names), ""):
        raise ValueError(f"there is no option {unknown}{nearest(unknown, names)}")
    lists = {name for name, field in fields(config_class) if "tuple" in str(field.type)}
    given = {
        name: (value,) if name in lists and isinstance(value, str) else value
        for name, value in values.items()
    }
    return from_effective(config_class, {**known, **given})


def _nested(config_class: type, values: Mapping[str, Value]) -> dict[str, Any]:
    hints = typing.get_type_hints(config_class)
    nested = {
        name: _nested(kind, values)
        for name, kind in hints.items()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind)
    }
    return {name: values[name] for name in hints if name in values} | nested


def defaults(config_class: type) -> dict[str, Value]:
    """Return the default of every option that has a default, by name."""
    found: dict[str, Value] = {}
    for name, field in fields(config_class):
        if field.default_factory is not dataclasses.MISSING:
            found[name] = field.default_factory()
        elif field.default is not dataclasses.MISSING:
            found[name] = field.default
    return found


def to_toml(values: Mapping[str, Value]) -> str:
    """Return TOML that `--config` reads back; options that are not set are left out."""
    lines = []
    for name, value in values.items():
        if value is None or value == "":
            continue
        # JSON's strings, numbers, lists and booleans are TOML's as well.
        lines.append(f"{name} = {json.dumps(list(value) if isinstance(value, tuple) else value)}")
    return "\n".join(lines) + "\n"


def named(values: tuple[str, ...], option: str) -> list[tuple[str, str]]:
    """Return the pairs of NAME=VALUE arguments; ValueError for any other."""
    found = []
    for value in values:
        name, equals, rest = value.partition("=")
        if not (name and equals and rest):
            raise ValueError(f"--{option} takes NAME=VALUE, not {value!r}")
        found.append((name, rest))
    return found
