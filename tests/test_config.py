# SPDX-License-Identifier: Apache-2.0
"""bootcd.toml: later files win key by key, and a misspelt key is an error."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd import config
from bootcd.errors import ConfigError


def test_nothing_is_configured(tmp_path: Path) -> None:
    assert config.load([tmp_path / "missing.toml", tmp_path / "missing.d"]) == config.Config()


def test_later_files_win_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "bootcd.toml").write_text("[keep]\nprevious = 3\n[boot]\ntries = 0\n")
    drop_ins = tmp_path / "bootcd.toml.d"
    drop_ins.mkdir()
    (drop_ins / "20-b.toml").write_text('[keep]\nprevious = 5\n[registry]\ninsecure = ["localhost:5000"]\n')
    (drop_ins / "10-a.toml").write_text("[keep]\nprevious = 4\n[pull]\nmax-layer-size = 7\n")
    (drop_ins / "README").write_text("not read")
    found = config.load([tmp_path / "bootcd.toml", drop_ins])
    assert found == config.Config(keep_previous=5, boot_tries=0, pull_max_layer_size=7,
                                  registry_insecure=("localhost:5000",))


@pytest.mark.parametrize(("text", "size"), [
    ("7", 7), ('"7"', 7), ('"512K"', 512 << 10), ('"2MiB"', 2 << 20), ('"3G"', 3 << 30)])
def test_sizes_may_have_units(tmp_path: Path, text: str, size: int) -> None:
    (tmp_path / "bootcd.toml").write_text(
        f"[pull]\nmax-rate = {text}\nmax-download = {text}\nmax-layer-size = {text}\n")
    assert config.load([tmp_path / "bootcd.toml"]) == config.Config(
        pull_max_rate=size, pull_max_download=size, pull_max_layer_size=size)


@pytest.mark.parametrize(("text", "said"), [
    ("previous = 3", "table"), ("[keep]\nprevious = -1", "negative"),
    ("[keep]\nprevious = true", "integer"), ("[keep]\nprevious = ''", "integer"),
    ("[pull]\nmax-rate = '0'", "no size"), ("[pull]\nmax-rate = '1X'", "no size"),
    ("[pull]\nmax-rate = -1", "negative"), ("[pull]\nmax-rate = 1.5", "integer"), ("[pull]\nparallel = 0", "1 to 16"),
    ("[pull]\nparallel = 17", "1 to 16"),
    ("[pull]\nparallel = '3'", "integer"), ("[pull]\nmetered = 'no'", "check, allow, never"),
    ("[registry]\ninsecure = 'x'", "list of strings"), ("[registry]\ninsecure = [1]", "list of strings"),
    ("[registry]\nca-file = 1", "a string"), ("[keep", "table"), ("a = " + "[" * 5000, "bootcd"),
])
def test_mistakes_are_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "bootcd.toml").write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        config.load([tmp_path / "bootcd.toml"])
    assert "bootcd.toml" in str(caught.value)


@pytest.mark.parametrize(("line", "said"), [
    ("automatic = 'yes'", "expected one of none, check, download, stage, reboot"),
    ("automatic = true", "a string"),
    ("check-interval = '30s'", "less than a minute"),
    ("check-interval = 6", "a string"),
    ("check-interval = 'often'", "'often' is no duration"),
    ("reboot-windows = ['Sat 02:00-06:00', 'always']", "'always' is no window"),
    ("download-windows = 'Sat 02:00-06:00'", "list of strings"),
    ("stage-windows = ['Caturday 02:00-06:00']", "'Caturday' is no day"),
    ("check-windows = ['02:00-25:00']", "from 00:00 to 24:00"),
    ("time-zone = 'Europe/Atlantis'", "no time zone that this machine knows"),
    ("time-zone = '../../etc/passwd'", "no time zone"),
    ("time-zone = 'Europe'", "no time zone"),
    ("min-age = '-1d'", "no duration"),
    ("wariness = 1.1", "0.0 to 1.0"), ("wariness = 'much'", "a number"), ("wariness = nan", "a number"),
    ("wariness = -1", "negative"), ("wariness = inf", "0.0 to 1.0"),
    ("min-battery = 101", "0 to 100"), ("min-battery = 1.5", "an integer"),
    ("max-load = -0.5", "negative"), ("max-load = true", "a number"),
    ("idle-users = 'never'", "no duration"), ("cool-down = ''", "no duration"),
    ("reboot-warning = '2d'", "more than a day"),
    ("fleetlock = 'lock.example'", "no address"), ("fleetlock = 'ftp://lock.example'", "no address"),
    ("fleetlock = 'https://user:secret@lock.example'", "no address"), ("fleetlock = 'https://[::1'", "no address"),
    ("fleetlock = 'https://lock.example:port'", "no address"),
    ("fleetlock = 'https://lock.example/?x=1'", "no address"),
    ("fleetlock-group = 'web servers'", "no group"), ("fleetlock-group = ''", "no group"),
])
def test_mistakes_of_the_update_policy_are_named(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "bootcd.toml").write_text(f"[update]\n{line}\n")
    with pytest.raises(ConfigError, match=said) as caught:
        config.load([tmp_path / "bootcd.toml"])
    assert str(caught.value).startswith(f"{tmp_path}/bootcd.toml: [update] {line.partition(' ')[0]}: ")


def test_the_update_policy_is_read(tmp_path: Path) -> None:
    (tmp_path / "bootcd.toml").write_text("""[update]
automatic = "reboot"
check-interval = "1d 12h"
reboot-windows = ["Sat,Sun 02:00-06:00"]
time-zone = "Europe/Berlin"
wariness = 1
fleetlock = "http://10.0.0.1:3333/base"
""")
    assert config.load([tmp_path / "bootcd.toml"]) == config.Config(
        update_automatic="reboot", update_check_interval="1d 12h", update_reboot_windows=("Sat,Sun 02:00-06:00",),
        update_time_zone="Europe/Berlin", update_wariness=1.0, update_fleetlock="http://10.0.0.1:3333/base")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff")
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    for name in ("binary.toml", "loop.toml", "binary.toml/below.toml"):
        with pytest.raises(ConfigError, match=name.split("/")[0]):
            config.load([tmp_path / name])


@given(st.text(max_size=60) | st.from_regex(r"\[(keep|boot|registry)\]\n(previous|tries|insecure) = .{0,10}"))
@settings(deadline=None)
def test_any_text_raises_only_our_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(text, "utf-8", "surrogatepass")
    with contextlib.suppress(ConfigError):
        config.load([path])


def test_unknown_keys_are_named_and_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "bootcd.toml"
    file.write_text("[keep]\nprevius = 3\nprevious = 2\n[new-in-the-next-version]\nprevious = 4\n")
    warnings: list[str] = []
    assert config.load([file], warnings.append) == config.Config(keep_previous=2)
    assert warnings == [f"{file}: unknown key 'previus' in [keep] is ignored",
                        f"{file}: unknown key 'previous' in [new-in-the-next-version] is ignored"]
