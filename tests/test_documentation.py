# SPDX-License-Identifier: Apache-2.0
"""The manual pages say what the source does, no less and no more; links lead somewhere; pages can be read."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path

import pytest

from bootcd import config, errors
from bootcd.boot import entries
from bootcd.boot.esp import CONFIG, KERNELS, KEYS, MARKER, TEMPORARY_PREFIX, TEMPORARY_SUFFIX
from bootcd.boot.partitions import XBOOTLDR_TYPE
from bootcd.cli import commands
from bootcd.cli.parser import build_parser
from bootcd.deploy import etc, etcrules
from bootcd.deploy.etcreset import ASIDE
from bootcd.deploy.etcrules import Policy
from bootcd.deploy.plan import Action
from bootcd.deploy.records import EtcReport, Record, encode
from bootcd.errors import EspFull, NotFound, ReadOnly
from bootcd.ops import adddigests, decisions, diagnosis, fromrootfs, inspect, lint, results, uki
from bootcd.ops.lints.table import LINTS
from kit.os_images import os_image

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "man").glob("*.[1-8]"))
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]

FOREIGN_OPTIONS = {"--print-digest-only", "--now", "--system", "--dest", "--object-path", "--method", "--wipe-slot",
                   "--secureboot-private-key", "--secureboot-certificate", "--tpm2-device", "--tpm2-pcrs", "--esp-path",
                   "--all", "--preserve-digests", "--reboot-sentinel", "--collector", "--no-block",
                   "--show", "--annotation"}
"""Options of other programs in examples."""
BOOTC_LINTS = ("var-run", "etc-usretc", "bootc-kargs", "kernel", "utf8", "api-base-directories", "baseimage-root",
               "baseimage-composefs", "buildah-injected", "var-log", "var-tmpfiles", "sysusers", "nonempty-boot",
               "nonempty-run-tmp")
"""What 'bootc container lint --list' has (bootc 1.16)."""
PRINTED = (adddigests.__name__, decisions.__name__, diagnosis.__name__, fromrootfs.__name__, inspect.__name__,
           lint.__name__, uki.__name__,
           results.__name__)
"""Modules whose values --json prints."""
NO_ERRORS = {0, 77, 141}
"""Exit statuses that no error has: success, nothing to upgrade to, nobody reads the output."""


# --- reading a page ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """A paragraph with a tag (`.TP`), or running text without one, below its section."""

    section: str
    tag: str
    text: str


@cache
def page(name: str) -> tuple[Item, ...]:
    """The items of a page in order, without markup."""
    items: list[Item] = []
    section = tag = ""
    body: list[str] = []
    pending = False

    def close() -> None:
        if tag or body:
            items.append(Item(section, tag, " ".join(body)))
        body.clear()

    for line in (ROOT / "man" / name).read_text().splitlines():
        macro, _, rest = line.partition(" ")
        if line.startswith('.\\"') or macro in (".TH", ".nh", ".ad"):
            continue
        if macro in (".SH", ".SS"):
            close()
            section, tag = plain(rest), ""
        elif macro in (".TP", ".IP"):
            close()
            tag, pending = "", macro == ".TP"
        elif macro in (".RS", ".RE", ".PP", ".EX", ".EE", ".nf", ".fi"):
            continue
        else:
            text = text_of(line)
            if pending:
                tag = (tag + text).strip()
                pending = line.endswith("\\c")
            else:
                body.append(text)
    close()
    return tuple(items)


def text_of(line: str) -> str:
    macro, _, rest = line.partition(" ")
    if not line.startswith("."):
        return plain(line)
    glue = " " if macro in (".B", ".I") else ""
    return glue.join(plain(word) for word in arguments(rest))


def arguments(rest: str) -> list[str]:
    """The arguments of a macro: words, or in double quotes."""
    return [quoted or word for quoted, word in re.findall(r'"([^"]*)"?|(\S+)', rest)]


def plain(text: str) -> str:
    for mark, meaning in (("\\-", "-"), ("\\(dq", '"'), ("\\(bu", "*"), ("\\e", "\\"), ("\\&", ""), ("\\c", "")):
        text = text.replace(mark, meaning)
    return re.sub(r"\\f[BIPR]", "", text)


def items_of(name: str, section: str) -> list[Item]:
    found = [item for item in page(name) if item.section == section]
    assert found, f"{name} has no section {section}"
    return found


def whole(name: str) -> str:
    return "\n".join(f"{item.tag} {item.text}" for item in page(name))


# --- bootcctl(8) ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verb:
    words: tuple[str, ...]
    options: tuple[argparse.Action, ...]
    positionals: tuple[argparse.Action, ...]
    group: bool


def verbs(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[Verb]:
    options, positionals, below = [], [], {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            below = dict(action.choices)
        elif action.help == argparse.SUPPRESS:
            continue  # stands in the main help
        elif action.option_strings:
            options.append(action)
        else:
            positionals.append(action)
    yield Verb(words, tuple(options), tuple(positionals), bool(below))
    for name, child in below.items():
        yield from verbs(child, (*words, name))


VERBS = list(verbs(build_parser()))
LEAVES = [verb for verb in VERBS if not verb.group]


def documented() -> dict[str, str]:
    """What the page says below each tag that begins with `bootcctl`, that tag included."""
    found: dict[str, str] = {}
    name = section = ""
    for item in page("bootcctl.8"):
        if item.section != section:
            name, section = "", item.section
        if item.tag.startswith("bootcctl "):
            words = item.tag.removeprefix("bootcctl ").split()
            name = next((" ".join(words[:count]) for count in (2, 1)
                         if any(verb.words == tuple(words[:count]) for verb in LEAVES)), item.tag)
            assert name not in found
            found[name] = ""
        if name:
            found[name] += f"{item.tag}\n{item.text}\n"
    return found


def test_every_verb_has_its_entry_and_every_entry_its_verb() -> None:
    assert documented().keys() == {" ".join(verb.words) for verb in LEAVES}


@pytest.mark.parametrize("verb", LEAVES, ids=lambda verb: " ".join(verb.words))
def test_a_verb_says_all_its_options_and_arguments(verb: Verb) -> None:
    text = documented()[" ".join(verb.words)]
    synopsis = text.partition("\n")[0]
    for option in verb.options:
        if "--help" in option.option_strings:
            continue
        for name in option.option_strings:
            assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text), f"{name} is not documented"
        for choice in option.choices or ():
            assert choice in text, f"{option.option_strings[0]} {choice} is not documented"
        if option.nargs != 0 and not option.choices:
            metavar = option.metavar or option.dest.upper()
            metavar = " ".join(metavar) if isinstance(metavar, tuple) else metavar
            assert f"{option.option_strings[0]} {metavar}" in text
        if option.nargs != 0 and option.choices:
            assert f"Default: {option.default}." in text
    for positional in verb.positionals:
        assert isinstance(positional.metavar, str)
        shown = {"?": f"[{positional.metavar}]", "+": f"{positional.metavar}..."}.get(str(positional.nargs))
        assert re.search(rf"(?<!\w){re.escape(shown or positional.metavar)}", synopsis), synopsis


@pytest.mark.parametrize("verb", LEAVES, ids=lambda verb: " ".join(verb.words))
def test_an_entry_names_no_option_that_the_verb_lacks(verb: Verb) -> None:
    text = documented()[" ".join(verb.words)]
    own = {name for option in (*verb.options, *VERBS[0].options) for name in option.option_strings}
    referred = set(re.findall(r"bootcctl [a-z -]*?(--[a-z-]+)", text))
    tags = "\n".join(line for line in text.splitlines() if line.startswith(("bootcctl ", "-")))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", tags))
    assert named - own - referred == set()


def test_global_options() -> None:
    tags = " ".join(item.tag for item in items_of("bootcctl.8", "GLOBAL OPTIONS"))
    names = {name for option in VERBS[0].options for name in option.option_strings}
    assert set(re.findall(r"(?<!\S)--?[a-z-]+", tags)) == names
    assert "/sysroot" in whole("bootcctl.8")


def test_no_page_names_an_option_that_does_not_exist() -> None:
    known = {name for verb in VERBS for option in verb.options for name in option.option_strings}
    for path in PAGES:
        if path.name == "bootcd-setup-root.8":
            continue  # a program of its own: tests/initramfs/test_parts.py
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", whole(path.name)))
        assert named <= known | FOREIGN_OPTIONS, path.name


def test_exit_statuses_are_those_of_the_errors() -> None:
    said = {int(item.tag): set(re.findall(r"\b[A-Z][A-Za-z]+\b", item.text)) & _error_names()
            for item in items_of("bootcctl.8", "EXIT STATUS") if item.tag}
    real: dict[int, set[str]] = {status: set() for status in NO_ERRORS}
    for error in errors.all_errors():
        real.setdefault(error.exit_status, set()).add(error.__name__)
    assert said == real
    assert commands.NO_UPDATE in NO_ERRORS


def _error_names() -> set[str]:
    return {error.__name__ for error in errors.all_errors()}


def test_json_keys_are_those_of_the_results() -> None:
    text = " ".join(f"{item.tag} {item.text}" for item in items_of("bootcctl.8", "JSON"))
    said = set(re.findall(r"[a-z]+(?:-[a-z]+)*", text))
    for name, kind in {**vars(lint), **vars(adddigests), **vars(inspect), **vars(uki), **vars(fromrootfs),
                       **vars(results), **vars(diagnosis), **vars(decisions)}.items():
        if getattr(kind, "__module__", "") not in PRINTED or kind in (uki.UkiRequest,):  # which is asked, not told
            continue
        if is_dataclass(kind) and isinstance(kind, type):
            keys = {field.name.replace("_", "-") for field in fields(kind)}
            assert keys <= said, f"{name}: {sorted(keys - said)}"


def test_environment_variables_are_documented() -> None:
    items = items_of("bootcctl.8", "ENVIRONMENT") + items_of("bootcd.8", "ENVIRONMENT")
    said = set(re.findall(r"\w+", " ".join(item.tag for item in items)))
    read: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        read |= set(re.findall(r"""(?:environ(?:\.get\(|\[)|getenv\()\s*["'](\w+)["']""", path.read_text()))
    proxies = {"https_proxy", "http_proxy", "all_proxy", "no_proxy"}
    assert said == read | proxies | {"SSL_CERT_FILE"}


# --- bootcd-lint(7) ---------------------------------------------------------------------------------------------------


def test_the_lints_are_those_of_the_table() -> None:
    said = {item.tag: item.text for item in items_of("bootcd-lint.7", "LINTS")}
    real = {}
    for one in LINTS:
        marks = ["fatal" if one.fatal else "warning", *(["fixed"] if one.fix else []),
                 *(["of bootc"] if one.source == "bootc" else [])]
        real[f"{one.name} ({', '.join(marks)})"] = f"{one.what[0].upper()}{one.what[1:]}. {one.why}"
    assert said == real
    assert set(BOOTC_LINTS) == {one.name for one in LINTS if one.source == "bootc"}


# --- bootcd.toml(5) ---------------------------------------------------------------------------------------------------


def test_settings_are_documented_with_their_defaults() -> None:
    said: dict[str, str] = {}
    for item in page("bootcd.toml.5"):
        if item.section.startswith("[") and item.tag:
            key = f"{item.section.strip('[]')}_{item.tag.partition('=')[0]}".replace("-", "_")
            found = re.search(r"Default:\s+([^\s,]+?)[.,]?(?:\s|$)", item.text)
            assert found, f"{item.section} {item.tag} has no default"
            said[key] = found[1]
    shown = {field.name: _toml(field.default) for field in fields(config.Config)}
    assert said == shown


def _toml(value: object) -> str:
    return {"str": f'"{value}"', "tuple": "[]", "bool": str(value).lower()}.get(type(value).__name__, str(value))


def test_the_search_path_is_documented() -> None:
    said = items_of("bootcd.toml.5", "SYNOPSIS")[0].text.split()
    assert said == [str(path) if path.suffix == ".toml" else f"{path}/*.toml" for path in config.SEARCH_PATH]


def test_the_example_of_settings_can_be_read(tmp_path: Path) -> None:
    text = (ROOT / "man" / "bootcd.toml.5").read_text()
    example = plain(re.search(r"^\.EX\n(.*?)^\.EE", text, re.DOTALL | re.MULTILINE)[1])  # type: ignore[index]
    file = tmp_path / "bootcd.toml"
    file.write_text(example)
    assert config.load([file]) != config.Config()


# --- bootcd-repository(7) ---------------------------------------------------------------------------------------------


def test_every_key_of_a_record_is_documented() -> None:
    items = items_of("bootcd-repository.7", "Record")
    said = {key for item in items if item.tag for key in item.tag.split(", ")}
    written = set(json.loads(encode(Record("0" * 64, "", "", "", "", "", ""))))
    assert said == written
    assert all(field.name.replace("_", "-") in items[-2].text for field in fields(EtcReport))


# --- bootcd-etc(7) ----------------------------------------------------------------------------------------------------


def _blocks(name: str) -> list[str]:
    """The examples of a page."""
    return re.findall(r"^\.EX\n(.*?)^\.EE", plain((ROOT / "man" / name).read_text()), re.DOTALL | re.MULTILINE)


def test_the_tables_of_the_merge_are_those_of_its_source() -> None:
    source = [re.sub(r"^    ", "", block, flags=re.MULTILINE)
              for block in re.findall(r"(?:^    .*\n)+", etc.__doc__ or "", re.MULTILINE)]
    assert len(source) == 2
    assert _blocks("bootcd-etc.7")[:2] == source
    assert [line.split()[0] for line in source[1].splitlines()] == list(Policy)


def test_the_names_and_places_of_the_merge_are_documented() -> None:
    text = whole("bootcd-etc.7")
    for name in (f"NAME{etc.BESIDE.decode()}", f"NAME.bootcd{ASIDE}", f"/{etcrules.IMAGE_DIRECTORY.decode()}/*.toml",
                 f"/etc/{etcrules.MACHINE_DIRECTORY.decode()}/*.toml"):
        assert name in text


def test_the_examples_of_rules_can_be_read() -> None:
    examples = _blocks("bootcd-etc.7")[2:]
    assert len(examples) == 2
    for example in examples:
        rules, warnings = etcrules.parse_rules(example.encode(), "example", machine=True)
        assert rules
        assert etcrules.Rules(rules).warnings == tuple(warnings) == ()


# --- bootcd-boot-entries(7) -------------------------------------------------------------------------------------------


def test_the_entry_shown_is_one_of_ours() -> None:
    (block,) = [one for one in _blocks("bootcd-boot-entries.7") if one.startswith("loader/entries/")]
    digest, generation = "0" * 64, 2
    name = str(entries.entry_name(generation, "f" * 128))
    real = entries.compose_kernel("Example OS 1.1", generation, "1.1", digest, "OPTIONS").format().decode()
    place, shown = block.split("\n\n", 1)
    assert place == f"loader/entries/{name}".replace("0000000002", "GENERATION").replace("f" * 12, "ID").replace(
        f"+{entries.DEFAULT_TRIES}", "[+TRIES]")
    assert re.sub(r" +", " ", re.sub(r"options.*", "options OPTIONS", shown)) == real.replace(digest, "BOOT_DIGEST")


def test_names_and_types_of_boot_partitions_are_documented() -> None:
    text = whole("bootcd-boot-entries.7")
    assert all(name in text for name in (XBOOTLDR_TYPE, KERNELS, CONFIG, MARKER, KEYS, TEMPORARY_PREFIX,
                                         TEMPORARY_SUFFIX))
    for error in (NotFound, EspFull, ReadOnly):
        assert f"exit status {error.exit_status}" in text


# --- examples ---------------------------------------------------------------------------------------------------------


def _examples() -> list[str]:
    found = []
    for path in [*PAGES, *TEXTS]:
        text = re.sub(r"\\\s*\n\s*", " ", plain(path.read_text()))
        text = text.replace("\n.", "\n")
        found += re.findall(r"^ *(?:[#$] |    )((?:BOOTCD_\S+ )?bootcctl [^\n|>]+)", text, re.MULTILINE)
    return found


def test_there_are_examples() -> None:
    assert len(_examples()) > 5


@pytest.mark.parametrize("line", _examples())
def test_an_example_can_be_parsed(line: str) -> None:
    words = [word for word in shlex.split(line) if not word.startswith("BOOTCD_")]
    build_parser().parse_args(words[1:])


def _shape(line: str) -> str:
    """A line of output without what differs from machine to machine."""
    for pattern, mark in ((r"(?:quay\.io|oci:)[^\s(]+", "IMAGE"), (r"sha256:[0-9a-f]+…?", "DIGEST"),
                          (r"\d{4}-\d\d-\d\dT[\d:]+Z", "TIME"), (r"\b[0-9a-f]{12}\b", "ID"),
                          (r"\b[0-9.]+ k?M?B\b", "SIZE"), (r"\b[0-9]+\b", "N"),
                          (r"\bobject\b", "objects"), (r" +", " ")):
        line = re.sub(pattern, mark, line)
    return line.strip()


def test_the_output_in_examples_is_real(tmp_path: Path) -> None:
    image = f"oci:{tmp_path}/layout:stable"

    def run(line: str) -> list[str]:
        done = subprocess.run([sys.executable, "-m", "bootcd.cli", "--quiet", "--sysroot", "sysroot", "--esp", "esp",
                               *line.split()[1:]], capture_output=True, text=True, check=False, cwd=tmp_path,
                              env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "LC_ALL": "C.UTF-8"})
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def publish(version: str) -> None:
        os_image(version).write_layout(tmp_path / "layout", "stable")

    publish("1.0")
    run(f"bootcctl install to-filesystem {image}")
    publish("1.1")
    real = run("bootcctl upgrade --check") + run("bootcctl upgrade") + run("bootcctl pin 1.0 --label factory")
    publish("2.0")
    real += run("bootcctl upgrade") + run("bootcctl list") + run("bootcctl rollback") + run("bootcctl rollback factory")
    real += run("bootcctl kargs add pci=noaer")
    # Only a running machine stages.
    real.append("Deployment 000000000000 is staged and becomes the default at shutdown.")
    shapes = {_shape(line) for line in real}
    text = re.sub(r"\\\n\s*", "", plain((ROOT / "man" / "bootcctl.8").read_text()))
    blocks = re.findall(r"^\.EX\n(.*?)^\.EE", text, re.DOTALL | re.MULTILINE)
    shown = [line for block in blocks if block.startswith("# ")
             for line in block.splitlines() if not line.startswith("# ")]
    assert len(shown) > 8
    assert [line for line in shown if _shape(line) not in shapes] == []


# --- links and rendering ----------------------------------------------------------------------------------------------


def test_there_is_something_to_read() -> None:
    assert PAGES
    assert len(TEXTS) > 1


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" not in target and not target.startswith(("#", "mailto:")):
            assert (path.parent / target.partition("#")[0]).exists(), f"{path.name}: {target}"


def test_every_text_is_linked_from_somewhere() -> None:
    linked = {(path.parent / target.partition("#")[0]).resolve()
              for path in TEXTS for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text())}
    entrances = (ROOT / "README.md", ROOT / "docs" / "index.md")
    assert [str(path) for path in [*TEXTS, *PAGES] if path not in linked and path not in entrances] == []


def test_source_files_that_are_named_exist() -> None:
    for path in TEXTS:
        for name in re.findall(r"`((?:src|tests|docs|man|tools|data)/[\w./-]+)`", path.read_text()):
            assert (ROOT / name).exists(), f"{path.name}: {name}"


def test_pages_refer_to_pages_that_exist() -> None:
    ours = {path.name for path in PAGES}
    for path in PAGES:
        for name, section in re.findall(r"(?<![\w.])((?:org\.)?boot(?:cctl|cd)[\w.-]*) ?\((\d)\)", whole(path.name)):
            assert f"{name}.{section}" in ours, f"{path.name}: {name}({section})"
    for path in (ROOT / "src").rglob("*.py"):
        for name, section in re.findall(r"(?<![\w.])((?:org\.)?boot(?:cctl|cd)[\w.-]*)`*\((\d)\)", path.read_text()):
            assert f"{name}.{section}" in ours, f"{path.name}: {name}({section})"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_render_without_warnings(path: Path) -> None:
    if shutil.which("man") is None or shutil.which("groff") is None:
        pytest.skip("man is not installed")
    environment = os.environ | {"LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MAN_KEEP_FORMATTING": ""}
    done = subprocess.run(["man", "--warnings", "-l", path], capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "NAME" in done.stdout
    assert path.stem in done.stdout
    assert max(map(len, re.sub(".\b", "", done.stdout).splitlines())) <= 100


def test_actions_of_the_planner_are_named_in_the_text_about_transactions() -> None:
    text = (ROOT / "docs" / "transactions.md").read_text()
    named = re.search(r"BOOTCD_CRASH_AT=after-([a-z-]+)", text)
    assert named
    assert named[1] in set(Action)
