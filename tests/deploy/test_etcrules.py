# SPDX-License-Identifier: Apache-2.0
"""Rules for /etc: what patterns match, which rule decides, what a file may say."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.deploy.etcrules import Policy, Rule, Rules, expression_of, parse_rules, read_rules
from bootcd.errors import ConfigError
from bootcd.formats import pathmatch
from bootcd.formats.tree import Directory, RegularFile, Symlink


def rule(pattern: str, policy: Policy = Policy.BOTH, source: str = "x.toml", *, machine: bool = True) -> Rule:
    return Rule(pattern, policy, "", source, machine)


def directory(**files: str) -> Directory:
    root = Directory(0o755)
    for name, text in files.items():
        root.entries[f"{name}.toml".encode()] = RegularFile(0o644, inline=text.encode())
    return root


def inline(node: RegularFile) -> bytes:
    raise AssertionError("it is all inline")


@pytest.mark.parametrize(("pattern", "matching", "others"), [
    ("/etc/ssh", ["ssh", "ssh/a", "ssh/a/b"], ["", "sshd", "a/ssh", "ss"]),
    ("/etc/ssh/", ["ssh", "ssh/a"], ["sshd"]),
    ("/etc", ["", "a", "a/b"], []),
    ("/etc/", ["", "a", "a/b"], []),
    ("/etc/*.conf", ["a.conf", ".conf", "a.conf/b"], ["a/b.conf", "aconf", "a.conf2"]),
    ("/etc/a?c", ["abc", "a.c"], ["ac", "a/c", "abbc"]),
    ("/etc/**/x", ["x", "a/x", "a/b/x", "a/b/x/y"], ["ax", "a/bx"]),
    ("/etc/a/**", ["a/b", "a/b/c"], ["a", "b"]),
    ("/etc/a**z", ["az", "a/b/z", "abcz"], ["a", "bz"]),
    ("/etc/a.b", ["a.b"], ["axb"]),
    ("/etc/a+(b)|{c}^$", ["a+(b)|{c}^$"], ["aa", "b"]),
    (r"/etc/\*\[\?\\", [r"*[?\ ".strip()], ["x"]),
    ("/etc/näme", ["näme"], ["name"]),
    ("/etc/with space\nand line", ["with space\nand line"], ["with"]),
    ("/etc/*", ["line\nbreak", "\udcff"], [""]),
])
def test_patterns(pattern: str, matching: list[str], others: list[str]) -> None:
    rules = Rules([rule(pattern)])
    for path in matching:
        assert rules.deciding(path.encode("utf-8", "surrogateescape")) is rules.rules[0], path
    for path in others:
        assert rules.deciding(path.encode()) is None, path


@given(st.text("ab*?/.", min_size=1, max_size=8), st.text("ab/.", min_size=1, max_size=8))
def test_without_slashes_a_pattern_is_that_of_a_shell(pattern: str, name: str) -> None:
    if "/" in pattern or "/" in name or "**" in pattern or pattern in (".", ".."):
        return
    assert (Rules([rule(f"/etc/{pattern}")]).deciding(name.encode()) is not None) == bool(
        re.fullmatch(fnmatch.translate(pattern), name))


@pytest.mark.parametrize(("pattern", "why"), [
    ("etc/a", "does not begin"), ("/usr/a", "does not begin"), ("/etcetera", "does not begin"),
    ("/etc/../usr", "no path"), ("/etc/a//b", "no path"), ("/etc/./a", "no path"), ("/etc/\0", "no path"),
    ("/etc/[ab]", "kept for later"), ("/etc/a\\", "backslash"), ("/etc/" + "a" * 5000, "longer than"),
])
def test_patterns_that_are_none(pattern: str, why: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"x.toml: the pattern '{pattern}'") + f".*{why}"):
        Rules([rule(pattern)])


@given(st.text(max_size=30))
def test_any_text_is_a_pattern_or_an_error(text: str) -> None:
    try:
        rules = Rules([rule(f"/etc/{text}")])
    except ConfigError:
        return
    assert rules.matching(b"a/b") in ((), rules.rules)


def test_the_last_rule_decides_and_the_others_are_known() -> None:
    rules = Rules([rule("/etc/a"), rule("/etc/*"), rule("/etc/b"), rule("/etc/**")])
    assert [rules.rules.index(one) for one in rules.matching(b"a")] == [3, 1, 0]
    assert rules.deciding(b"a") is rules.rules[3]


def test_rules_of_the_machine_come_after_those_of_the_image() -> None:
    def one(merge: str) -> str:
        return f'[[rule]]\npaths = ["/etc/a"]\nmerge = "{merge}"\nwhy = "so"\n'

    rules = read_rules(directory(a=one("fail"), z=one("both")), inline, directory(b=one("keep-local")), inline)
    assert [(one.policy, one.source, one.machine) for one in rules.matching(b"a")] == [
        ("keep-local", "/etc/bootcd/etc-rules.d/b.toml", True),
        ("both", "/usr/lib/bootcd/etc-rules.d/z.toml of the image", False),
        ("fail", "/usr/lib/bootcd/etc-rules.d/a.toml of the image", False),
    ]
    assert read_rules(None, inline, None, inline).rules == ()


def test_what_is_no_file_of_rules_is_passed_over() -> None:
    machine = directory(a='[[rule]]\npaths = ["/etc/a"]\nmerge = "both"\n')
    machine.entries |= {b"link.toml": Symlink(target=b"a.toml"), b"README": RegularFile(inline=b"{"),
                        b"dir.toml": Directory()}
    rules = read_rules(None, inline, machine, inline)
    assert len(rules.rules) == 1
    assert [warning.rpartition("/")[2] for warning in rules.warnings] == [
        "dir.toml is no regular file and is passed over", "link.toml is no regular file and is passed over"]


def test_rules_in_a_link_are_not_followed_silently() -> None:
    assert read_rules(None, inline, Symlink(target=b"/srv/rules"), inline).warnings == (
        "/etc/bootcd/etc-rules.d is no directory and is passed over",)


def test_large_files_are_read_by_their_owner_and_larger_ones_are_refused() -> None:
    text = b'[[rule]]\npaths = ["/etc/a"]\nmerge = "take-image"\n' + b"#" * 100
    node = RegularFile(0o644, digest=bytes(64), size=len(text))
    machine = Directory(0o755)
    machine.entries[b"a.toml"] = node
    assert read_rules(None, inline, machine, lambda asked: text if asked is node else b"").rules[0].pattern == "/etc/a"
    node.size = 2 << 20
    with pytest.raises(ConfigError, match="larger than"):
        read_rules(None, inline, machine, lambda asked: text)


@pytest.mark.parametrize(("text", "why"), [
    ("[[rule]\n", "x.toml: "), ("\xff", "x.toml"), ("rule = 3", "written as"), ("rule = [3]", "written as"),
    ("[rule]\npaths = []", "written as"),
    ("[[rule]]\nmerge = 'both'", "rule 1: paths"), ("[[rule]]\npaths = '/etc/a'\nmerge = 'both'", "rule 1: paths"),
    ("[[rule]]\npaths = []\nmerge = 'both'", "rule 1: paths"), ("[[rule]]\npaths = ['/etc/a']", "rule 1: merge"),
    ("[[rule]]\npaths = ['/etc/a']\nmerge = 'mine'", "one of keep-local, take-image, both, fail"),
    ("[[rule]]\npaths = ['/etc/a']\nmerge = ['both']", "one of keep-local"),
    ("[[rule]]\npaths = ['/etc/a']\nmerge = 'both'\nwhy = 1", "rule 1: why"),
])
def test_bad_files_are_named(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        parse_rules(text.encode("latin-1"), "x.toml", machine=True)
    assert "bootcd-etc" in caught.value.hint


def test_a_rule_that_means_more_than_is_known_is_passed_over() -> None:
    text = ('later = 1\n[[rule]]\npaths = ["/etc/a"]\nmerge = "take-image"\nonly-if = "x"\n'
            '[[rule]]\npaths = ["/etc/b", "/etc/c"]\nmerge = "fail"\nwhy = "so"\n')
    rules, warnings = parse_rules(text.encode(), "x.toml", machine=False)
    assert rules == [Rule(path, Policy.FAIL, "so", "x.toml", machine=False) for path in ("/etc/b", "/etc/c")]
    assert warnings == ["x.toml: unknown key 'later' is ignored",
                        "x.toml: rule 1 is passed over: it has the unknown key 'only-if'"]


@pytest.mark.parametrize(("limit", "why"), [("WORK_MAX", "together need too much time"), ("ALL_NODES_MAX", "nodes")])
def test_too_many_rules_are_an_error(limit: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pathmatch, limit, 500)
    with pytest.raises(ConfigError, match=why):
        Rules([rule(f"/etc/{'*a' * 20}{number}") for number in range(20)]).matching(b"a" * 50)


def test_an_expression_spans_the_path() -> None:
    assert expression_of("/etc/a*/**/b") == "/etc/a[^/]*/(?:.*/)?b(?:/.*)?"
