# SPDX-License-Identifier: Apache-2.0
"""One image, pushed by every tool in every compression to registries with every kind of authentication, signed in every
way: each of them is pulled, with the same id, and each only by the policy that its signatures satisfy."""

from __future__ import annotations

import functools
import json
import os
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from bootcd.config import Config
from bootcd.errors import SignatureMissing
from bootcd.model import ImageReference, SilentProgress
from bootcd.ops import pull
from bootcd.ops.direct import DirectHost
from bootcd.ops.results import ImageInfo
from bootcd.registry.sources import SourceOptions
from bootcd.store.repository import Repository
from kit import openpgp, registry_server
from kit.chunked import ChunkedLayer
from kit.images import Compression, Dir, File, ImageBuilder, Layer, Symlink
from kit.os_images import base_layer
from kit.pulling import auth_file
from kit.push import push
from kit.registry_server import PASSWORD, USER, RegistryServer
from kit.signing import Signatures, key_signature, write_key
from kit.tls import Authority
from kit.token_server import TokenServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not registry_server.available(), reason="docker-registry is not installed"),
    pytest.mark.skipif(not openpgp.available(), reason="gpg or gpgv is not installed"),
    pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed"),
]

ENTRIES = [Dir("usr/share"), Dir("usr/share/data"), Symlink("usr/share/link", "data"),
           *(File(f"usr/share/data/{number}", bytes([number]) * 40_000) for number in range(5))]
REPOSITORY = "team/os"
SIGNER = "team@example.com"


@dataclass(frozen=True)
class Site:
    """A registry, and what leads into it: `flags` for skopeo (with SIDE for `src` or `dest`), `options` for us."""

    server: RegistryServer
    scheme: str
    flags: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    certs: Path | None = None
    password: bool = False
    tokens: TokenServer | None = None
    authority: Authority | None = None

    def name(self, tag: str) -> str:
        return f"{self.server.address}/{REPOSITORY}:{tag}"

    def push(self, image: ImageBuilder | Signatures, tag: str) -> None:
        """By the kit's own client."""
        push(image, self.name(tag), scheme=self.scheme,
             auth=(USER, PASSWORD) if self.password else None,
             token=self.tokens.token(f"repository:{REPOSITORY}:pull,push") if self.tokens is not None else "",
             verify=self.authority.certificate if self.authority is not None else None,
             cert=self.authority.pair("machine") if self.certs is not None and self.authority is not None else None)

    def flags_for(self, side: str) -> list[str]:
        return [flag.replace("SIDE", side) for flag in self.flags]


class Matrix:
    """The registries, the signers, and what every pull has to come to."""

    def __init__(self, directory: Path, keys: openpgp.Keys, store: str) -> None:
        self.directory = directory
        self.keys = keys
        keys.make(SIGNER)
        (directory / "team.gpg").write_bytes(keys.public(SIGNER))
        self.key = ec.generate_private_key(ec.SECP256R1())
        write_key(self.key, directory / "team.pub")
        self.stores = directory / "registries.d"
        self.stores.mkdir()
        (self.stores / "all.yaml").write_text(json.dumps({"default-docker": {
            "lookaside": store, "lookaside-staging": f"file://{directory}/lookaside",
            "use-sigstore-attachments": True}}))

    def image(self, case: str, compression: Compression = None, chunked: bool = False) -> ImageBuilder:
        """One for each case: what a registry has, skopeo does not compress again."""
        layers = [base_layer(extra=[File("usr/case", case.encode())]),
                  Layer([*ENTRIES, File("usr/share/case", case.encode())])]
        return ImageBuilder([ChunkedLayer(tar=one.tar) if chunked else Layer(tar=one.tar, compression=compression)
                             for one in layers])

    def layout(self, case: str) -> str:
        """Not compressed."""
        self.image(case).write_layout(self.directory / "layout", case)
        return f"oci:{self.directory}/layout:{case}"

    def policy(self, *requirements: dict[str, Any]) -> str:
        path = self.directory / "policy.json"
        path.write_text(json.dumps({"default": list(requirements)}))
        return str(path)

    def pull(self, reference: str, config: Config) -> ImageInfo:
        """Into an empty repository."""
        sysroot = self.directory / "sysroot"
        shutil.rmtree(sysroot, ignore_errors=True)
        Repository.init(sysroot / "composefs").close()
        host = DirectHost(sysroot, None, config, SilentProgress())
        return host.image_pull(reference, name="peer", bootable=True).image

    def layer_types(self, site: Site, case: str) -> set[str]:
        """Of the layers that were pushed."""
        done = run("skopeo", "inspect", "--raw", *(flag.replace("--SIDE-", "--") for flag in site.flags),
                   f"docker://{site.name(case)}")
        return {layer["mediaType"].rpartition(".")[2].replace("diff.tar", "tar").replace("tar.gzip", "tar+gzip")
                for layer in json.loads(done)["layers"]}

    def skopeo(self, *words: str | os.PathLike[str]) -> None:
        run("skopeo", "--policy", self.accept, "--registries.d", self.stores, *words,
            GNUPGHOME=os.fspath(self.keys.home))

    @functools.cached_property
    def accept(self) -> Path:
        path = self.directory / "accept.json"
        path.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        return path


def run(*words: str | os.PathLike[str], **environment: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def files_served(directory: Path, pair: tuple[Path, Path]) -> Iterator[str]:
    """The address of a web server, with TLS, that has the files of a directory."""
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=os.fspath(directory)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix")


@pytest.fixture(scope="module")
def authority(directory: Path) -> Authority:
    (directory / "tls").mkdir()
    return Authority.create(directory / "tls", "server", "machine")


@pytest.fixture(scope="module")
def matrix(directory: Path, authority: Authority) -> Iterator[Matrix]:
    (directory / "lookaside").mkdir()
    with openpgp.Keys(directory / "gpg") as keys, \
            files_served(directory / "lookaside", authority.pair("server")) as address:
        yield Matrix(directory, keys, address)


@pytest.fixture(scope="module")
def sites(directory: Path, authority: Authority) -> Iterator[dict[str, Site]]:
    with ExitStack() as stack:
        def started(name: str, **how: Any) -> RegistryServer:
            return stack.enter_context(RegistryServer(directory / name, **how))

        pair, ca = authority.pair("server"), authority.certificate
        tokens = stack.enter_context(TokenServer(directory / "tokens"))
        found = {
            "open": Site(started("open"), "http", ("--SIDE-tls-verify=false",), {"registry_ca_file": str(ca)}),
            "password": Site(started("password", tls=pair, password=True), "https", password=True, authority=authority),
            "token": Site(started("token", tls=pair, tokens=tokens.settings), "https", tokens=tokens,
                          authority=authority),
            "certificate": Site(started("certificate", tls=pair, clients=ca), "https", authority=authority,
                                certs=directory / "certs.d"),
        }
        for name in ("password", "token", "certificate"):
            site = found[name]
            certs = directory / "certs.d" / site.server.address
            certs.mkdir(parents=True)
            shutil.copy(ca, certs / "ca.crt")
            flags = [f"--SIDE-cert-dir={certs}"]
            settings = {"registry_ca_file": str(ca)}
            if name == "certificate":
                for file, target in zip(authority.pair("machine"), ("machine.cert", "machine.key"), strict=True):
                    shutil.copy(file, certs / target)
            else:
                flags.append(f"--SIDE-creds={USER}:{PASSWORD}")
                settings["registry_auth_file"] = str(
                    auth_file(directory / f"{name}.json", {site.server.address: f"{USER}:{PASSWORD}"}))
            found[name] = replace(site, flags=tuple(flags), settings=settings)
        yield found


# --- who pushes -------------------------------------------------------------------------------------------------------


def by_the_kit(matrix: Matrix, site: Site, case: str, compression: str) -> None:
    known: dict[str, Compression] = {"gzip": "gzip", "zstd": "zstd"}
    site.push(matrix.image(case, known.get(compression), compression == "zstd:chunked"), case)


def by_skopeo(matrix: Matrix, site: Site, case: str, compression: str) -> None:
    matrix.skopeo("copy", *site.flags_for("dest"), "--dest-compress-format", compression, matrix.layout(case),
                  f"docker://{site.name(case)}")


def by_buildah(matrix: Matrix, site: Site, case: str, compression: str) -> None:
    if shutil.which("buildah") is None:
        pytest.skip("buildah is not installed")
    store, state = matrix.directory / "store", matrix.directory / "run"
    matrix.skopeo("copy", matrix.layout(case), f"containers-storage:[vfs@{store}+{state}]localhost/os:{case}")
    flags = [flag.replace("--SIDE-", "--") for flag in site.flags]
    run("buildah", f"--root={store}", f"--runroot={state}", "--storage-driver=vfs", "push",
        f"--signature-policy={matrix.accept}", *flags, "--compression-format", compression, f"localhost/os:{case}", f"docker://{site.name(case)}")


def by_umoci(matrix: Matrix, site: Site, case: str, compression: str) -> None:
    """It changes the config of a layout; skopeo pushes what it made."""
    if shutil.which("umoci") is None:
        pytest.skip("umoci is not installed")
    layout = f"{matrix.directory}/umoci:{case}"
    matrix.skopeo("copy", matrix.layout(case), f"oci:{layout}")
    run("umoci", "config", "--image", layout, "--config.label", "by=umoci")
    matrix.skopeo("copy", *site.flags_for("dest"), f"oci:{layout}", f"docker://{site.name(case)}")


PUSHED = [(by_the_kit, "gzip"), (by_the_kit, "zstd"), (by_the_kit, "zstd:chunked"), (by_the_kit, "none"),
          (by_skopeo, "gzip"), (by_skopeo, "zstd"), (by_skopeo, "zstd:chunked"),
          (by_buildah, "gzip"), (by_buildah, "zstd"), (by_buildah, "zstd:chunked"), (by_umoci, "gzip")]
TYPES = {"gzip": "tar+gzip", "zstd": "tar+zstd", "zstd:chunked": "tar+zstd", "none": "tar"}


@pytest.mark.parametrize("where", ["open", "password", "token", "certificate"])
@pytest.mark.parametrize(("by", "compression"), PUSHED, ids=lambda value: getattr(value, "__name__", value))
def test_the_same_image_by_the_policy_that_its_signatures_satisfy(
    matrix: Matrix, sites: dict[str, Site], where: str, by: Callable[[Matrix, Site, str, str], None], compression: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site, case = sites[where], f"{where}-{by.__name__}-{compression}".replace(":", "-").replace("_", "-")
    by(matrix, site, case, compression)
    assert matrix.layer_types(site, case) == {TYPES[compression]}
    if site.certs is not None:
        certs, known = site.certs, pull.options_for

        def with_certificate(reference: ImageReference, config: Config) -> SourceOptions:
            return replace(known(reference, config), certs=(certs,))  # the directories of /etc are no place for tests

        monkeypatch.setattr(pull, "options_for", with_certificate)

    def pulled(*requirements: dict[str, Any]) -> ImageInfo:
        return matrix.pull(site.name(case), Config(
            **site.settings, registry_insecure=(site.server.address,) if site.scheme == "http" else (),
            trust_policy=matrix.policy(*requirements), trust_registries_d=str(matrix.stores)))

    gpg = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(matrix.directory / "team.gpg")}
    sigstore = {"type": "sigstoreSigned", "keyPath": str(matrix.directory / "team.pub")}
    image, here = pulled({"type": "insecureAcceptAnything"}), matrix.pull(matrix.layout(case), Config())
    assert (image.id, image.boot_id) == (here.id, here.boot_id)
    for missing in (gpg, sigstore):
        with pytest.raises(SignatureMissing):
            pulled(missing)
    # What skopeo signs is the manifest as it is: nothing is changed on the way from here to here.
    matrix.skopeo("copy", "--preserve-digests", *site.flags_for("src"), *site.flags_for("dest"), "--sign-by", SIGNER,
                  f"docker://{site.name(case)}", f"docker://{site.name(case)}")
    assert pulled(gpg).id == here.id
    with pytest.raises(SignatureMissing):
        pulled(gpg, sigstore)
    digest = image.manifest_digest
    site.push(Signatures([key_signature(matrix.key, digest, site.name(case))]), Signatures.tag(digest))
    assert pulled(gpg, sigstore).id == here.id
