# SPDX-License-Identifier: Apache-2.0
"""Kernel arguments: those that name the composefs image of the root file system, and those that an image asks for.

    composefs.digest=v1-sha512-12:<128 hex>    an EROFS image of version 0 or 1; `v2-…` one of version 2
    composefs=<64 or 128 hex>                  one of version 2, the older form
    a '?' right after the '='                  fs-verity is optional

A command line is split at ASCII white space outside of double quotes; quotes have no escapes and stay in the argument.
Several `composefs.digest=` are legal: for example one for each hash algorithm.

Images add arguments with `*.toml` in `/usr/lib/bootc/kargs.d` and `/usr/lib/bootcd/kargs.d`:

    kargs = ["console=ttyS0", "quiet"]
    match-architectures = ["x86_64"]           # optional

A machine has files of the same form in its /etc (`deploy.localkargs`).
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..errors import BootEntryError, ConfigError, NotBootable, UsageError
from ..formats.fsverity import Algorithm
from ..formats.tree import Directory, RegularFile

KARGS_DIRECTORIES = (b"/usr/lib/bootc/kargs.d", b"/usr/lib/bootcd/kargs.d")
MAX_KARGS_FILE = 64 * 1024
"""Bytes of one file in kargs.d."""
MAX_KARGS = 2048
"""Bytes of all arguments together: what a kernel for x86 takes (COMMAND_LINE_SIZE), and the rest is cut off there."""

DIGEST_KEY = "composefs.digest="
LEGACY_KEY = "composefs="
ROOT_KEY = "root="
_LOADER_KEYS = ("initrd=", "BOOT_IMAGE=")

_COMPOSEFS = "bootcd itself says which image to boot"

_TOKEN = re.compile(r'(?:"[^"]*(?:"|$)|[^ \t\n\r\f\v"])+')
_DIGEST = re.compile(r"v([12])-(sha256|sha512)-12:([0-9a-fA-F]+)")
_HEX = re.compile(r"[0-9a-fA-F]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_ARCHITECTURES = {
    "amd64": "x86_64", "arm64": "aarch64", "386": "x86", "i686": "x86", "ppc64le": "powerpc64", "ppc64": "powerpc64",
    "loong64": "loongarch64", "armv7l": "arm", "arm64v8": "aarch64",
}
"""Names of Go and of uname in the words of Rust, which `match-architectures` uses."""


@dataclass(frozen=True, slots=True)
class ComposefsKarg:
    """An argument that names an image: `version` is 1 for EROFS V0 and V1, else 2."""

    digest: bytes
    version: int
    insecure: bool = False

    @property
    def algorithm(self) -> Algorithm:
        return Algorithm.of_digest(self.digest)

    def __str__(self) -> str:
        mark = "?" if self.insecure else ""
        if self.version == 2:
            return f"{LEGACY_KEY}{mark}{self.digest.hex()}"
        return f"{DIGEST_KEY}{mark}v{self.version}-{self.algorithm.suffix}:{self.digest.hex()}"


def karg_for(digest: bytes, version: int, algorithm: Algorithm, secure: bool) -> str:
    """The argument for an image with this digest; `version` is that of its EROFS format, `secure` demands fs-verity."""
    if len(digest) != algorithm.digest_size:
        raise BootEntryError(f"digest {digest.hex()} has not the length of {algorithm.label}")
    return str(ComposefsKarg(digest, 2 if version >= 2 else 1, not secure))


def split_cmdline(cmdline: str) -> list[str]:
    """The arguments of a kernel command line, quotes kept."""
    return _TOKEN.findall(cmdline)


def join_cmdline(cmdline: str) -> str:
    """The same arguments on one line, with single blanks between them."""
    return " ".join(split_cmdline(cmdline))


def is_composefs(argument: str) -> bool:
    """Whether an argument names an image, well-formed or not, or would if somebody took its quotes away."""
    return argument.replace('"', "").startswith((DIGEST_KEY, LEGACY_KEY))


def reserved(argument: str) -> str | None:
    """Why an argument is neither added nor taken away on a machine that is installed: it says where the root file
    system is. None for any other."""
    if is_composefs(argument):
        return _COMPOSEFS
    if argument.replace('"', "").startswith(ROOT_KEY):
        return "it names the root file system, as the installation has found it"
    return None


def parse_karg(argument: str) -> ComposefsKarg | None:
    """None for any other argument. Raises BootEntryError when it is malformed or of an unknown version."""
    if argument.startswith(DIGEST_KEY):
        value = argument[len(DIGEST_KEY) :]
        found = _DIGEST.fullmatch(value.removeprefix("?"))
        if found and len(found[3]) == Algorithm.parse(found[2]).digest_size * 2:
            return ComposefsKarg(bytes.fromhex(found[3]), int(found[1]), value.startswith("?"))
    elif argument.startswith(LEGACY_KEY):
        value = argument[len(LEGACY_KEY) :]
        text = value.removeprefix("?")
        if len(text) in (64, 128) and _HEX.fullmatch(text):
            return ComposefsKarg(bytes.fromhex(text), 2, value.startswith("?"))
    else:
        return None
    raise BootEntryError(f"malformed kernel argument '{_shown(argument)}'")


def find_kargs(cmdline: str) -> list[ComposefsKarg]:
    """Every argument of a command line that names an image, in order. Raises BootEntryError when one is malformed."""
    return [karg for karg in map(parse_karg, split_cmdline(cmdline)) if karg is not None]


def choose_karg(cmdline: str, algorithm: Algorithm) -> ComposefsKarg | None:
    """The one that a repository of `algorithm` goes by: the first `composefs.digest=` of that algorithm, else the first
    `composefs=`. Raises BootEntryError when one of those looked at is malformed."""
    arguments = split_cmdline(cmdline)
    for argument in arguments:
        if argument.startswith(DIGEST_KEY):
            karg = parse_karg(argument)
            if karg is not None and karg.algorithm is algorithm:
                return karg
    return next((parse_karg(argument) for argument in arguments if argument.startswith(LEGACY_KEY)), None)


def differing(running: str, wanted: str) -> list[str]:
    """The arguments that only one of two command lines has, whatever their order; but for those that name an image, and
    those that boot loaders add."""
    return _difference(_own(running), _own(wanted))


def _difference(one: list[str], other: list[str]) -> list[str]:
    counts = Counter(one)
    counts.subtract(Counter(other))
    return [argument for argument, count in counts.items() if count]


def _own(cmdline: str) -> list[str]:
    return [argument for argument in split_cmdline(cmdline)
            if not is_composefs(argument) and not argument.startswith(_LOADER_KEYS)]


def image_kargs(root: Directory, read_file: Callable[[RegularFile], bytes], architecture: str) -> list[str]:
    """What an image asks for, in the order of its files' names. `architecture` is as Go, Rust or uname call it.

    Raises ConfigError for a file that cannot be understood, and NotBootable when there are more than a kernel takes:
    leaving out what an image needs to boot would be worse.
    """
    arguments: list[str] = []
    for path in KARGS_DIRECTORIES:
        directory = root.directory(path)
        for name, node in directory.sorted_entries() if directory else ():
            if not name.endswith(b".toml"):
                continue
            where = (path + b"/" + name).decode(errors="backslashreplace")
            if not isinstance(node, RegularFile):
                raise ConfigError(f"{where} in the image is no regular file")
            if node.size > MAX_KARGS_FILE:
                raise ConfigError(f"{where} in the image has {node.size} bytes, at most {MAX_KARGS_FILE} are read")
            arguments.extend(parse_kargs_file(read_file(node), architecture, where))
            size = len(" ".join(arguments).encode())
            if size > MAX_KARGS:
                raise NotBootable(f"{where} in the image: the kernel arguments have {size} bytes by now, "
                                  f"a kernel takes {MAX_KARGS}", advice="Build the image with fewer arguments.")
    return arguments


def check_machine_kargs(arguments: Iterable[str]) -> None:
    """Raise UsageError for what the machine's owner cannot add to the kernel command line.

    That is what names the image to boot, and what would not arrive as it was written: nothing at all, text that a
    boot entry cannot hold, a quote without an end, and more than a kernel takes.
    """
    size = 0
    for argument in arguments:
        size += len(argument.encode("utf-8", "surrogateescape")) + 1
        why = None
        if not argument.strip():
            why = "it is empty"
        elif _CONTROL.search(argument):
            why = "it holds a control character or is not UTF-8"
        elif argument.count('"') % 2:
            why = "a quote has no end"
        elif any(map(is_composefs, split_cmdline(argument))):
            why = _COMPOSEFS
        elif size > MAX_KARGS:
            why = f"all together have more than {MAX_KARGS} bytes, which is what a kernel takes"
        if why is not None:
            raise UsageError(f"kernel argument {_shown(argument)!r} cannot be taken: {why}")


def check_changed_kargs(arguments: Iterable[str]) -> None:
    """Raise UsageError for what cannot be added to or taken off the command line of a machine that is installed: what
    `check_machine_kargs` refuses, what is `reserved`, and an argument that is given twice."""
    arguments = list(arguments)
    if not arguments:
        raise UsageError("no kernel argument is given")
    check_machine_kargs(arguments)
    seen: set[str] = set()
    for argument in split_cmdline(" ".join(arguments)):
        why = reserved(argument)
        if why is not None:
            raise UsageError(f"kernel argument {_shown(argument)!r} stays as it is: {why}")
        if argument in seen:
            raise UsageError(f"kernel argument {_shown(argument)!r} is given twice")
        seen.add(argument)


def check_length(options: str) -> None:
    """Raise NotBootable for a command line of which a kernel would cut off the end."""
    size = len(options.encode("utf-8", "surrogateescape"))
    if size > MAX_KARGS:
        raise NotBootable(f"the kernel arguments would have {size} bytes, a kernel takes {MAX_KARGS}",
                          advice="'bootcctl kargs show' lists them, with the owner of each.")


def runs_with(running: str, one: str, other: str) -> bool:
    """Whether a kernel with the command line `running` was started with `one` rather than with `other`. Boot loaders
    and kernels add arguments of their own, which say nothing, and so does what somebody typed in a menu."""
    wanted, unwanted = split_cmdline(one), split_cmdline(other)
    known = {*wanted, *unwanted}
    found = [argument for argument in split_cmdline(running) if argument in known]
    if unwanted == found:
        return False
    return wanted == found or len(_difference(found, wanted)) < len(_difference(found, unwanted))


def parse_kargs_file(data: bytes, architecture: str, where: str = "kargs.d") -> list[str]:
    """The arguments of one file, none when it is for other architectures. Raises ConfigError."""
    if len(data) > MAX_KARGS_FILE:
        raise ConfigError(f"{where}: {len(data)} bytes are too many, at most {MAX_KARGS_FILE} are read")
    try:
        table = tomllib.loads(data.decode())
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise ConfigError(f"{where}: {error}") from None
    unknown = sorted(set(table) - {"kargs", "match-architectures"})
    if unknown:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}")
    kargs = _strings(table, "kargs", where)
    if "match-architectures" in table:
        wanted = {_ARCHITECTURES.get(name, name) for name in _strings(table, "match-architectures", where)}
        if _ARCHITECTURES.get(architecture, architecture) not in wanted:
            return []
    arguments: list[str] = []
    for karg in kargs:
        if _CONTROL.search(karg) or karg.count('"') % 2:
            raise ConfigError(f"{where}: {_shown(karg)!r} is no kernel argument")
        arguments.extend(split_cmdline(karg))
    for argument in arguments:
        if is_composefs(argument):
            raise ConfigError(f"{where}: '{_shown(argument)}' cannot be asked for: it names the image to boot")
    return arguments


def _strings(table: dict[str, object], key: str, where: str) -> list[str]:
    value = table.get(key, [])
    if not isinstance(value, list):
        raise ConfigError(f"{where}: {key} is no list")
    texts = [text for text in value if isinstance(text, str)]
    if len(texts) != len(value):
        raise ConfigError(f"{where}: {key} holds something else than strings")
    return texts


def _shown(argument: str) -> str:
    return argument if len(argument) <= 200 else argument[:200] + "…"
