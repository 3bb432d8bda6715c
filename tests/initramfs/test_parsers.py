# SPDX-License-Identifier: Apache-2.0
"""The parsers of the initrd's program agree with those in Python, and survive whatever they are given."""

from __future__ import annotations

import os
import subprocess
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.boot.kargs import ComposefsKarg, choose_karg, find_kargs
from bootcd.errors import BootEntryError
from bootcd.formats.fsverity import Algorithm, measure

A512, B512, A256 = "ab" * 64, "cd" * 64, "ef" * 32
FUZZ_SECONDS = os.environ.get("BOOTCD_FUZZ_SECONDS", "3")
"""How long `make test` tries mutations; a night's worth finds more."""


@dataclass(frozen=True)
class Understood:
    """What the C program makes of a command line."""

    found: tuple[ComposefsKarg, ...]
    order: tuple[ComposefsKarg, ...]
    volatile: str
    error: str


def run(parsers: Path, *arguments: str, text: bytes) -> str:
    done = subprocess.run([parsers, *arguments], input=text, capture_output=True, check=False)
    assert done.stderr == b""
    assert done.returncode in (0, 1)
    return done.stdout.decode(errors="surrogateescape")


@pytest.fixture
def read_cmdline(parsers: Path) -> Callable[[str], Understood]:
    def read(cmdline: str) -> Understood:
        lists: dict[str, list[ComposefsKarg]] = {"found": [], "order": []}
        volatile = error = ""
        for line in run(parsers, "cmdline", text=cmdline.encode("utf-8", "surrogateescape")).splitlines():
            kind, _, rest = line.partition(" ")
            if kind == "error":
                error = rest
            elif kind == "volatile":
                volatile = rest
            else:
                version, size, legacy, optional, digest = rest.split()
                assert len(digest) == 2 * int(size)
                lists[kind].append(ComposefsKarg(bytes.fromhex(digest), int(version), optional == "1"))
                assert int(legacy) <= (version == "2")
        return Understood(tuple(lists["found"]), tuple(lists["order"]), volatile, error)
    return read


# --- the kernel command line ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("argument", "karg"), [
    (f"composefs.digest=v1-sha512-12:{A512}", ComposefsKarg(bytes.fromhex(A512), 1)),
    (f"composefs.digest=?v1-sha256-12:{A256}", ComposefsKarg(bytes.fromhex(A256), 1, insecure=True)),
    (f"composefs.digest=v2-sha512-12:{A512.upper()}", ComposefsKarg(bytes.fromhex(A512), 2)),
    (f"composefs={A256}", ComposefsKarg(bytes.fromhex(A256), 2)),
    (f"composefs=?{A512}", ComposefsKarg(bytes.fromhex(A512), 2, insecure=True)),
])
def test_every_form(read_cmdline: Callable[[str], Understood], argument: str, karg: ComposefsKarg) -> None:
    understood = read_cmdline(f"root=UUID=1 rw {argument} quiet\n")
    assert understood.found == (karg,)
    assert understood.error == ""


@pytest.mark.parametrize("argument", [
    "composefs=", "composefs=?", "composefs=abc", f"composefs=??{A256}", "composefs=" + "xy" * 32, f"composefs={A256}0",
    f"composefs={A256}00", "composefs.digest=", f"composefs.digest={A512}", f"composefs.digest=v3-sha256-12:{A256}",
    f"composefs.digest=v1-sha256-16:{A256}", f"composefs.digest=v1-sha512-12:{A256}",
    f"composefs.digest=v1-md5-12:{A256}", f"composefs.digest=v1-?sha256-12:{A256}", f'composefs="{A256}"',
    f'composefs={A256[:-1]}"', f"composefs.digest=v1-sha256-12:{A256[:-1]}g",
])
def test_malformed(read_cmdline: Callable[[str], Understood], argument: str) -> None:
    assert read_cmdline(f"quiet {argument} rw").error.startswith("malformed argument 'composefs")
    with pytest.raises(BootEntryError):
        find_kargs(argument)


def test_others_are_passed_over(read_cmdline: Callable[[str], Understood]) -> None:
    text = f'a="composefs={A256} b" composefs.digests=1 xcomposefs=2 composefs "composefs={A256}" COMPOSEFS=1'
    understood = read_cmdline(text)
    assert understood.found == ()
    assert understood.error == ""
    assert find_kargs(text) == []


def test_order(read_cmdline: Callable[[str], Understood]) -> None:
    """As `choose_karg`: whichever of them the repository has, composefs.digest= first."""
    understood = read_cmdline(
        f"composefs={A512} composefs.digest=v1-sha256-12:{A256} composefs.digest=v1-sha512-12:{B512}")
    assert [karg.digest.hex() for karg in understood.found] == [A512, A256, B512]
    assert [karg.digest.hex() for karg in understood.order] == [A256, B512, A512]


@pytest.mark.parametrize(("first", "second"), [
    (f"composefs={A512}", f"composefs={B512}"), (f"composefs={A512}", f"composefs=?{A512}"),
    (f"composefs.digest=v1-sha512-12:{A512}", f"composefs.digest=v1-sha512-12:{B512}"),
    (f"composefs={A512}", f"composefs.digest=v2-sha512-12:{B512}"),
])
def test_a_contradiction(read_cmdline: Callable[[str], Understood], first: str, second: str) -> None:
    for text in (f"{first} {second}", f"{second} quiet {first}"):
        assert read_cmdline(text).error.startswith("it names the image twice, differently; the second time with 'compo")


def test_the_same_twice(read_cmdline: Callable[[str], Understood]) -> None:
    assert len(read_cmdline(f"composefs={A512} quiet composefs={A512}").found) == 1
    assert len(read_cmdline(f"composefs={A512} composefs.digest=v2-sha512-12:{A512}").found) == 2


@pytest.mark.parametrize(("cmdline", "volatile"), [
    ("", "0 0"), ("systemd.volatile=yes", "1 0"), ("systemd.volatile", "1 0"), ("systemd.volatile=1", "1 0"),
    ("systemd.volatile=state", "2 0"), ("systemd.volatile=overlay", "3 0"), ("systemd.volatile=off", "0 0"),
    ("systemd.volatile=no systemd.volatile=overlay", "3 0"), ("systemd.volatile=state systemd.volatile", "2 0"),
    ("systemd.volatile=perhaps", "0 1"), ("systemd.volatile=", "0 1"), ("systemd.volatiles=yes", "0 0"),
])
def test_volatile(read_cmdline: Callable[[str], Understood], cmdline: str, volatile: str) -> None:
    assert read_cmdline(cmdline).volatile == volatile


digests = st.sampled_from([A512, B512, A256, "01" * 32, "9" * 63, "", "AB" * 64, "g" * 64])
words = st.one_of(
    st.builds("{}{}{}".format, st.sampled_from(["composefs=", "composefs.digest="]),
              st.sampled_from(["", "?", "??"]), digests),
    st.builds("composefs.digest={}v{}-{}-12:{}".format, st.sampled_from(["", "?"]), st.sampled_from("0123"),
              st.sampled_from(["sha256", "sha512", "md5"]), digests),
    st.sampled_from(["quiet", 'a="b c"', '"', "composefs", '"composefs=', "systemd.volatile=yes", "\u00a0", "ä",
                     "x\u2028y"]),
    st.text(max_size=8).filter(lambda text: "\0" not in text),
)
lines = st.builds(lambda pairs: "".join(word + blank for word, blank in pairs),
                  st.lists(st.tuples(words, st.sampled_from([" ", "  ", "\t", "\n", "\v", "\f", "\r", ""])),
                           max_size=6))


@settings(deadline=None, max_examples=200)
@given(cmdline=lines)
def test_agrees_with_python(parsers: Path, cmdline: str) -> None:
    encoded = cmdline.encode("utf-8", "surrogatepass")
    output = run(parsers, "cmdline", text=encoded)
    try:
        wanted = find_kargs(cmdline)
    except BootEntryError:
        assert output.startswith("error ")
        return
    kinds: dict[tuple[int, int], set[ComposefsKarg]] = {}
    for karg in wanted:
        kinds.setdefault((karg.version, len(karg.digest)), set()).add(karg)
    if output.startswith("error "):
        assert "twice" in output
        assert any(len(kargs) > 1 for kargs in kinds.values())
        return
    assert all(len(kargs) == 1 for kargs in kinds.values())
    found = [line.split() for line in output.splitlines() if line.startswith("order ")]
    kargs = [ComposefsKarg(bytes.fromhex(line[5]), int(line[1]), line[4] == "1") for line in found]
    assert set(kargs) == set(wanted)
    for algorithm in Algorithm:
        chosen = choose_karg(cmdline, algorithm)
        mine = next((karg for karg in kargs if karg.algorithm is algorithm), None)
        # Python may also answer with a composefs= of the other algorithm, which no repository of this one has.
        assert mine == chosen or (mine is None and chosen is not None and chosen.algorithm is not algorithm) or (
            mine is not None and chosen is not None and chosen.algorithm is not algorithm)


# --- the configuration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "shown"), [
    ("", "0 bind bind"),
    ("# nothing\n\n   \t\n", "0 bind bind"),
    ("[root]\ntransient = true\n", "1 bind bind"),
    ("[etc]\ntransient = true # gone at the next boot\n[var]\nmount = 'none'", "0 transient none"),
    ('[etc]\nmount="overlay"\n[var]\r\nmount =\t"bind"\r\n', "0 overlay bind"),
    ('[etc]\nmount = "bind"\ntransient = true\n', "0 bind bind"),
    ("[root]\ntransient = false\n[etc]\ntransient = false\n", "0 bind bind"),
    ('etc.mount = "transient"\nroot . transient = true\n', "1 transient bind"),
    ('[ etc ]\nmount = "volatile"\n[var]\nmount = "root"\n', "0 transient none"),
])
def test_configuration(parsers: Path, text: str, shown: str) -> None:
    tomllib.loads(text)  # all of it is TOML
    assert run(parsers, "config", text=text.encode()) == shown + "\n"


@pytest.mark.parametrize(("text", "line", "problem"), [
    ("[etc]\nmount = \"sideways\"\n", 2, "no such way to mount: 'sideways'"),
    ("[etc]\nmount = bind\n", 2, "a string is expected"),
    ("[etc]\nmount = \"bi\\u006ed\"\n", 2, "no such way to mount"),
    ("[etc]\nmount = \"\"\"bind\"\"\"\n", 2, "no such way to mount: ''"),
    ("[etc]\nmount = \"bind\n", 2, "a string has no end"),
    ("\n[root]\ntransient = yes\n", 3, "true or false is expected"),
    ("[root]\ntransient = \"true\"\n", 2, "true or false is expected"),
    ("[root]\ntransient = truely\n", 2, "true or false is expected"),
    ("[root]\ntransient = true true\n", 2, "something is left at the end of the line"),
    ("[root]\ntransient\n", 2, "'=' is expected"),
    ("[root\n", 1, "']' is expected"),
    ("[root] x\n", 1, "something is left at the end of the line"),
    ("[[root]]\n", 1, "a key of letters, digits, '-' and '_' is expected"),
    ("[etc]\ntransient = true\ntransient = true\n", 3, "a second value for 'etc.transient'"),
    ("etc.transient = true\n[etc]\ntransient = true\n", 3, "a second value for 'etc.transient'"),
    ("etc = { transient = true }\n", 1, "an inline table is not understood; write a table"),
    ("[root]\n\x00\n", 2, "a control character"),
    ("= 1\n", 1, "a key of letters, digits, '-' and '_' is expected"),
    ("x" * 100 + " = 1\n", 1, "a key is too long"),
])
def test_refused_configuration(parsers: Path, text: str, line: int, problem: str) -> None:
    assert run(parsers, "config", text=text.encode()) == f"error {line} {problem}\n"


def test_unknown_keys_are_warnings(parsers: Path) -> None:
    text = '[etc]\ncolour = "red"\n[sysroot]\nreadonly = true\n[var]\nmount = "none"\n'
    assert run(parsers, "config", text=text.encode()) == \
        "warning 2 etc.colour\nwarning 4 sysroot.readonly\n0 bind none\n"


# --- digests ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("size", [0, 1, 55, 56, 111, 112, 4095, 4096, 4097, 64 * 4096 - 1, 64 * 4096, 64 * 4096 + 1,
                                  128 * 4096, 128 * 4096 + 1, 64 * 64 * 4096, 64 * 64 * 4096 + 4097])
def test_digest(parsers: Path, tmp_path: Path, algorithm: Algorithm, size: int) -> None:
    """Both sides of every edge: blocks, full nodes of the tree, levels."""
    content = (bytes(range(251)) * (size // 251 + 1))[:size]
    path = tmp_path / "file"
    path.write_bytes(content)
    with path.open("rb") as file:
        done = subprocess.run([parsers, "digest", str(algorithm.digest_size)], stdin=file, capture_output=True,
                              text=True, check=True)
    assert done.stdout == measure(content, algorithm).hex() + "\n"


# --- noise ------------------------------------------------------------------------------------------------------------


def test_mutations(parsers: Path, tmp_path: Path) -> None:
    seeds = {
        "one": f'root=UUID=1 rw composefs.digest=v1-sha512-12:{A512} composefs=?{A256} systemd.volatile=state "a b"\n',
        "two": '# both\n[root]\ntransient = true\n[etc]\nmount = "overlay"\ntransient = false\n[var]\n'
               "mount = 'none'\nother.key = 1\n",
    }
    for name, text in seeds.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run([parsers, "fuzz", FUZZ_SECONDS, "7", *(tmp_path / name for name in seeds)],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10_000
