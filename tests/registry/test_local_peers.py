# SPDX-License-Identifier: Apache-2.0
"""One image at a registry, carried around by skopeo, umoci and buildah: wherever it is read from, it is that image."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootcd.config import Config
from bootcd.errors import BlobMismatch, BlobNotFound, ImageNotFound
from bootcd.model import ImageReference, Platform, SilentProgress
from bootcd.ops.direct import DirectHost
from bootcd.ops.results import ImageInfo
from bootcd.registry.opening import open_source
from bootcd.store.repository import Repository
from kit import registry_server
from kit.images import Dir, File, Hardlink, ImageBuilder, IndexBuilder, Layer, Symlink, Whiteout
from kit.os_images import base_layer
from kit.pulling import FAST
from kit.push import push
from kit.registry_server import RegistryServer

pytestmark = pytest.mark.skipif(not registry_server.available(), reason="docker-registry is not installed")

SECOND = Layer([
    File("usr/lib/os-release", b'NAME="Test OS"\nVERSION_ID=1.2\n'),
    File("usr/bin/tool", b"#!" + b"x" * 70_000, mode=0o4755),
    Hardlink("usr/bin/same", "usr/bin/tool"), Symlink("usr/bin/link", "tool"), Whiteout("var/lib/seed"),
    Dir("usr/share"), File("usr/share/" + "long-" * 40 + "name", b"y" * 5000), File("usr/share/ümläut", b"z" * 100),
    File(b"usr/share/not-utf-8-\xff\xfe", b"q" * 300),
    File("usr/share/attributes", b"a" * 100, xattrs={"user.x": b"\0\1"}),
    File("usr/share/empty"), File("usr/share/" + "n" * 160, b"w" * 65),
])
PLATFORM = Platform.current()
IMAGE = ImageBuilder([base_layer(), SECOND], labels={"org.opencontainers.image.version": "1.2"})


def run(*words: str | os.PathLike[str], **environment: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr


class Peers:
    """The image at a registry, and a repository to pull it into."""

    def __init__(self, registry: RegistryServer, directory: Path) -> None:
        self.directory = directory
        self.reference = f"{registry.address}/team/os:1"
        push(IMAGE, self.reference)
        self.sysroot = directory / "sysroot"
        Repository.init(self.sysroot / "composefs").close()
        self.host = DirectHost(self.sysroot, None, Config(), SilentProgress())
        self.pulled = self.pull(self.reference)

    def pull(self, reference: str) -> ImageInfo:
        return self.host.image_pull(reference, name="peer", bootable=True).image

    def is_the_same(self, reference: str) -> ImageInfo:
        """Pull into an empty repository, so that every byte comes from there."""
        shutil.rmtree(self.sysroot)
        Repository.init(self.sysroot / "composefs").close()
        found = self.pull(reference)
        assert (found.id, found.boot_id, found.config_digest) == (
            self.pulled.id, self.pulled.boot_id, self.pulled.config_digest)
        return found

    def copy(self, target: str, *options: str, source: str = "") -> str:
        """Let skopeo copy the image."""
        if shutil.which("skopeo") is None:
            pytest.skip("skopeo is not installed")
        run("skopeo", "--insecure-policy", "copy", *options, "--src-tls-verify=false",
            source or f"docker://{self.reference}", target)
        return target


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    directory = tmp_path_factory.mktemp("peers")
    with RegistryServer(directory / "registry") as registry:
        yield Peers(registry, directory)


@pytest.fixture(autouse=True)
def no_mount_stays(tmp_path: Path) -> Iterator[None]:
    """The overlay driver mounts the directory of its layers onto itself, and leaves that."""
    yield
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if (point := line.split()[4]).startswith(f"{tmp_path}/"):
            run("umount", point)


def store_in(directory: Path, driver: str) -> str:
    return f"[{driver}@{directory}/{driver}+{directory}/run-{driver}]"


def as_layout(peers: Peers, directory: Path) -> str:
    return peers.copy(f"oci:{directory}/layout:1")


def as_oci_archive(peers: Peers, directory: Path) -> str:
    return peers.copy(f"oci-archive:{directory}/os.tar:1")


def as_directory(peers: Peers, directory: Path) -> str:
    return peers.copy(f"dir:{directory}/copy")


def as_overlay(peers: Peers, directory: Path) -> str:
    return peers.copy(f"containers-storage:{store_in(directory, 'overlay')}localhost/os:1")


def as_vfs(peers: Peers, directory: Path) -> str:
    return peers.copy(f"containers-storage:{store_in(directory, 'vfs')}localhost/os:1")


@pytest.mark.parametrize("make", [as_layout, as_oci_archive, as_directory, as_overlay, as_vfs])
def test_a_copy_by_skopeo_is_the_image_of_the_registry(
    peers: Peers, make: Callable[[Peers, Path], str], tmp_path: Path
) -> None:
    found = peers.is_the_same(make(peers, tmp_path))
    assert found.manifest_digest == peers.pulled.manifest_digest == IMAGE.manifest_digest


@pytest.mark.parametrize("make", [as_layout, as_oci_archive, as_directory, as_overlay])
def test_a_copy_can_be_pinned_to_the_digest_of_the_registry(
    peers: Peers, make: Callable[[Peers, Path], str], tmp_path: Path
) -> None:
    reference = make(peers, tmp_path)
    assert peers.pull(f"{reference}@{IMAGE.manifest_digest}").manifest_digest == IMAGE.manifest_digest
    with pytest.raises(ImageNotFound):
        peers.pull(f"{reference}@sha256:{'0' * 64}")


def test_an_archive_of_docker_has_a_manifest_of_its_own_and_the_same_contents(peers: Peers, tmp_path: Path) -> None:
    archive = peers.copy(f"docker-archive:{tmp_path}/os.tar:quay.io/team/os:1")
    found = peers.is_the_same(f"docker-archive:{tmp_path}/os.tar")
    assert found.manifest_digest != IMAGE.manifest_digest
    for reference in (archive, f"docker-archive:{tmp_path}/os.tar:@0", f"docker-archive:{tmp_path}/os.tar:1",
                      f"docker-archive:{tmp_path}/os.tar@{found.manifest_digest}"):
        assert peers.pull(reference).manifest_digest == found.manifest_digest
    with pytest.raises(ImageNotFound, match=found.manifest_digest):
        peers.pull(f"docker-archive:{tmp_path}/os.tar@{IMAGE.manifest_digest}")


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_what_buildah_has_built_is_read_from_its_store(peers: Peers, driver: str, tmp_path: Path) -> None:
    if shutil.which("buildah") is None:
        pytest.skip("buildah is not installed")
    store = store_in(tmp_path, driver)
    (tmp_path / "storage.conf").write_text(
        f'[storage]\ndriver = "{driver}"\ngraphroot = "{tmp_path}/{driver}"\nrunroot = "{tmp_path}/run-{driver}"\n')
    (tmp_path / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    (tmp_path / "added").write_bytes(b"added " * 5000)
    base = peers.copy(f"containers-storage:{store}localhost/base:1")
    environment = {"CONTAINERS_STORAGE_CONF": str(tmp_path / "storage.conf"), "BUILDAH_ISOLATION": "chroot"}
    common = ("--signature-policy", str(tmp_path / "policy.json"))
    run("buildah", "from", "--pull-never", "--name", "work", *common, "localhost/base:1", **environment)
    run("buildah", "add", "work", tmp_path / "added", "/usr/share/added", **environment)
    run("buildah", "commit", *common, "work", "localhost/built:2", **environment)
    assert peers.is_the_same(base)
    built = peers.pull(f"containers-storage:{store}localhost/built:2")
    assert built.layers == 3
    assert built.id == peers.pull(peers.copy(f"oci:{tmp_path}/built:2",
                                             source=f"containers-storage:{store}localhost/built:2")).id
    os.environ["CONTAINERS_STORAGE_CONF"] = str(tmp_path / "storage.conf")
    try:
        assert peers.pull("containers-storage:localhost/built:2").id == built.id
    finally:
        del os.environ["CONTAINERS_STORAGE_CONF"]
    with pytest.raises(ImageNotFound, match=r'only: "localhost/[a-z]+:[12]", "localhost/[a-z]+:[12]"'):
        peers.pull(f"containers-storage:{store}localhost/other:1")


def test_files_of_a_store_that_were_changed_are_noticed(peers: Peers, tmp_path: Path) -> None:
    reference = as_overlay(peers, tmp_path)
    shutil.rmtree(peers.sysroot)
    Repository.init(peers.sysroot / "composefs").close()
    (tool,) = (tmp_path / "overlay").glob("overlay/*/diff/usr/bin/tool")
    content = tool.read_bytes()
    tool.write_bytes(content.replace(b"xxx", b"xyx"))
    with pytest.raises(BlobMismatch, match="has digest"):
        peers.pull(reference)
    tool.write_bytes(content[:-1])
    with pytest.raises(BlobNotFound, match="1 bytes too short"):
        peers.pull(reference)
    tool.unlink()
    tool.symlink_to("/etc/passwd")
    with pytest.raises(BlobNotFound, match=r"usr/bin/tool"):
        peers.pull(reference)


def test_umoci_unpacks_what_is_pulled_again(peers: Peers, tmp_path: Path) -> None:
    """An image that umoci has put together from a changed root file system."""
    if shutil.which("umoci") is None:
        pytest.skip("umoci is not installed")
    layout = as_layout(peers, tmp_path).removeprefix("oci:").removesuffix(":1")
    run("umoci", "unpack", "--image", f"{layout}:1", tmp_path / "bundle")
    (tmp_path / "bundle/rootfs/usr/share/new").write_bytes(b"new" * 100)
    run("umoci", "repack", "--image", f"{layout}:2", tmp_path / "bundle")
    built = peers.pull(f"oci:{layout}:2")
    assert built.layers == 3
    assert peers.pull(peers.copy(f"dir:{tmp_path}/copy", source=f"oci:{layout}:2")).id == built.id


def test_a_tar_of_the_whole_is_an_image(peers: Peers, tmp_path: Path) -> None:
    plain = tmp_path / "root.tar"
    plain.write_bytes(Layer([*base_layer().entries, *SECOND.entries[:3]]).tar)
    found = peers.host.image_pull(f"tar:{plain}", name="tar", bootable=False).image
    assert (found.version, found.layers) == ("1.2", 1)
    for program, suffix in (("gzip", ".gz"), ("zstd", ".zst")):
        file = tmp_path / f"root.tar{suffix}"
        file.write_bytes(subprocess.run([program, "-c", plain], capture_output=True, check=True).stdout)
        packed = peers.host.image_pull(f"tar:{file}", name="tar", bootable=False).image
        assert (packed.id, packed.config_digest) == (found.id, found.config_digest)
    assert peers.host.image_pull(f"tar:{plain}@{found.manifest_digest}", name="tar", bootable=False)


def test_an_index_of_many_platforms_is_carried_whole(peers: Peers, tmp_path: Path) -> None:
    other = ImageBuilder([base_layer(b"another kernel")], platform=Platform("linux", "s390x"))
    index = IndexBuilder([other, IMAGE])
    reference = peers.reference.replace(":1", ":many")
    push(index, reference)
    for target in (f"dir:{tmp_path}/copy", f"oci:{tmp_path}/layout:many"):
        peers.copy(target, "--all", source=f"docker://{reference}")
        source = open_source(ImageReference.parse(f"{target}@{index.manifest_digest}" if "dir:" in target else target),
                             FAST)
        fetched = source.manifest(PLATFORM)
        source.close()
        assert (fetched.digest, fetched.reference_digest) == (IMAGE.manifest_digest, index.manifest_digest)
    peers.is_the_same(f"dir:{tmp_path}/copy")
