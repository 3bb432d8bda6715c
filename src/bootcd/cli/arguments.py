# SPDX-License-Identifier: Apache-2.0
"""An argument parser whose errors are those of the project: one line that says what, and below it what would help."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from ..errors import UsageError


class Parser(argparse.ArgumentParser):
    """Raises UsageError instead of printing a usage and leaving."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)

    @property
    def words(self) -> tuple[str, ...]:
        """The verb that this is the parser of, `()` for the program."""
        return tuple(self.prog.split()[1:])

    @property
    def verbs(self) -> dict[str, Parser]:
        found = (action.choices for action in self._actions if isinstance(action, argparse._SubParsersAction))
        return dict(next(found, {}))

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Nothing is left over: each verb refuses what it does not know, since it knows best what was meant."""
        if args is not None and not self.verbs:
            self._look_for_unknown(args)  # sooner than argparse complains of what is missing beside them
        parsed, left = super().parse_known_args(args, namespace)
        self._look_for_unknown(left)
        if left:
            raise self._wrong(f"takes no argument '{left[0]}'")
        if self.verbs and not hasattr(parsed, "command"):
            raise UsageError(f"'{self.prog}' needs a verb", advice=self._which_verbs())
        return parsed, left

    def error(self, message: str) -> NoReturn:
        where = " ".join(self.words)
        raise UsageError((f"{where}: " if where else "") + message.removeprefix("argument "), advice=self._see_help())

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            from . import familiar

            below = {name: one.verbs for name, one in self.verbs.items()}
            raise UsageError(f"'{self.prog}' has no verb '{value}'" if self.words else f"there is no verb '{value}'",
                             advice=familiar.verb(self.words, str(value), below) or self._which_verbs())
        super()._check_value(action, value)

    def _look_for_unknown(self, args: Iterable[str]) -> None:
        for word in args:
            if word == "--":
                return
            name = word.partition("=")[0]
            like_option = name.startswith("--") or (len(word) == 2 and word[0] == "-" and not word[1].isdigit())
            if like_option and " " not in word and name not in self._option_string_actions:
                from . import familiar

                raise self._wrong(f"has no option {name}",
                                  familiar.option(self.words, name, self._option_string_actions))

    def _wrong(self, what: str, advice: str = "") -> UsageError:
        return UsageError(f"'{self.prog}' {what}", advice=advice or self._see_help())

    def _which_verbs(self) -> str:
        return f"Its verbs are {', '.join(self.verbs)}." if self.words else "'bootcctl --help' lists the verbs."

    def _see_help(self) -> str:
        return f"'{self.prog} --help' shows how it is used."
