# SPDX-License-Identifier: Apache-2.0
"""registries.conf: which tables are about a reference, and where they send it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.errors import ConfigError, RegistryBlocked
from bootcd.model import ImageReference
from bootcd.registry.registries import Registries, choose, files, load, parse

DIGEST = "sha256:" + "ab" * 32

COMPANY = b"""
unqualified-search-registries = ["docker.io"]   # of no use here, and no error

[[registry]]
prefix = "quay.io/team"
location = "mirror.example:5000/quay"
[[registry.mirror]]
location = "rack.example/cache"
insecure = true
[[registry.mirror]]
location = "slow.example/archive"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "near.example/tags"
pull-from-mirror = "tag-only"

[[registry]]
location = "quay.io"
[[registry]]
prefix = "quay.io/team/bad"
location = "quay.io/team/bad"
blocked = true
[[registry]]
prefix = "*.corp.example"
insecure = true
"""


def company() -> Registries:
    return Registries(parse(COMPANY, "here"))


def places(registries: Registries, text: str) -> list[str]:
    return [str(endpoint.reference) for endpoint in registries.endpoints(ImageReference.parse(text))]


@pytest.mark.parametrize(("reference", "prefix"), [
    ("quay.io/team/os:1", "quay.io/team"),
    ("quay.io/teams/os:1", "quay.io"),  # a prefix ends where a component ends
    ("quay.io/team/bad:1", "quay.io/team/bad"),
    (f"quay.io/team/bad@{DIGEST}", "quay.io/team/bad"),
    ("quay.io.example/os:1", None),
    ("a.corp.example/os:1", "*.corp.example"),
    ("a.b.corp.example:5000/os:1", "*.corp.example"),
    ("corp.example/os:1", None),
    ("evil.example/a.corp.example/os:1", None),
    ("acorp.example/os:1", None),
])
def test_the_longest_prefix_decides(reference: str, prefix: str | None) -> None:
    found = company().about(ImageReference.parse(reference))
    assert (found.prefix if found else None) == prefix


def test_mirrors_come_first_and_may_be_for_tags_or_digests_only() -> None:
    assert places(company(), "quay.io/team/os:1") == [
        "rack.example/cache/os:1", "near.example/tags/os:1", "mirror.example:5000/quay/os:1"]
    assert places(company(), f"quay.io/team/os@{DIGEST}") == [
        f"rack.example/cache/os@{DIGEST}", f"slow.example/archive/os@{DIGEST}", f"mirror.example:5000/quay/os@{DIGEST}"]


def test_who_may_be_asked_without_tls() -> None:
    first, *others = company().endpoints(ImageReference.parse("quay.io/team/os:1"))
    assert (first.insecure, first.is_mirror) == (True, True)
    assert not any(one.insecure for one in others)
    (only,) = company().endpoints(ImageReference.parse("a.corp.example/os:1"))
    assert (str(only.reference), only.insecure, only.is_mirror) == ("a.corp.example/os:1", True, False)


def test_what_no_table_is_about_stays_as_it_is() -> None:
    assert places(company(), "ghcr.io/team/os:1") == ["ghcr.io/team/os:1"]


def test_blocked() -> None:
    with pytest.raises(RegistryBlocked, match=r"quay\.io/team/bad:1: 'quay\.io/team/bad' is blocked in here"):
        places(company(), "quay.io/team/bad:1")


def test_mirrors_for_digests_only() -> None:
    table = (b'[[registry]]\nlocation = "a.example"\nmirror-by-digest-only = true\n'
             b'[[registry.mirror]]\nlocation = "b.example"\n')
    registries = Registries(parse(table, "here"))
    assert places(registries, "a.example/os:1") == ["a.example/os:1"]
    assert places(registries, f"a.example/os@{DIGEST}") == [f"b.example/os@{DIGEST}", f"a.example/os@{DIGEST}"]


def test_a_later_file_replaces_a_table_whole(tmp_path: Path) -> None:
    main = tmp_path / "registries.conf"
    main.write_bytes(COMPANY)
    (tmp_path / "registries.conf.d").mkdir()
    (tmp_path / "registries.conf.d/10-mine.conf").write_text('[[registry]]\nlocation = "quay.io/team"\n')
    (tmp_path / "registries.conf.d/readme").write_text("not read")
    registries = load(files(str(main)))
    assert [path.name for path in registries.files] == ["registries.conf", "10-mine.conf"]
    assert places(registries, "quay.io/team/os:1") == ["quay.io/team/os:1"]
    with pytest.raises(RegistryBlocked):
        places(registries, "quay.io/team/bad:1")


def test_which_file(tmp_path: Path) -> None:
    named = tmp_path / "named"
    with pytest.raises(ConfigError, match=f"{named}: no such file"):
        files(str(named))
    named.touch()
    assert files(str(named), {"CONTAINERS_REGISTRIES_CONF": "/other"}) == [named]
    assert files("", {"CONTAINERS_REGISTRIES_CONF": str(named)}) == [named]
    assert load([tmp_path / "none"]) == Registries()


@pytest.mark.parametrize(("text", "message"), [
    ("x", "here: "),
    ("[registries.search]\nregistries = []", "first version"),
    ("registry = 1", "'registry' must be a list of tables"),
    ("[[registry]]\nblocked = true", r"\[\[registry\]\] 1: neither prefix nor location"),
    ('[[registry]]\nprefix = "a.example"', "location is missing"),
    ('[[registry]]\nlocation = "https://a.example"', "is no prefix of image names"),
    ('[[registry]]\nprefix = "*.a.example/x"\nlocation = "b.example"', "is no prefix"),
    ('[[registry]]\nlocation = "a.example"\nblocked = "yes"', "blocked: expected true or false"),
    ('[[registry]]\nlocation = "a.example"\n[[registry]]\nlocation = "a.example"', "two tables for 'a.example'"),
    ('[[registry]]\nlocation = "a.example"\n[[registry.mirror]]\n', "mirror 1: location is missing"),
    ('[[registry]]\nlocation = "a.example"\nmirror = [{location = "b.example", pull-from-mirror = "some"}]', "none of"),
    ('[[registry]]\nlocation = "a.example"\nmirror-by-digest-only = true\n'
     'mirror = [{location = "b.example", pull-from-mirror = "all"}]', "exclude each other"),
])
def test_what_makes_no_sense_is_an_error(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(text.encode(), "here")


def test_a_location_that_cannot_be_asked() -> None:
    registries = Registries(parse(b'[[registry]]\nprefix = "a.example"\nlocation = "cache/os"\n', "here"))
    with pytest.raises(ConfigError, match=r"here: location 'cache/os' for 'a\.example'"):
        places(registries, "a.example/x:1")


@given(st.text(max_size=80) | st.from_regex(
    r'\A\[\[registry\]\]\n(prefix|location|mirror|blocked) = ("[a-z*./:]{0,9}"|true|\[\]|\[\{\}\])\n\Z'))
def test_any_text(text: str) -> None:
    try:
        tables = parse(text.encode("utf-8", "surrogatepass"), "here")
        Registries(tables).endpoints(ImageReference.parse("a.example/b:1"))
    except (ConfigError, RegistryBlocked):
        pass


def test_what_is_told_of_a_route() -> None:
    route = company().route(ImageReference.parse("quay.io/team/os:1"))
    assert [mirror.name for mirror in route.passed_over] == ["slow.example/archive"]
    route = company().route(ImageReference.parse(f"quay.io/team/os@{DIGEST}"))
    assert [mirror.name for mirror in route.passed_over] == ["near.example/tags"]
    assert company().route(ImageReference.parse("ghcr.io/os:1")).passed_over == ()


def test_why_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "registries.conf"
    file.write_text('[aliases]\nos = "quay.io/team/os"\nnone = ""\nodd = 3\n')
    variable = "CONTAINERS_REGISTRIES_CONF"
    assert choose(str(file), {variable: "/elsewhere"}).why == "registries-file in bootcd.toml"
    found = choose("", {variable: str(file)})
    assert (found.files, found.variable) == ((file,), variable)
    assert choose("", {}).why.startswith("the first that exists of /etc/bootcd/registries.conf and")
    assert load(found.files).aliases == {"os": "quay.io/team/os"}


@pytest.mark.parametrize(("image", "whole"), [
    ("os", "quay.io/team/os"), ("os:1", "quay.io/team/os:1"), (f"os:1@{DIGEST}", f"quay.io/team/os:1@{DIGEST}"),
    ("team/os", "example.org:5000/os"), ("other", "other"), ("other/os", "other/os"),
    ("localhost/os", "localhost/os"), ("quay.io/os", "quay.io/os"), ("host:5000/os", "host:5000/os"),
    ("oci:os", "oci:os"), ("tar:os", "tar:os"), ("docker://os", "docker://os"), ("", ""), ("OS", "OS"), ("a b", "a b"),
])
def test_short_names(image: str, whole: str) -> None:
    known = Registries(aliases={"os": "quay.io/team/os", "team/os": "example.org:5000/os", "host": "wrong",
                                "oci": "wrong", "docker": "wrong"})
    assert known.expand(image) == whole
