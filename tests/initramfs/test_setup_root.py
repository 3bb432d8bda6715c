# SPDX-License-Identifier: Apache-2.0
"""The initrd's program on repositories of our own, with the real kernel. fs-verity may lack here, so it is optional in
most of these; tests/vm/guest/test_boot_chain.py has the tests that need it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from bootcd.boot.booted import booted_id
from bootcd.config import Config
from bootcd.formats.dump import format_dump
from bootcd.formats.fsverity import Algorithm, measure
from bootcd.formats.tree import Directory
from bootcd.model import SilentProgress
from bootcd.ops.direct import DirectHost
from bootcd.store.repository import Repository
from bootcd.store.scan import scan_directory
from kit import setup_root
from kit.images import File, Symlink
from kit.os_images import os_image
from kit.setup_root import Mount, Namespace
from kit.world import World
from vm.guest.test_real_verity import store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")

LARGE = b"not inline " * 1000


@dataclass
class Machine:
    """An installed system, whose initrd's program can be run again and again."""

    directory: Path
    program: Path
    namespace: Namespace
    sysroot: Path
    id: str
    target: Path
    config: str | None = None
    cmdline: str = ""
    options: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    def run(self) -> CompletedProcess[str]:
        cmdline, config = self.directory / "cmdline", self.directory / "setup-root-conf.toml"
        cmdline.write_text(self.cmdline)
        if self.config is not None:
            config.write_text(self.config)
        return self.namespace.run(self.program, "--no-kmsg", f"--sysroot={self.sysroot}", f"--target={self.target}",
                                  f"--cmdline={cmdline}", f"--config={config}", *self.options, **self.environment)

    def boot(self) -> Path:
        """The new root, to look at."""
        done = self.run()
        assert done.returncode == 0, done.stderr
        return self.namespace.path(self.target)

    def mounts(self) -> dict[str, Mount]:
        """What is mounted at the target and below, by the path there."""
        return {one.place.removeprefix(str(self.target)) or "/": one for one in self.namespace.mounts()
                if Path(one.place).is_relative_to(self.target)}

    def object(self, digest: str) -> Path:
        return self.sysroot / "composefs" / "objects" / digest[:2] / digest[2:]

    @property
    def link(self) -> Path:
        return self.sysroot / "composefs" / "images" / self.id

    @property
    def state(self) -> Path:
        return self.sysroot / "state" / "deploy" / self.id

    def refuses(self, *words: str) -> str:
        """The program ends with one line that has these words, and nothing is mounted."""
        before = self.namespace.mounts()
        done = self.run()
        assert done.returncode == 1
        assert done.stdout == ""
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("bootcd-setup-root: ")
        assert [word for word in words if word not in lines[0]] == [], lines[0]
        assert self.namespace.mounts() == before
        return lines[0]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A sysroot, the id of its deployment, and its kernel arguments; not to be changed."""
    directory = tmp_path_factory.mktemp("installed")
    world = World(directory, lambda one: DirectHost(one.sysroot, one.esp, Config(), SilentProgress()), directory)
    deployment = world.install(os_image("1.0", [File("usr/lib/large", LARGE), Symlink("usr/lib/link", "large")]))
    (world.etc(deployment) / "version.conf").write_text("changed here\n")
    return world.sysroot, deployment.id, deployment.options


@pytest.fixture
def machine(installed: tuple[Path, str, str], program: Path, tmp_path: Path) -> Iterator[Machine]:
    sysroot, deployment_id, options = installed
    shutil.copytree(sysroot, tmp_path / "sysroot", symlinks=True)
    (tmp_path / "new").mkdir()
    with Namespace() as namespace:
        yield Machine(tmp_path, program, namespace, tmp_path / "sysroot", deployment_id, tmp_path / "new",
                      cmdline=f"root=UUID=1 rw {options.replace('=v1-', '=?v1-')}\n")  # a copy has no fs-verity


def pruned(root: Directory, names: tuple[bytes, ...]) -> list[bytes]:
    """The dump of a tree without what lies in these top directories, and without times of the directories."""
    return [line for line in format_dump(root) if not line.startswith(tuple(b"/" + name for name in names))]


# --- what it makes ----------------------------------------------------------------------------------------------------


def test_the_root_is_the_image(machine: Machine) -> None:
    machine.config = '[etc]\nmount = "none"\n[var]\nmount = "none"\n'
    root = machine.boot()
    with Repository.open(machine.sysroot / "composefs") as repo:
        wanted = repo.images.read(bytes.fromhex(machine.id)).root()
    found = scan_directory(root, None, Algorithm.SHA512)
    mine = pruned(found, (b"sysroot",))
    assert mine == pruned(wanted, (b"sysroot",))
    assert len(mine) > 20
    assert (root / "usr/lib/link").read_bytes() == LARGE
    assert list((root / "etc").iterdir()) != []
    assert (root / "etc/version.conf").read_text() == "version = 1.0\n"
    with pytest.raises(OSError, match="Read-only"):
        (root / "usr/new").touch()


def test_etc_and_var_are_those_of_the_deployment(machine: Machine) -> None:
    root = machine.boot()
    assert (root / "etc/version.conf").read_text() == "changed here\n"
    (root / "etc/new").write_text("x")
    assert (machine.state / "etc/new").read_text() == "x"
    (root / "var/new").write_text("y")
    assert (machine.sysroot / "state/os/default/var/new").read_text() == "y"
    assert (root / "var/lib/seed").read_text() == "from the image\n"


def test_the_physical_root_is_at_sysroot_read_only(machine: Machine) -> None:
    root = machine.boot()
    assert sorted(os.listdir(root / "sysroot")) == sorted(os.listdir(machine.sysroot))
    with pytest.raises(OSError, match="Read-only"):
        (root / "sysroot/new").touch()
    mounts = machine.mounts()
    assert set(mounts) == {"/", "/sysroot", "/etc", "/var"}
    assert "ro" in mounts["/sysroot"].options
    assert "rw" in mounts["/sysroot"].filesystem_options
    assert "rw" in mounts["/etc"].options


def test_bootcd_recognises_what_runs(machine: Machine) -> None:
    machine.boot()
    root = machine.mounts()["/"]
    assert (root.type, root.source) == ("overlay", f"composefs:{machine.id}")
    assert booted_id(f"1 0 0:1 / / ro - overlay {root.source} ro", "") == machine.id


def test_without_a_target_the_physical_root_makes_room(machine: Machine) -> None:
    """As in an initrd: /sysroot is a mount, and what it shows then is the deployment."""
    machine.target = machine.directory / "mounted"
    machine.target.mkdir()
    assert machine.namespace.run("mount", "--bind", machine.sysroot, machine.target).returncode == 0
    (machine.directory / "cmdline").write_text(machine.cmdline)
    done = machine.namespace.run(machine.program, "--no-kmsg", f"--sysroot={machine.target}",
                                 f"--cmdline={machine.directory}/cmdline")
    assert done.returncode == 0, done.stderr
    assert set(machine.mounts()) == {"/", "/sysroot", "/etc", "/var"}
    assert [one.place for one in machine.namespace.mounts()].count(str(machine.target)) == 1
    assert os.listdir(machine.namespace.path(machine.target) / "sysroot/composefs")


def test_nothing_else_stays_mounted(machine: Machine) -> None:
    before = machine.namespace.mounts()
    machine.boot()
    assert [one for one in machine.namespace.mounts() if one not in before] == list(machine.mounts().values())
    assert machine.namespace.run("umount", "--recursive", machine.target).returncode == 0
    assert machine.namespace.mounts() == before


def test_one_line_when_it_is_done(machine: Machine) -> None:
    done = machine.run()
    assert done.returncode == 0
    assert done.stdout == ""
    verity = "required" if "verity=require" in machine.mounts()["/"].filesystem_options else "absent"
    assert done.stderr == (f"bootcd-setup-root: {machine.target} is image {machine.id}, fs-verity {verity}, "
                           "/etc bind, /var bind\n")


def test_the_directory_that_the_mounts_are_made_in_is_not_touched(machine: Machine) -> None:
    before = sorted(os.listdir(machine.namespace.path(Path("/run"))))
    machine.boot()
    assert sorted(os.listdir(machine.namespace.path(Path("/run")))) == before


def test_a_kernel_that_mounts_no_files(machine: Machine, tmp_path: Path) -> None:
    """Before Linux 6.12: a read-only loop device, which goes with the mount."""
    if setup_root.compiler() is None:
        pytest.skip("there is no C compiler")
    shim = setup_root.build(tmp_path / "shim.so", "-shared", "-fPIC",
                            sources=[Path(__file__).with_name("no_file_mounts.c")])
    machine.environment = {"LD_PRELOAD": str(shim)}
    root = machine.boot()
    assert (root / "usr/lib/link").read_bytes() == LARGE
    image = machine.object(machine.id).relative_to(machine.directory)  # the rest may have other names in its namespace
    devices = [path for path in Path("/sys/block").glob("loop*/loop")
               if (path / "backing_file").read_text().endswith(f"{machine.directory.name}/{image}\n")]
    assert [(path / "autoclear").read_text() for path in devices] == ["1\n"]
    assert (devices[0].parent / "ro").read_text() == "1\n"
    assert machine.namespace.run("umount", "--recursive", machine.target).returncode == 0
    deadline = time.monotonic() + 10
    while (devices[0] / "backing_file").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not (devices[0] / "backing_file").exists()


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_next_image_is_taken_when_the_first_is_not_there(machine: Machine) -> None:
    machine.cmdline = (f"composefs=?{machine.id} composefs.digest=?v1-sha512-12:{'0' * 128} "
                       f"composefs.digest=?v1-sha256-12:{'0' * 64}")
    machine.boot()
    assert machine.mounts()["/"].source == f"composefs:{machine.id}"


def test_the_same_image_named_twice(machine: Machine) -> None:
    machine.cmdline += f" quiet {machine.cmdline.strip()} composefs=?{machine.id}"
    machine.boot()
    assert machine.mounts()["/"].source == f"composefs:{machine.id}"


@pytest.mark.parametrize(("value", "mounted"), [
    ("no", {"/", "/sysroot", "/etc", "/var"}), ("state", {"/", "/sysroot", "/etc"}),
    ("overlay", {"/", "/sysroot", "/etc"}), ("yes", {"/", "/sysroot"}),
])
def test_volatile(machine: Machine, value: str, mounted: set[str]) -> None:
    machine.cmdline += f" systemd.volatile={value}"
    machine.boot()
    assert set(machine.mounts()) == mounted


def test_an_unknown_value_of_volatile_is_a_warning(machine: Machine) -> None:
    machine.cmdline += " systemd.volatile=perhaps"
    done = machine.run()
    assert done.returncode == 0
    assert "unknown value of systemd.volatile=" in done.stderr.splitlines()[0]


@pytest.mark.parametrize(("cmdline", "words"), [
    ("", ["neither composefs.digest= nor composefs="]),
    ("quiet", ["neither composefs.digest= nor composefs="]),
    ("composefs=abc", ["malformed argument 'composefs=abc'"]),
    ("composefs=" + "\x1b" * 64, ["malformed argument 'composefs=????"]),
    ("{good} composefs.digest=v1-sha512-12:" + "0" * 128, ["it names the image twice"]),
    ("{good} composefs=zz", ["malformed argument 'composefs=zz'"]),
    ("x" * 20000, ["has more than 16384 bytes"]),
    (f"composefs=?{'1' * 128}", ["does not have the image 1111"]),
    (f"composefs=?{'1' * 128} composefs.digest=v1-sha512-12:{'2' * 128}", ["2222", "nor any other one"]),
    (f"composefs=?{'1' * 64}", ["images by sha512", "names one by sha256"]),
])
def test_refused_command_lines(machine: Machine, cmdline: str, words: list[str]) -> None:
    machine.cmdline = cmdline.replace("{good}", machine.cmdline.strip())
    machine.refuses(*words)


def test_an_image_without_fs_verity_where_it_is_demanded(machine: Machine) -> None:
    machine.cmdline = machine.cmdline.replace("=?", "=")
    with Repository.open(machine.sysroot / "composefs") as repo:
        if repo.secure:
            pytest.skip("everything has fs-verity here")
    machine.refuses("has no fs-verity, and the kernel command line demands it")


# --- the repository ---------------------------------------------------------------------------------------------------


def replace(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda machine: machine.link.unlink(), ["does not have the image"]),
    (lambda machine: machine.object(machine.id).unlink(), ["its object is missing"]),
    (lambda machine: shutil.rmtree(machine.sysroot / "composefs"), ["cannot open the repository", "No such file"]),
    (lambda machine: shutil.rmtree(machine.sysroot / "composefs/images"), ["does not have the image"]),
    (lambda machine: replace(machine.object(machine.id), machine.object(machine.id).read_bytes()[:-4096]),
     ["other content"]),
    (lambda machine: replace(machine.object(machine.id), machine.object(machine.id).read_bytes()[:1000]),
     ["other content"]),
    (lambda machine: os.truncate(machine.object(machine.id), (1 << 30) + 4096), ["is no file, empty or too large"]),
    (lambda machine: replace(machine.object(machine.id), b""), ["is no file, empty or too large"]),
    (lambda machine: replace(machine.object(machine.id), machine.object(machine.id).read_bytes()[:-1] + b"\x01"),
     ["other content"]),
], ids=["no-link", "no-object", "no-repository", "no-images", "truncated", "a-beginning", "too-large", "empty",
        "other-content"])
def test_a_damaged_repository(machine: Machine, spoil: Callable[[Machine], None], words: list[str]) -> None:
    spoil(machine)
    machine.refuses(*words)


def test_a_link_to_another_object(machine: Machine) -> None:
    objects = (machine.sysroot / "composefs/objects").glob("*/*")
    other = next(path for path in objects if path.stat().st_size == len(LARGE))
    machine.link.unlink()
    machine.link.symlink_to(f"../objects/{other.parent.name}/{other.name}")
    machine.refuses("has other content", (other.parent.name + other.name)[:12])


@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside", "../../../../../../../../etc/passwd"])
def test_a_link_out_of_the_repository(machine: Machine, target: str) -> None:
    (machine.sysroot / "outside").write_bytes(machine.object(machine.id).read_bytes())
    machine.link.unlink()
    machine.link.symlink_to(target)
    machine.refuses("leads out of the repository")


def test_a_link_to_something_that_is_no_file(machine: Machine) -> None:
    os.mkfifo(machine.sysroot / "composefs/objects/pipe")
    for target in ("pipe", ""):
        machine.link.unlink()
        machine.link.symlink_to(f"../objects/{target}")
        machine.refuses("is no file, empty or too large")


def test_a_link_that_goes_round(machine: Machine) -> None:
    machine.link.unlink()
    machine.link.symlink_to(machine.id)
    machine.refuses("cannot open images/", "Too many levels")


@pytest.mark.parametrize("name", ["composefs", "composefs/objects", "composefs/images"])
def test_directories_of_the_repository_are_no_links(machine: Machine, name: str) -> None:
    """Only the links of images are followed, and these lead nowhere else on their way."""
    place = machine.sysroot / name
    place.rename(machine.directory / "elsewhere")
    place.symlink_to(machine.directory / "elsewhere")
    machine.refuses("a symbolic link where none belongs" if name == "composefs" else "leads out of the repository")


def test_content_that_is_no_image(machine: Machine) -> None:
    """With the right digest, for which somebody must have asked."""
    data = b"no EROFS" * 1000
    digest = measure(data, Algorithm.SHA512).hex()
    machine.object(digest).parent.mkdir(exist_ok=True)
    machine.object(digest).write_bytes(data)
    (machine.link.parent / digest).symlink_to(f"../objects/{digest[:2]}/{digest[2:]}")
    machine.cmdline = f"composefs=?{digest}"
    machine.refuses("cannot mount the image")


def test_a_repository_of_the_other_hash(program: Path, tmp_path: Path) -> None:
    (tmp_path / "sysroot").mkdir()
    with Repository.init(tmp_path / "sysroot/composefs", Algorithm.SHA256) as repo:
        digest = store(repo, os_image("1.0", [File("usr/large", LARGE)])).hex()
        mark = "" if repo.secure else "?"
    for name in ("etc", "var"):
        (tmp_path / "sysroot/state/deploy" / digest / name).mkdir(parents=True)
    (tmp_path / "new").mkdir()
    with Namespace() as namespace:
        machine = Machine(tmp_path, program, namespace, tmp_path / "sysroot", digest, tmp_path / "new",
                          cmdline=f"composefs.digest={mark}v1-sha256-12:{digest}")
        assert (machine.boot() / "usr/large").read_bytes() == LARGE
        namespace.run("umount", "--recursive", machine.target)
        machine.cmdline = f"composefs.digest=?v1-sha512-12:{'0' * 128}"
        machine.refuses("images by sha256", "names one by sha512")


# --- state and configuration ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda machine: shutil.rmtree(machine.state), ["cannot open state/deploy/", "/etc: No such file"]),
    (lambda machine: shutil.rmtree(machine.sysroot / "state"), ["cannot open state/deploy/", "/etc: No such file"]),
    (lambda machine: (shutil.rmtree(machine.state / "etc"), (machine.state / "etc").symlink_to("/etc")),
     ["/etc: a symbolic link leads out"]),
    (lambda machine: shutil.rmtree(machine.state / "etc"), ["/etc: No such file"]),
    (lambda machine: (machine.state / "var").unlink(), ["/var: No such file"]),
    (lambda machine: shutil.rmtree(machine.sysroot / "state/os"), ["/var: No such file"]),
    (lambda machine: ((machine.state / "var").unlink(), (machine.state / "var").symlink_to("/var")),
     ["/var: a symbolic link leads out"]),
    (lambda machine: ((machine.state / "var").unlink(), (machine.state / "var").write_text("x")),
     ["/var: Not a directory"]),
], ids=["no-deployment", "no-state", "etc-outside", "no-etc", "no-var", "no-shared-var", "var-outside", "var-file"])
def test_damaged_state(machine: Machine, spoil: Callable[[Machine], None], words: list[str]) -> None:
    spoil(machine)
    machine.refuses(*words)


def test_a_writable_root_that_is_lost(machine: Machine) -> None:
    machine.config = "[root]\ntransient = true\n"
    root = machine.boot()
    (root / "usr/new").write_text("x")
    (root / "usr/lib/large").write_text("y")
    assert (root / "etc/version.conf").read_text() == "changed here\n"
    assert machine.mounts()["/"].source == f"transient:composefs={machine.id}"
    assert booted_id(f"1 0 0:1 / / ro - overlay {machine.mounts()['/'].source} ro", "") == machine.id
    assert root.stat().st_mode & 0o7777 == 0o755
    machine.namespace.run("umount", "--recursive", machine.target)
    root = machine.boot()
    assert not (root / "usr/new").exists()
    assert (root / "usr/lib/large").read_bytes() == LARGE


def test_an_etc_that_is_lost(machine: Machine) -> None:
    machine.config = "[etc]\ntransient = true\n"
    root = machine.boot()
    assert (root / "etc/version.conf").read_text() == "version = 1.0\n"
    (root / "etc/new").write_text("x")
    assert not (machine.state / "etc/new").exists()
    assert (root / "etc").stat().st_mode & 0o7777 == 0o755


def test_an_etc_that_is_an_overlay(machine: Machine) -> None:
    """As composefs-rs has it: state/deploy/<id>/etc holds upper and work."""
    shutil.rmtree(machine.state / "etc")
    (machine.state / "etc").mkdir()
    machine.config = '[etc]\nmount = "overlay"\n'
    for number in range(2):
        root = machine.boot()
        assert (root / "etc/version.conf").read_text() == "version = 1.0\n"
        (root / f"etc/new{number}").write_text("x")
        machine.namespace.run("umount", "--recursive", machine.target)
    assert sorted(os.listdir(machine.state / "etc")) == ["upper", "work"]
    assert sorted(os.listdir(machine.state / "etc/upper")) == ["new0", "new1"]


def test_everything_is_lost(machine: Machine) -> None:
    """Three overlays; the kernel does not stack them."""
    machine.config = "[root]\ntransient = true\n[etc]\ntransient = true\n[var]\ntransient = true\n"
    root = machine.boot()
    for name in ("usr", "etc", "var"):
        (root / name / "new").write_text("x")
    assert (root / "var/lib/seed").read_text() == "from the image\n"


@pytest.mark.parametrize("where", ["upper", "work"])
def test_an_overlay_whose_directories_lead_elsewhere(machine: Machine, where: str) -> None:
    machine.config = '[etc]\nmount = "overlay"\n'
    (machine.state / "etc" / where).symlink_to("/tmp")
    machine.refuses(f"cannot make the directory '{where}'")


def test_an_unknown_key_is_a_warning(machine: Machine) -> None:
    machine.config = '[etc]\ncolour = "red"\n'
    done = machine.run()
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("setup-root-conf.toml, line 2: unknown key 'etc.colour', which is not heeded")


@pytest.mark.parametrize(("config", "words"), [
    ('[etc]\nmount = "sideways"\n', ["setup-root-conf.toml, line 2: no such way to mount: 'sideways'"]),
    ("#" * 20000, ["has more than 16384 bytes"]),
    ('[etc]\nmount = "bind"\nmount = "bind"\n', ["line 3: a second value for 'etc.mount'"]),
    ('[etc]\nmount = "bi\x1b[2J"\n', ["line 2: a control character"]),
    ("etc = { }\n", ["line 1: an inline table is not understood"]),
])
def test_a_bad_configuration(machine: Machine, config: str, words: list[str]) -> None:
    machine.config = config
    machine.refuses(*words)


@pytest.mark.parametrize(("option", "words"), [
    ("--sideways", ["cannot understand '--sideways'"]), ("word", ["cannot understand 'word'"]),
    ("--target=/nonexistent", ["cannot mount the new root on /nonexistent: No such file"]),
    ("--sysroot=/nonexistent", ["cannot open the physical root /nonexistent: No such file"]),
    ("--cmdline=/nonexistent", ["cannot read /nonexistent: No such file"]),
    ("--config=/", ["cannot read /: Is a directory"]),
])
def test_bad_options(machine: Machine, option: str, words: list[str]) -> None:
    machine.options = [option]
    machine.refuses(*words)


def test_a_physical_root_that_is_mounted_read_only(machine: Machine) -> None:
    """As on a running system, which prepares a soft reboot."""
    for action in (["mount", "--bind", machine.sysroot, machine.sysroot],
                   ["mount", "-o", "remount,bind,ro", machine.sysroot]):
        assert machine.namespace.run(*action).returncode == 0
    root = machine.boot()
    (root / "etc/new").write_text("x")
    assert (machine.state / "etc/new").read_text() == "x"
    for place in (root / "sysroot", machine.namespace.path(machine.sysroot)):
        with pytest.raises(OSError, match="Read-only"):
            (place / "new").touch()


def test_a_physical_root_whose_file_system_is_read_only(machine: Machine) -> None:
    kept = machine.sysroot.rename(machine.directory / "kept")
    machine.sysroot.mkdir()
    for action in (["mount", "-t", "tmpfs", "tmpfs", machine.sysroot], ["cp", "-a", f"{kept}/.", machine.sysroot],
                   ["mount", "-o", "remount,ro", machine.sysroot]):
        assert machine.namespace.run(*action).returncode == 0
    done = machine.run()
    assert done.returncode == 0, done.stderr
    assert "the kernel argument rw is missing" in done.stderr.splitlines()[0]


def test_version(program: Path, tmp_path: Path) -> None:
    with Namespace() as namespace:
        done = namespace.run(program, "--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "bootcd-setup-root")
