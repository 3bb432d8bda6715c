# SPDX-License-Identifier: Apache-2.0
"""registries.conf: where an image is really asked for, by which mirrors, and where it must not be asked for.

The file is that of containers tools, in its second version, with the drop-ins of the directory beside it. A table
`[[registry]]` of a later file replaces one with the same prefix. Keys that are not known are passed over, since the
file belongs to others; a value that makes no sense is an error, since it may have been meant to block something.

Source: containers-registries.conf(5), containers-registries.conf.d(5).
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError, RegistryBlocked, UsageError
from ..model import TRANSPORTS, ImageReference

_MAX_FILE = 1 << 20
_PULLS = ("all", "digest-only", "tag-only")
_SHORT = re.compile(r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*")
_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Location:
    """A place that serves a part of the name space; `pulls` says for which references: all, digest-only, tag-only."""

    name: str
    insecure: bool = False
    pulls: str = "all"


@dataclass(frozen=True, slots=True)
class Registry:
    """One table `[[registry]]`: `prefix` is what it is about, `origin` the file that has it."""

    prefix: str
    location: str
    insecure: bool
    blocked: bool
    mirrors: tuple[Location, ...]
    origin: str

    def matches(self, reference: str) -> int:
        """How many characters of a reference the prefix covers; 0 when the table is not about it."""
        if self.prefix.startswith("*."):
            found = re.match(rf"[^/:@]+{re.escape(self.prefix[1:])}(?=[:/@]|$)", reference)
            return found.end() if found else 0
        rest = reference.removeprefix(self.prefix)
        return len(self.prefix) if rest != reference and rest[:1] in ("", ":", "/", "@") else 0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to ask: a reference by the name that it has there. Those with `is_mirror` are not the registry itself."""

    reference: ImageReference
    insecure: bool
    is_mirror: bool


@dataclass(frozen=True, slots=True)
class Route:
    """All that decides where an image is asked for. `passed_over` are mirrors that are not for such a reference."""

    endpoints: tuple[Endpoint, ...]
    passed_over: tuple[Location, ...] = ()


@dataclass(frozen=True, slots=True)
class Registries:
    """What the files say; `files` are those that were read. `aliases` are short names with what they stand for."""

    tables: Mapping[str, Registry] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)

    def about(self, reference: ImageReference) -> Registry | None:
        """The table that is about a reference: the one whose prefix covers most of it."""
        text = str(reference)
        return max((table for table in self.tables.values() if table.matches(text)),
                   key=lambda table: table.matches(text), default=None)

    def expand(self, image: str) -> str:
        """What a short name stands for, with the tag or digest that it came with. Other names, and those without an
        alias, stay as they are."""
        if not is_short(image):
            return image
        name, tag_or_digest = _split(image)
        return self.aliases[name] + tag_or_digest if name in self.aliases else image

    def endpoints(self, reference: ImageReference) -> tuple[Endpoint, ...]:
        """Where to ask for an image, in this order. Raises RegistryBlocked, and ConfigError when a location makes no
        reference."""
        return self.route(reference).endpoints

    def route(self, reference: ImageReference) -> Route:
        """The same with what does not count. Raises what `endpoints` raises."""
        table = self.about(reference)
        if table is None:
            return Route((Endpoint(reference, insecure=False, is_mirror=False),))
        if table.blocked:
            raise RegistryBlocked(f"{reference}: '{table.prefix}' is blocked in {table.origin}")
        wanted = "digest-only" if reference.digest is not None else "tag-only"
        mirrors = [Endpoint(_moved(table, reference, mirror.name), mirror.insecure, is_mirror=True)
                   for mirror in table.mirrors if mirror.pulls in ("all", wanted)]
        return Route((*mirrors, Endpoint(_moved(table, reference, table.location), table.insecure, is_mirror=False)),
                     tuple(mirror for mirror in table.mirrors if mirror.pulls not in ("all", wanted)))


@dataclass(frozen=True, slots=True)
class Choice:
    """Which files are to be read, and why. `variable` is the one of the environment that decided, if one did."""

    files: tuple[Path, ...]
    why: str
    variable: str = ""


def choose(named: str = "", environ: Mapping[str, str] | None = None) -> Choice:
    """The files to read, the later ones overriding the earlier: one file, and the drop-ins beside it.

    The file is `named`, or else what CONTAINERS_REGISTRIES_CONF says, or else the first that exists of
    /etc/bootcd/registries.conf and /etc/containers/registries.conf. Raises ConfigError when a named one is not there.
    """
    environ = os.environ if environ is None else environ
    usual = [Path("/etc/bootcd/registries.conf"), Path("/etc/containers/registries.conf")]
    chosen = named or environ.get("CONTAINERS_REGISTRIES_CONF", "")
    if chosen and not Path(chosen).exists():
        raise ConfigError(f"{chosen}: no such file")
    main = Path(chosen) if chosen else next((path for path in usual if path.exists()), usual[-1])
    found = (main, *sorted(main.with_name(f"{main.name}.d").glob("*.conf")))
    if named:
        return Choice(found, "registries-file in bootcd.toml")
    if chosen:
        return Choice(found, "CONTAINERS_REGISTRIES_CONF of the environment", "CONTAINERS_REGISTRIES_CONF")
    return Choice(found, f"the first that exists of {' and '.join(map(str, usual))}")


def is_short(image: str) -> bool:
    """Whether this is the name of an image at a registry that it does not say: NAME[:TAG][@DIGEST], where NAME begins
    with no host, and there is no transport."""
    name, _ = _split(image)
    first = name.partition("/")[0]
    return _SHORT.fullmatch(name) is not None and "." not in first and first != "localhost" \
        and not any(image.startswith(f"{transport}:") for transport in TRANSPORTS)


def _split(image: str) -> tuple[str, str]:
    name = image.partition("@")[0]
    before, colon, tag = name.rpartition(":")
    if colon and "/" not in tag:
        name = before
    return name, image[len(name):]


def files(named: str = "", environ: Mapping[str, str] | None = None) -> list[Path]:
    """The files that `choose` chooses."""
    return list(choose(named, environ).files)


def load(paths: Sequence[Path]) -> Registries:
    """Read files; those that are not there are passed over. Raises ConfigError, with file and key."""
    tables: dict[str, Registry] = {}
    aliases: dict[str, str] = {}
    read: list[Path] = []
    for path in paths:
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_FILE + 1)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        if len(data) > _MAX_FILE:
            raise ConfigError(f"{path}: larger than {_MAX_FILE} bytes")
        tables |= parse(data, str(path))
        aliases |= _aliases(data)
        read.append(path)
    return Registries(tables, tuple(read), aliases)


def parse(data: bytes, where: str) -> dict[str, Registry]:
    """The tables of one file by prefix; `where` begins the messages. Raises ConfigError."""
    try:
        document = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: {error}", advice=_ADVICE) from None
    if "registries" in document:
        raise _wrong(where, "[registries] is the first version of the format, which is not read any more")
    found: dict[str, Registry] = {}
    for number, table in enumerate(_tables(where, document, "registry")):
        registry = _registry(f"{where}: [[registry]] {number + 1}", table, where)
        if registry.prefix in found:
            raise _wrong(where, f"there are two tables for '{registry.prefix}'")
        found[registry.prefix] = registry
    return found


def _aliases(data: bytes) -> dict[str, str]:
    """Those of a file that was parsed already; nothing rests on them, so what makes no sense is passed over."""
    found = tomllib.loads(data.decode()).get("aliases")
    if not isinstance(found, dict):
        return {}
    return {name: target for name, target in found.items() if isinstance(target, str) and target}


_ADVICE = "Correct the file; containers-registries.conf(5) describes it."


def _registry(where: str, table: dict[str, Any], origin: str) -> Registry:
    location = _text(where, table, "location").rstrip("/")
    prefix = _text(where, table, "prefix").rstrip("/") or location
    if not prefix:
        raise _wrong(where, "neither prefix nor location")
    wildcard = prefix.startswith("*.")
    host = prefix.removeprefix("*.").partition("/")[0]
    if not _HOST.fullmatch(host) or (wildcard and "/" in prefix):
        raise _wrong(where, f"'{prefix}' is no prefix of image names")
    if not location and not wildcard:
        raise _wrong(where, "location is missing")
    by_digest = _flag(where, table, "mirror-by-digest-only")
    mirrors = []
    for number, mirror in enumerate(_tables(where, table, "mirror")):
        here = f"{where}: mirror {number + 1}"
        name = _text(here, mirror, "location").rstrip("/")
        pulls = _text(here, mirror, "pull-from-mirror")
        if not _HOST.fullmatch(name.partition("/")[0]):
            raise _wrong(here, f"'{name}' is no location" if name else "location is missing")
        if pulls and (by_digest or pulls not in _PULLS):
            raise _wrong(here, f"pull-from-mirror: '{pulls}' " + (
                "and mirror-by-digest-only of its registry exclude each other" if pulls in _PULLS
                else f"is none of {', '.join(_PULLS)}"))
        mirrors.append(Location(name, _flag(here, mirror, "insecure"),
                                pulls or ("digest-only" if by_digest else "all")))
    return Registry(prefix, location, _flag(where, table, "insecure"), _flag(where, table, "blocked"), tuple(mirrors),
                    origin)


def _moved(table: Registry, reference: ImageReference, location: str) -> ImageReference:
    """The reference with the prefix of its table replaced by a location; without one the name stays."""
    if not location:
        return reference
    text = str(reference)
    try:
        return ImageReference.parse(f"docker://{location}{text[table.matches(text):]}")
    except UsageError as error:
        raise ConfigError(f"{table.origin}: location '{location}' for '{table.prefix}': {error}",
                          advice=_ADVICE) from None


def _tables(where: str, table: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _wrong(where, f"'{key}' must be a list of tables")
    return value


def _text(where: str, table: dict[str, Any], key: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str):
        raise _wrong(where, f"{key}: expected a string")
    return value


def _flag(where: str, table: dict[str, Any], key: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise _wrong(where, f"{key}: expected true or false")
    return value


def _wrong(where: str, what: str) -> ConfigError:
    return ConfigError(f"{where}: {what}", advice=_ADVICE)
