# SPDX-License-Identifier: Apache-2.0
"""Kernel arguments that name an image, and those that an image asks for."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.boot.kargs import (
    ComposefsKarg,
    check_changed_kargs,
    check_length,
    check_machine_kargs,
    choose_karg,
    differing,
    find_kargs,
    image_kargs,
    karg_for,
    parse_kargs_file,
    runs_with,
    split_cmdline,
)
from bootcd.errors import BootEntryError, ConfigError, NotBootable, UsageError
from bootcd.formats.erofs.layout import Version
from bootcd.formats.fsverity import Algorithm
from bootcd.formats.tree import Directory, RegularFile

D256, D512 = b"\xab" * 32, b"\xcd" * 64


@pytest.mark.parametrize(("running", "wanted", "expected"), [
    ("a b", "b a", []),
    ("initrd=\\x a composefs=1", "a composefs.digest=v1-2", []),
    ("BOOT_IMAGE=/x a", "a b", ["b"]),
    ("a a b", "a b", ["a"]),
    ('x="1 2" y', 'x="1 3" y', ['x="1 2"', 'x="1 3"']),
    ("", "", []),
])
def test_differing(running: str, wanted: str, expected: list[str]) -> None:
    assert differing(running, wanted) == expected


@pytest.mark.parametrize(("running", "one", "other", "expected"), [
    ("c a b", "c a b", "c a", True),
    ("c a", "c a b", "c a", False),
    ("c a", "c a", "c a b", True),
    ("c a b", "c a", "c a b", False),
    ("initrd=\\x c a b quiet", "c a b", "c a", True),  # the loader has added the first, somebody the last
    ("BOOT_IMAGE=/x c a", "c a b", "c a", False),
    ("c console=1 console=0", "c console=1 console=0", "c console=0 console=1", True),  # the last one decides
    ("c console=0 console=1", "c console=1 console=0", "c console=0 console=1", False),
    ("c a b d", "c a b d e", "c", True),  # somebody took one away in the menu
    ("c", "c x", "c y", False),
    ("c a", "c a", "c a", False),
    ("", "c a", "c", False),
])
def test_which_arguments_the_kernel_runs_with(running: str, one: str, other: str, expected: bool) -> None:
    assert runs_with(running, one, other) is expected


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("xyz")))
def test_never_both(one: list[str], other: list[str], added: list[str]) -> None:
    running = " ".join([*added, *one])
    assert runs_with(running, " ".join(one), " ".join(other)) is (one != other)
    assert not runs_with(running, " ".join(other), " ".join(one))


@pytest.mark.parametrize(("digest", "version", "secure", "karg"), [
    (D512, Version.V1, True, f"composefs.digest=v1-sha512-12:{D512.hex()}"),
    (D512, Version.V0, False, f"composefs.digest=?v1-sha512-12:{D512.hex()}"),
    (D256, Version.V1, True, f"composefs.digest=v1-sha256-12:{D256.hex()}"),
    (D256, Version.V2, True, f"composefs={D256.hex()}"),
    (D512, Version.V2, False, f"composefs=?{D512.hex()}"),
])
def test_forms(digest: bytes, version: Version, secure: bool, karg: str) -> None:
    assert karg_for(digest, version, Algorithm.of_digest(digest), secure) == karg
    assert find_kargs(f"quiet {karg} rw") == [ComposefsKarg(digest, 2 if version == Version.V2 else 1, not secure)]


def test_the_explicit_form_of_version_2_is_read() -> None:
    assert find_kargs(f"composefs.digest=v2-sha256-12:{D256.hex()}") == [ComposefsKarg(D256, 2)]


def test_a_digest_of_another_length_is_refused() -> None:
    with pytest.raises(BootEntryError, match="length of sha512"):
        karg_for(D256, 1, Algorithm.SHA512, True)


@pytest.mark.parametrize("argument", [
    "composefs=", "composefs=abc", "composefs=??" + "ab" * 32, "composefs=" + "xy" * 32, "composefs=" + "ab" * 33,
    "composefs.digest=v3-sha256-12:" + "ab" * 32, "composefs.digest=v1-sha256-16:" + "ab" * 32,
    "composefs.digest=v1-sha512-12:" + "ab" * 32, "composefs.digest=v1-md5-12:ab", "composefs.digest=",
    'composefs="' + "ab" * 32 + '"', "composefs=" + "ab" * 31 + "a ",
])
def test_malformed_arguments(argument: str) -> None:
    with pytest.raises(BootEntryError, match="malformed kernel argument"):
        find_kargs(argument)


def test_which_argument_a_repository_goes_by() -> None:
    both = f"composefs={'01' * 64} " + " ".join(karg_for(digest, 1, Algorithm.of_digest(digest), True)
                                                for digest in (D256, D512))
    assert choose_karg(both, Algorithm.SHA512) == ComposefsKarg(D512, 1)
    assert choose_karg(both, Algorithm.SHA256) == ComposefsKarg(D256, 1)
    assert choose_karg(f"quiet composefs=?{D512.hex()}", Algorithm.SHA256) == ComposefsKarg(D512, 2, insecure=True)
    assert choose_karg("quiet composefs.other=1", Algorithm.SHA512) is None


def test_quotes_keep_blanks_and_stay() -> None:
    assert split_cmdline(' a\t"b c"d=" e" \n f="g') == ["a", '"b c"d=" e"', 'f="g']
    assert split_cmdline('a\u00a0b "" c') == ["a\u00a0b", '""', "c"]


@settings(deadline=None, max_examples=100)
@given(st.text('ab="? \t\n', max_size=40))
def test_tokens_hold_everything_but_the_blanks(cmdline: str) -> None:
    tokens = split_cmdline(cmdline)
    assert "".join(tokens) == "".join(
        char for at, char in enumerate(cmdline) if char not in " \t\n" or cmdline[:at].count('"') % 2)
    assert split_cmdline(" ".join(tokens)) == tokens


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=60))
def test_any_command_line(text: str) -> None:
    for cmdline in (text, "composefs=" + text, "composefs.digest=v1-" + text):
        with contextlib.suppress(BootEntryError):
            find_kargs(cmdline)


@settings(deadline=None, max_examples=50)
@given(st.binary(min_size=32, max_size=32) | st.binary(min_size=64, max_size=64), st.integers(1, 2), st.booleans())
def test_arguments_come_back(digest: bytes, version: int, insecure: bool) -> None:
    karg = ComposefsKarg(digest, version, insecure)
    assert find_kargs(str(karg)) == [karg]


def file(text: str) -> RegularFile:
    return RegularFile(inline=text.encode())


def image(files: dict[str, RegularFile | Directory]) -> Directory:
    root = Directory()
    for path, node in files.items():
        here = root
        *parents, name = path.strip("/").encode().split(b"/")
        for part in parents:
            child = here.entries.setdefault(part, Directory())
            assert isinstance(child, Directory)
            here = child
        here.entries[name] = node
    return root


def read(node: RegularFile) -> bytes:
    assert node.inline is not None
    return node.inline


def test_arguments_of_an_image() -> None:
    root = image({
        "/usr/lib/bootcd/kargs.d/00-ours.toml": file('kargs = ["ours"]'),
        "/usr/lib/bootc/kargs.d/20-b.toml": file('kargs = ["b=1 c", "d=\\"x y\\""]'),
        "/usr/lib/bootc/kargs.d/10-a.toml": file('kargs = ["a"]\nmatch-architectures = ["x86_64"]'),
        "/usr/lib/bootc/kargs.d/30-arm.toml": file('kargs = ["arm"]\nmatch-architectures = ["aarch64"]'),
        "/usr/lib/bootc/kargs.d/README": file("not read"),
    })
    assert image_kargs(root, read, "amd64") == ["a", "b=1", "c", 'd="x y"', "ours"]
    assert image_kargs(root, read, "arm64")[2:] == ['d="x y"', "arm", "ours"]
    assert image_kargs(Directory(), read, "amd64") == []


@pytest.mark.parametrize(("text", "message"), [
    ("kargs = 'a'", "kargs is no list"), ("kargs = [1]", "something else than strings"), ("extra = 1", "key 'extra'"),
    ("kargs = [", "x.toml"), ("a = " + "[" * 5000, "x.toml"), ('kargs = ["a\\nb"]', "no kernel argument"),
    ("kargs = ['a=\"b']", "no kernel argument"), ("kargs = ['composefs=1']", "names the image to boot"),
    ("kargs = ['a composefs.digest=1']", "names the image to boot"), ("a = " + "9" * 5000, "x.toml"),
])
def test_files_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_kargs_file(text.encode(), "amd64", "x.toml")


def test_more_than_a_kernel_takes() -> None:
    many = {f"/usr/lib/bootc/kargs.d/{n}.toml": file(f'kargs = ["{"x" * 1000}"]') for n in range(3)}
    with pytest.raises(NotBootable, match=r"2\.toml in the image: the kernel arguments have 3002 bytes"):
        image_kargs(image(many), read, "amd64")
    with pytest.raises(UsageError, match="2048 bytes"):
        check_machine_kargs(["x" * 1000] * 3)


@pytest.mark.parametrize(("argument", "why"), [
    ("", "empty"), (" ", "empty"), ("quiet\nlinux /EFI/evil", "control character"), ("a\udcff", "not UTF-8"),
    ('"open', "quote"), ("composefs.digest=?v1-sha512-12:abc", "which image"), ("a composefs=1", "which image"),
    ('"composefs=1"', "which image"),
])
def test_what_the_owner_of_the_machine_cannot_add(argument: str, why: str) -> None:
    check_machine_kargs(["quiet", 'a="b c"', "console=ttyS0,115200 rw"])
    with pytest.raises(UsageError, match=why):
        check_machine_kargs(["quiet", argument])


@pytest.mark.parametrize(("arguments", "why"), [
    ([], "no kernel argument is given"), ([""], "empty"), (["a", 'b="'], "quote"), (["composefs=1"], "which image"),
    (["quiet", "root=LABEL=x"], "'root=LABEL=x' stays as it is: it names the root file system"),
    (['"root=/dev/sda"'], "root file system"), (["quiet root=x"], "root file system"),
    (["a", "b", "a"], "'a' is given twice"), (["a b", "b"], "'b' is given twice"),
])
def test_what_cannot_be_changed_once_the_machine_is_installed(arguments: list[str], why: str) -> None:
    check_changed_kargs(["rootflags=subvol=x", "a root", 'dyndbg="file x +p"'])
    with pytest.raises(UsageError, match=why):
        check_changed_kargs(arguments)


def test_a_command_line_that_a_kernel_would_cut_off() -> None:
    check_length("x" * 2048)
    with pytest.raises(NotBootable, match="2049 bytes"):
        check_length("x" * 2049)
    with pytest.raises(NotBootable):
        check_length("ä" * 1025)


def test_files_of_the_wrong_kind() -> None:
    with pytest.raises(ConfigError, match=r"10-a\.toml in the image is no regular file"):
        image_kargs(image({"/usr/lib/bootc/kargs.d/10-a.toml": Directory()}), read, "amd64")
    with pytest.raises(ConfigError, match="at most"):
        image_kargs(image({"/usr/lib/bootc/kargs.d/10-a.toml": RegularFile(size=1 << 30)}), read, "amd64")


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=100) | st.text('kargs=["]\n -x', max_size=40).map(str.encode))
def test_any_file(data: bytes) -> None:
    with contextlib.suppress(ConfigError):
        parse_kargs_file(data, "amd64")
