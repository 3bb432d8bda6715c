# SPDX-License-Identifier: Apache-2.0
"""Pulling from Debian's real registry: open, with a password, over TLS."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bootcd.errors import (
    AuthenticationFailed,
    BlobNotFound,
    BootcdError,
    ImageNotFound,
    NoMatchingPlatform,
    SourceUnreachable,
)
from bootcd.model import ImageReference, Platform
from bootcd.registry.blob import LayerReader, read_blob
from bootcd.registry.opening import open_source
from kit.images import ImageBuilder, IndexBuilder, Layer, sha256
from kit.pulling import AMD64, ARM64, FAST, IMAGE, LAYERS, SECRET, auth_file, fetch, pull
from kit.push import push
from kit.registry_server import PASSWORD, USER, RegistryServer, available


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path_factory.mktemp("registry"), password=True) as running:
        push(IMAGE, f"{running.address}/team/os:1", auth=(USER, PASSWORD))
        yield running


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = directory / "ca.pem", directory / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=test",
                    "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return certificate, key


@pytest.fixture(scope="module")
def tls_registry(certificate: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path_factory.mktemp("registry"), tls=certificate) as running:
        yield running


@pytest.mark.skipif(not available(), reason="docker-registry is not installed")
class TestRealRegistry:
    @pytest.mark.parametrize("docker", [False, True])
    def test_pull(self, registry: RegistryServer, docker: bool) -> None:
        image = ImageBuilder(LAYERS[:1] if docker else LAYERS, platform=AMD64, docker=docker)
        push(image, f"{registry.address}/example/os:{docker}".lower())
        reference = f"{registry.address}/example/os:{docker}".lower()
        fetched = fetch(reference)
        assert (fetched.digest, fetched.data) == (image.manifest_digest, image.manifest_bytes)
        assert fetched.reference_digest == fetched.digest
        assert pull(reference) == [layer.tar for layer in image.layers]

    def test_by_digest(self, registry: RegistryServer) -> None:
        push(IMAGE, f"{registry.address}/os:1")
        assert fetch(f"{registry.address}/os@{IMAGE.manifest_digest}").data == IMAGE.manifest_bytes
        with pytest.raises(ImageNotFound, match=f"{registry.address}/os@sha256:"):
            fetch(f"{registry.address}/os@{sha256(b'')}")
        with pytest.raises(ImageNotFound, match=f"{registry.address}/os:2: the registry has no such image"):
            fetch(f"{registry.address}/os:2")
        with pytest.raises(ImageNotFound):
            fetch(f"{registry.address}/another:1")

    @pytest.mark.parametrize("docker", [False, True])
    def test_index(self, registry: RegistryServer, docker: bool) -> None:
        images = {str(platform): ImageBuilder(LAYERS[:1], platform=platform, docker=docker)
                  for platform in (AMD64, ARM64)}
        index = IndexBuilder(list(images.values()), docker=docker)
        reference = f"{registry.address}/multi:{docker}".lower()
        push(index, reference)
        for platform in (AMD64, ARM64):
            fetched = fetch(reference, platform=platform)
            assert fetched.digest == images[str(platform)].manifest_digest
            assert fetched.reference_digest == index.manifest_digest
        with pytest.raises(NoMatchingPlatform, match=r"/multi.* for linux/s390x, only for: linux/am"):
            fetch(reference, platform=Platform("linux", "s390x"))

    def test_missing_blob(self, registry: RegistryServer) -> None:
        push(IMAGE, f"{registry.address}/gone:1")
        source = open_source(ImageReference.parse(f"{registry.address}/gone:1"), FAST)
        descriptor = replace(source.manifest(AMD64).manifest.layers[0], digest=sha256(b"other"))
        with pytest.raises(BlobNotFound, match=sha256(b"other")):
            read_blob(source, descriptor, 1 << 20)
        source.close()

    def test_resume(self, registry: RegistryServer) -> None:
        """The real registry understands our Range."""
        push(IMAGE, f"{registry.address}/os:1")
        source = open_source(ImageReference.parse(f"{registry.address}/os:1"), FAST)
        plain = source.manifest(AMD64).manifest.layers[2]
        assert b"".join(source.blob(plain, 99_990)) == LAYERS[2].tar[99_990:]
        source.close()

    def test_restart_in_the_middle(self, tmp_path: Path) -> None:
        layer = Layer(tar=os.urandom(32 << 20), compression=None)
        image = ImageBuilder([layer], platform=AMD64)
        with RegistryServer(tmp_path) as registry:
            push(image, f"{registry.address}/big:1")
            options = replace(FAST, backoff=0.1, attempts=8, max_backoff=1.0)
            source = open_source(ImageReference.parse(f"{registry.address}/big:1"), options)
            descriptor = source.manifest(AMD64).manifest.layers[0]
            digest = hashlib.sha256()
            with LayerReader(source, descriptor, layer.diff_id, max_size=1 << 30) as reader:
                digest.update(reader.read(1 << 20))
                registry.stop()
                registry.start()
                while data := reader.read(1 << 20):
                    digest.update(data)
            source.close()
            assert "sha256:" + digest.hexdigest() == layer.diff_id

    def test_not_running(self, tmp_path: Path) -> None:
        registry = RegistryServer(tmp_path)
        with registry:
            pass
        with pytest.raises(SourceUnreachable, match=f"^{registry.address}/os:1: Connection refused"):
            fetch(f"{registry.address}/os:1")


@pytest.mark.skipif(not available(), reason="docker-registry is not installed")
class TestRealRegistryWithPassword:
    def test_pull(self, guarded: RegistryServer, tmp_path: Path) -> None:
        file = auth_file(tmp_path / "auth.json", {guarded.address: f"{USER}:{PASSWORD}"})
        assert pull(f"{guarded.address}/team/os:1", replace(FAST, auth_file=file)) == [layer.tar for layer in LAYERS]

    def test_the_most_specific_entry_wins(self, guarded: RegistryServer, tmp_path: Path) -> None:
        file = auth_file(tmp_path / "auth.json", {guarded.address: "wrong:wrong",
                                                  f"{guarded.address}/team": f"{USER}:{PASSWORD}"})
        assert fetch(f"{guarded.address}/team/os:1", replace(FAST, auth_file=file)).digest == IMAGE.manifest_digest

    def test_without_credentials(self, guarded: RegistryServer, tmp_path: Path) -> None:
        file = auth_file(tmp_path / "auth.json", {})
        with pytest.raises(AuthenticationFailed, match=f"no credentials for {guarded.address} in {file}"):
            fetch(f"{guarded.address}/team/os:1", replace(FAST, auth_file=file))

    def test_wrong_password(self, guarded: RegistryServer, tmp_path: Path) -> None:
        file = auth_file(tmp_path / "auth.json", {guarded.address: f"{USER}:{SECRET}"})
        with pytest.raises(AuthenticationFailed, match=f"with the credentials from {file}") as caught:
            fetch(f"{guarded.address}/team/os:1", replace(FAST, auth_file=file))
        assert SECRET not in str(caught.value)


@pytest.mark.skipif(not available(), reason="docker-registry is not installed")
class TestRealRegistryWithTls:
    def test_trusted_by_its_file(self, tls_registry: RegistryServer, certificate: tuple[Path, Path]) -> None:
        with pytest.raises(ImageNotFound):
            fetch(f"{tls_registry.address}/os:1", replace(FAST, ca_file=certificate[0]))

    def test_not_trusted(self, tls_registry: RegistryServer) -> None:
        with pytest.raises(SourceUnreachable, match=r"certificate of 127\.0\.0\.1:.* is not trusted: self"):
            fetch(f"{tls_registry.address}/os:1")

    def test_insecure(self, tls_registry: RegistryServer) -> None:
        with pytest.raises(ImageNotFound):
            fetch(f"{tls_registry.address}/os:1", replace(FAST, insecure=True))

    def test_a_file_that_holds_no_certificate(self, certificate: tuple[Path, Path], tmp_path: Path) -> None:
        for file in (tmp_path / "none", certificate[1]):
            with pytest.raises(BootcdError, match=str(file)):
                fetch("127.0.0.1:1/os:1", replace(FAST, ca_file=file))
