# SPDX-License-Identifier: Apache-2.0
"""The regular expressions of SELinux file contexts, read into a tree.

    alternation = sequence *("|" sequence)
    sequence    = *(atom *quantifier)
    atom        = "(" alternation ")" / "(?:" alternation ")" / "[" set "]" / "." / "^" / "$" / escape / character
    quantifier  = ("*" / "+" / "?" / "{" m ["," [n]] "}") ["?"]

The dialect is that of composefs-rs: bytes; `.` is every byte but NUL; `\\d`, `\\s`, `\\w` and the POSIX classes are
ASCII. What only a backtracking engine could do (look-around, back references), word boundaries, flags and operations
on sets are refused. As composefs-rs appends the type of the file to the path before it matches, `$` within an
expression never matches.
"""

from __future__ import annotations

import string
from typing import Final, NamedTuple, TypeAlias

LENGTH_MAX: Final = 4096
DEPTH_MAX: Final = 40
QUANTIFIERS_MAX: Final = 3
"""How many quantifiers may follow each other."""
REPEAT_MAX: Final = 1000


class RegexError(ValueError):
    """An expression is malformed, uses what is not supported, or is too large; the message is a predicate such as
    "has an unclosed '('"."""


class Set(NamedTuple):
    members: frozenset[int]


class Sequence(NamedTuple):
    parts: tuple[Tree, ...]


class Choice(NamedTuple):
    choices: tuple[Tree, ...]


class Repeat(NamedTuple):
    atom: Tree
    least: int
    most: int | None


class Start(NamedTuple):
    """The beginning of the path."""


class Never(NamedTuple):
    """What matches nowhere."""


Tree: TypeAlias = Set | Sequence | Choice | Repeat | Start | Never

_CLASSES: Final[dict[str, bytes]] = {
    "alnum": (string.ascii_letters + string.digits).encode(), "alpha": string.ascii_letters.encode(),
    "ascii": bytes(range(128)), "blank": b" \t", "cntrl": bytes([*range(32), 127]), "digit": b"0123456789",
    "graph": bytes(range(33, 127)), "lower": string.ascii_lowercase.encode(), "print": bytes(range(32, 127)),
    "punct": string.punctuation.encode(), "space": b" \t\n\r\v\f", "upper": string.ascii_uppercase.encode(),
    "word": (string.ascii_letters + string.digits + "_").encode(), "xdigit": string.hexdigits.encode(),
}  # fmt: skip
_CLASS_ESCAPES: Final = {"d": "digit", "s": "space", "w": "word"}
_CHARACTER_ESCAPES: Final = {"n": 10, "t": 9, "r": 13, "f": 12, "v": 11, "a": 7}
_ALL: Final = frozenset(range(256))


def parse(text: str) -> Tree:
    """The tree of an expression. Raises RegexError."""
    try:
        return _Reader(text).parse()
    except _PlainBrace:
        return _Reader(text, plain_braces=True).parse()


class _PlainBrace(Exception):
    """A '{' that is no quantifier."""


class _Reader:
    """A recursive descent over one expression.

    composefs-rs gives expressions with a '{' that is no quantifier to PCRE2, which takes it literally; then '.' is no
    newline. `plain_braces` is for such expressions.
    """

    def __init__(self, text: str, plain_braces: bool = False) -> None:
        self._plain_braces = plain_braces
        self._any = _ALL - {10} if plain_braces else _ALL - {0}
        self._text = text
        self._at = 0
        self._depth = 0

    def parse(self) -> Tree:
        if len(self._text) > LENGTH_MAX:
            raise RegexError(f"is longer than {LENGTH_MAX} characters")
        tree = self._alternation()
        if self._at < len(self._text):
            raise RegexError("has an unopened ')'")
        return tree

    def _peek(self) -> str:
        return self._text[self._at:self._at + 1]

    def _take(self, what: str = "") -> str:
        found = self._peek()
        if not found:
            raise RegexError(f"ends within {what}")
        self._at += 1
        return found

    def _alternation(self) -> Tree:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise RegexError(f"nests deeper than {DEPTH_MAX}")
        choices = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            choices.append(self._sequence())
        self._depth -= 1
        return choices[0] if len(choices) == 1 else Choice(tuple(choices))

    def _sequence(self) -> Tree:
        parts: list[Tree] = []
        while self._peek() not in ("", "|", ")"):
            atom = self._atom()
            nested = 0
            while self._peek() in ("*", "+", "?") or self._at_count():
                if (nested := nested + 1) > QUANTIFIERS_MAX:
                    raise RegexError("has too many quantifiers in a row")
                atom = self._quantified(atom)
                if self._peek() == "?":  # prefers fewer, which does not change whether there is a match
                    self._at += 1
            parts.append(atom)
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _at_count(self) -> bool:
        """Whether a counted repetition is next."""
        if self._peek() != "{":
            return False
        if self._text[self._at + 1:self._at + 2] in {*string.digits, ","} and "}" in self._text[self._at:]:
            return True
        if not self._plain_braces:
            raise _PlainBrace
        return False

    def _quantified(self, atom: Tree) -> Tree:
        sign = self._take()
        if sign != "{":
            return Repeat(atom, 1 if sign == "+" else 0, 1 if sign == "?" else None)
        end = self._text.find("}", self._at)
        low, comma, high = self._text[self._at:max(end, self._at)].partition(",")
        low = low or ("0" if high else "")
        if end < 0 or not _is_count(low) or (high and not _is_count(high)):
            raise RegexError("has an unusual '{'")
        self._at = end + 1
        least = int(low)
        most = (int(high) if high else None) if comma else least
        if most is not None and most < least:
            raise RegexError(f"repeats from {least} to {most}")
        return Repeat(atom, least, most)

    def _atom(self) -> Tree:
        sign = self._take()
        if sign == "(":
            return self._group()
        if sign == "[":
            return Set(self._set())
        if sign == ".":
            return Set(self._any)
        if sign == "^":
            return Start()
        if sign == "$":
            return Never()
        if sign in "*+?" or (sign == "{" and not self._plain_braces):
            raise RegexError(f"repeats nothing by {sign!r}")
        if sign == "\\":
            return Set(self._escape())
        raw = sign.encode()
        if len(raw) == 1:
            return Set(frozenset(raw))
        return Sequence(tuple(Set(frozenset((byte,))) for byte in raw))

    def _group(self) -> Tree:
        if self._peek() == "?":
            if self._text[self._at:self._at + 2] != "?:":
                raise RegexError(f"has the group '({self._text[self._at:self._at + 3]}', which is not supported")
            self._at += 2
        tree = self._alternation()
        if self._peek() != ")":
            raise RegexError("has an unclosed '('")
        self._at += 1
        return tree

    def _escape(self) -> frozenset[int]:
        """The bytes that the escape after a backslash stands for."""
        sign = self._take("an escape")
        if sign in _CHARACTER_ESCAPES:
            return frozenset((_CHARACTER_ESCAPES[sign],))
        if sign.lower() in _CLASS_ESCAPES:
            members = frozenset(_CLASSES[_CLASS_ESCAPES[sign.lower()]])
            return members if sign.islower() else _ALL - members
        if sign == "x":
            digits = self._text[self._at:self._at + 2]
            if len(digits) == 2 and all(digit in string.hexdigits for digit in digits):
                self._at += 2
                return frozenset((int(digits, 16),))
        elif sign.isascii() and not sign.isalnum() and sign not in "<>":
            return frozenset(sign.encode())
        raise RegexError(f"has the escape '\\{sign}', which is not supported")

    def _set(self) -> frozenset[int]:
        negated = self._peek() == "^"
        self._at += negated
        members: set[int] = set()
        first = True
        while first or self._peek() != "]":
            first = False
            low = self._member()
            if self._peek() == "-" and self._text[self._at + 1:self._at + 2] not in ("]", "-", ""):
                self._at += 1
                high = self._member()
                if len(low) != 1 or len(high) != 1 or min(low) > min(high):
                    raise RegexError("has an invalid range in a set")
                members.update(range(min(low), min(high) + 1))
            else:
                members |= low
        self._at += 1
        return _ALL - members if negated else frozenset(members)

    def _member(self) -> frozenset[int]:
        sign = self._take("a set")
        if sign == "\\":
            return self._escape()
        if sign == "[":
            return self._posix_class()
        if not sign.isascii():
            raise RegexError("has a character beyond ASCII in a set")
        if sign in "&-~" and self._peek() == sign:
            raise RegexError(f"has the operation '{sign}{sign}' in a set, which is not supported")
        return frozenset(sign.encode())

    def _posix_class(self) -> frozenset[int]:
        end = self._text.find(":]", self._at)
        name = self._text[self._at + 1:max(end, self._at)]
        if self._peek() != ":" or name.lstrip("^") not in _CLASSES:
            raise RegexError("has a set within a set")
        self._at = end + 2
        members = frozenset(_CLASSES[name.lstrip("^")])
        return _ALL - members if name.startswith("^") else members


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 4 and int(text) <= REPEAT_MAX
