# SPDX-License-Identifier: Apache-2.0
"""os-release(5): what an operating system calls itself.

One KEY=value on a line, the value quoted as in a shell: "..." with backslash escapes, '...' verbatim, both may be
joined. Lines that start with '#' are comments. The last of several lines with the same key counts; if its quotes do
not end, the key is as if absent. Nothing here fails: a name that cannot be read must not keep a system from booting.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_SIZE = 64 * 1024
"""Bytes that are looked at; what follows is ignored."""


@dataclass(frozen=True, slots=True)
class OsRelease:
    """The assignments of an os-release file."""

    values: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes) -> OsRelease:
        """Never raises; bytes that are no UTF-8 become U+FFFD."""
        raw: dict[str, str] = {}
        for line in data[:MAX_SIZE].decode(errors="replace").split("\n"):
            line = line.strip()
            key, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                raw[key] = value.strip()
        values = {key: unquote(value) for key, value in raw.items()}
        return cls({key: value for key, value in values.items() if value is not None})

    def first(self, *keys: str) -> str | None:
        """The value of the first of these keys that is there and not empty."""
        return next((self.values[key] for key in keys if self.values.get(key)), None)

    @property
    def title(self) -> str:
        """What to call the system in a menu."""
        return self.first("PRETTY_NAME", "NAME", "ID") or "Linux"

    @property
    def version(self) -> str | None:
        """Which version of the system or, better, of its image this is."""
        return self.first("IMAGE_VERSION", "VERSION_ID", "VERSION", "BUILD_ID")

    @property
    def label(self) -> str:
        """Title and version in one, as composefs-boot labels a UKI."""
        version = self.first("VERSION_ID", "VERSION")
        return f"{self.title} {version}" if version else self.title


def unquote(text: str) -> str | None:
    """Remove the quotes of a shell word; None when one of them does not end."""
    parts: list[str] = []
    quote = ""
    characters = iter(text)
    for char in characters:
        if quote == "'":
            if char == "'":
                quote = ""
            else:
                parts.append(char)
        elif char == "\\":
            escaped = next(characters, None)
            if escaped is None:
                return None
            parts.append(escaped)
        elif char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        else:
            parts.append(char)
    return None if quote else "".join(parts)
