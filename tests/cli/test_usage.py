# SPDX-License-Identifier: Apache-2.0
"""What somebody is told who types what bootcctl does not know, and what happens where nobody listens."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from functools import cache

import pytest

from bootcd.cli import familiar
from bootcd.cli.arguments import Parser
from bootcd.cli.main import main
from bootcd.cli.parser import build_parser
from bootcd.cli.text import counted
from bootcd.errors import NoSpace, NotFound, Unsupported, UsageError
from cli.conftest import BOOTCCTL, Machine
from crash.program import ENVIRONMENT


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str]) -> Callable[[str], list[str]]:
    """The lines about a command line that is wrong."""
    def run(line: str) -> list[str]:
        status = main(shlex.split(line))
        out, err = capfd.readouterr()
        assert (status, out) == (UsageError.exit_status, ""), line
        first, *rest = err.splitlines()
        assert first.startswith("bootcctl: "), line
        assert all(more.startswith("  ") for more in rest), line
        return [first.removeprefix("bootcctl: "), *(more.strip() for more in rest)]

    return run


def test_a_wrong_command_line_is_an_error_like_others(told: Callable[[str], list[str]]) -> None:
    for line, message, advice in (
        ("", "'bootcctl' needs a verb", "'bootcctl --help' lists the verbs."),
        ("kargs", "'bootcctl kargs' needs a verb", "Its verbs are show, add, remove, replace, reload."),
        ("nonsense", "there is no verb 'nonsense'", "'bootcctl --help' lists the verbs."),
        ("satus", "there is no verb 'satus'", "Do you mean 'bootcctl status'?"),
        ("roll-back", "there is no verb 'roll-back'", "Do you mean 'bootcctl rollback'?"),
        ("lint", "there is no verb 'lint'", "Do you mean 'bootcctl container lint'?"),
        ("inspect", "there is no verb 'inspect'",
         "Do you mean 'bootcctl image inspect' or 'bootcctl container inspect'?"),
        ("image remov x", "'bootcctl image' has no verb 'remov'", "Do you mean 'bootcctl image remove'?"),
        ("install vim", "'bootcctl install' has no verb 'vim'", "Its verbs are to-filesystem, to-disk."),
        ("upgrade --chek", "'bootcctl upgrade' has no option --chek", "Do you mean --check?"),
        ("--verson", "'bootcctl' has no option --verson", "Do you mean --version?"),
        ("upgrade -x", "'bootcctl upgrade' has no option -x", "'bootcctl upgrade --help' shows how it is used."),
        ("status 1.0", "'bootcctl status' takes no argument '1.0'", "'bootcctl status --help' shows how it is used."),
        ("pin", "pin: the following arguments are required: DEPLOYMENT", "'bootcctl pin --help' shows how it is used."),
        ("upgrade --check --apply", "upgrade: --apply: not allowed with argument --check",
         "'bootcctl upgrade --help' shows how it is used."),
        ("upgrade --max-rate 1x", "upgrade: --max-rate: '1x' is no size; write for example 512M or 20G",
         "'bootcctl upgrade --help' shows how it is used."),
        # An option that is not known explains more than the argument that is missing because of it.
        ("install to-disk --via-loopback disk.img", "'bootcctl install to-disk' has no option --via-loopback",
         "DISK may be a file; --image-size makes a new one."),
        ("kargs --append=quiet", "'bootcctl kargs' has no option --append", "It is called 'bootcctl kargs add ARG'."),
        ("update", "there is no verb 'update'", "It is called 'bootcctl upgrade'."),
        ("image copy-to-storage", "'bootcctl image' has no verb 'copy-to-storage'",
         familiar.VERBS["image copy-to-storage"]),
    ):
        assert told(line) == [message, advice], line


@cache
def _top() -> Parser:
    parser = build_parser()
    assert isinstance(parser, Parser)
    return parser


def _parser(words: list[str]) -> tuple[Parser, list[str]]:
    """The parser of the verb that `words` begin with, and the rest."""
    parser = _top()
    while words and words[0] in parser.verbs:
        parser, words = parser.verbs[words[0]], words[1:]
    return parser, words


def test_what_others_call_otherwise_is_not_there_and_what_is_named_instead_is() -> None:
    for line in (*familiar.VERBS, *familiar.OPTIONS):
        parser, (rest,) = _parser(line.split())
        assert rest not in parser.verbs, line
        assert rest not in parser._option_string_actions, line
    for line, text in (familiar.VERBS | familiar.OPTIONS).items():
        own, _ = _parser(line.split())
        for quoted in re.findall(r"'bootcctl ([^']+)'", text):
            parser, rest = _parser(quoted.split())
            assert not parser.verbs, text
            assert all(word in parser._option_string_actions or word.isupper() for word in rest), text
        for name in re.findall(r"--[a-z-]+", re.sub(r"'[^']*'", "", text)):
            assert name in (own if not own.verbs else _parser(["upgrade"])[0])._option_string_actions, text


def test_what_was_named_and_is_not_there(machine: Machine) -> None:
    done = machine("container", "attach-uki", "none.efi", "--rootfs", ".")
    assert (done.status, done.out) == (NotFound.exit_status, "")
    assert done.err == "bootcctl: cannot read none.efi: No such file or directory\n"
    done = machine.program.run(machine.path, "--sysroot", "none", "status")
    assert (done.status, done.out) == (0, "No deployments.\nWarning: there is no directory none\n")
    done = machine("policy", "cancel-reboot")
    assert done.status == Unsupported.exit_status
    assert "'shutdown -c'" in done.err


def test_nobody_listens(machine: Machine) -> None:
    def run(redirection: str, *arguments: str) -> tuple[int, str]:
        line = f"{shlex.join([*BOOTCCTL, '--sysroot', 'sysroot', '--esp', 'esp', *arguments])} {redirection}"
        done = subprocess.run(["sh", "-c", line], cwd=machine.path, env={**ENVIRONMENT, "PYTHONUNBUFFERED": ""},
                              capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stderr

    for closed in (">&-", "2>&-", ">&- 2>&- <&-"):
        assert run(closed, "list") == (0, ""), closed
        assert run(closed, "--help") == (0, ""), closed
    assert run(">&- 2>&- <&-", "rollback")[0] == 0
    assert machine("status").status == 0
    machine.sound()
    if os.path.exists("/dev/full"):
        status, err = run(">/dev/full", "list")
        assert (status, err) == (NoSpace.exit_status, "bootcctl: cannot write the output: No space left on device\n")


def test_one_is_no_plural() -> None:
    assert [counted(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]


def test_help_of_every_verb(capfd: pytest.CaptureFixture[str]) -> None:
    def walk(parser: Parser) -> list[Parser]:
        return [parser, *(one for child in parser.verbs.values() for one in walk(child))]

    for parser in walk(_top()):
        with pytest.raises(SystemExit) as left:
            main([*parser.words, "--help"])
        assert left.value.code == 0
        assert capfd.readouterr().out == parser.format_help()
