# SPDX-License-Identifier: Apache-2.0
"""Is everything in the repository what its name says, and is everything there that something refers to?

`check` reads and reports, under the shared lock. Kinds of findings are those of cfsctl, and three for OCI documents
(`oci-…`). `repair` takes away what is damaged and nothing that is sound: objects with the wrong digest, names of
streams and images that cannot be read, names of layers of which a part is missing (so that a pull fetches them again),
and refs that lead nowhere. It returns what must be pulled again to be whole. Spec 3.9.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ..errors import BootcdError, ErofsError, IntegrityError, MetadataError, RepositoryDamaged
from ..formats.fsverity import Algorithm, Hasher, measure
from ..formats.splitstream import Splitstream
from ..linux import files, verity
from ..model import Progress, SilentProgress
from .damage import Damage
from .metadata import FILE_NAME, MAX_SIZE, Metadata
from .objects import CHUNK, parse_object_path
from .ociimages import OciImages
from .repository import Repository

WORKERS = 2
_WINDOW = 256


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: which kind, what it is about (an object, a link), and why."""

    kind: str
    what: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}: {self.detail}"


@dataclass(slots=True)
class FsckReport:
    """All findings and how much was looked at."""

    findings: list[Finding] = field(default_factory=list)
    objects: int = 0
    streams: int = 0
    images: int = 0
    bad_objects: set[bytes] = field(default_factory=set)

    @property
    def ok(self) -> bool:
        return not self.findings

    def add(self, kind: str, what: str, detail: object) -> None:
        self.findings.append(Finding(kind, what, str(detail)))


def check(repo: Repository, *, metadata_only: bool = False, progress: Progress | None = None) -> FsckReport:
    """Look at everything; `metadata_only` leaves out the contents of objects, which is most of the work."""
    report = FsckReport()
    _check_metadata(repo, report)
    _check_objects(repo, report, metadata_only, progress or SilentProgress())
    _check_streams(repo, report)
    _check_images(repo, report)
    _check_oci(repo, report)
    return report


def repair(repo: Repository, report: FsckReport) -> list[str]:
    """Remove what `check` found damaged and return the images (tags, else digests) that must be pulled again.

    Raises Busy when somebody else has the repository open.
    """
    repo.require_writable()
    with repo.exclusive():
        # Looked at again under the exclusive lock: the report may be old, and nothing sound may go.
        bad = {digest for digest in report.bad_objects
               if repo.objects.has(digest) and _object_problem(repo, digest)[0] is not None}
        damage = Damage(repo, bad)
        result = damage.to_pull()
        for what in damage.useless():
            kind, _, name = what.partition("/")
            (repo.streams if kind == "streams" else repo.images).links.unlink(name)
        files.step("fsck.after_links")
        for digest in sorted(bad):
            repo.objects.remove(digest)
        for links in (repo.streams.links, repo.images.links):
            names = set(links.names())
            with contextlib.suppress(RepositoryDamaged):  # what is no symlink stays, and stays in the report
                for ref in [ref for ref, name in links.refs().items() if name not in names]:
                    links.unref(ref)
        repo.sync()
        files.step("fsck.after_repair")
    return result


# --- checks -----------------------------------------------------------------------------------------------------


def _check_metadata(repo: Repository, report: FsckReport) -> None:
    try:
        with open(files.open_regular(FILE_NAME, repo.fd), "rb") as file:
            metadata = Metadata.parse(file.read(MAX_SIZE + 1))
    except (OSError, BootcdError) as error:
        report.add("metadata-parse-failed", FILE_NAME, error)
        return
    if metadata.algorithm != repo.algorithm:
        report.add("metadata-algorithm-mismatch", FILE_NAME, metadata.algorithm.identifier)


def _check_objects(repo: Repository, report: FsckReport, metadata_only: bool, progress: Progress) -> None:
    digests = list(_object_names(repo, report))
    report.objects = len(digests)
    if metadata_only:
        return
    progress.begin("Checking objects", sum(map(repo.objects.size, digests)))
    pairs = [digests[start : start + _WINDOW] for start in range(0, len(digests), _WINDOW)]

    def look(batch: list[bytes]) -> list[tuple[bytes, str, str]]:
        found = []
        for digest in batch:
            problem, size = _object_problem(repo, digest)
            progress.advance(size)
            if problem is not None:
                found.append((digest, *problem))
        return found

    with ThreadPoolExecutor(WORKERS, "fsck") as pool:
        try:
            for batch in pool.map(look, pairs):
                for digest, kind, detail in batch:
                    report.bad_objects.add(digest)
                    report.add(kind, f"objects/{digest.hex()}", detail)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _object_names(repo: Repository, report: FsckReport) -> Iterator[bytes]:
    """As `ObjectStore.all`, but a bad name is a finding and not the end."""
    top = os.path.join(repo.path, "objects")
    for first in range(256):
        prefix = f"{first:02x}"
        try:
            names = os.listdir(os.path.join(top, prefix))
        except FileNotFoundError:
            continue
        except OSError as error:
            report.add("unexpected-file-type", f"objects/{prefix}", error.strerror)
            continue
        for name in sorted(names):
            try:
                yield parse_object_path(f"{prefix}/{name}", repo.algorithm.digest_size)
            except RepositoryDamaged:
                report.add("object-invalid-name", f"objects/{prefix}/{name}", "no digest")


def _object_problem(repo: Repository, digest: bytes) -> tuple[tuple[str, str] | None, int]:
    """What is wrong with an object, if anything, and its size."""
    try:
        fd = repo.objects.open_unchecked(digest)
    except BootcdError as error:
        return ("object-open-failed", str(error)), 0
    with open(fd, "rb", buffering=0) as file:
        try:
            size = os.fstat(fd).st_size
            found = verity.measure(fd, repo.algorithm)
            if found is None and repo.secure:
                return ("object-verity-missing", "has no fs-verity"), size
            # The kernel's digest only says what it will insist on when somebody reads the content.
            if found is None or found == digest:
                found = _measure(file.fileno(), size, repo.algorithm)
        except (OSError, BootcdError) as error:
            return ("object-verity-failed", str(error)), 0
    if found != digest:
        return ("object-digest-mismatch", f"has the digest {found.hex()}"), size
    return None, size


def _measure(fd: int, size: int, algorithm: Algorithm) -> bytes:
    if size <= CHUNK:
        return measure(os.read(fd, CHUNK), algorithm)
    hasher = Hasher(algorithm)
    while data := os.read(fd, CHUNK):
        hasher.update(data)
    return hasher.digest()


def _check_streams(repo: Repository, report: FsckReport) -> None:
    present = _Present(repo)
    for name in repo.streams.names():
        report.streams += 1
        what = f"streams/{name}"
        digest = _link_target(repo, report, "streams", name)
        if digest is None:
            continue
        stream = _open_stream(repo, report, digest, what)
        if stream is None:
            continue
        missing = [ref for ref in stream.object_refs if ref not in present]
        if missing:
            report.add("missing-object-ref", what, f"{len(missing)} objects are missing, the first {missing[0].hex()}")
        for key, ref in stream.named_refs.items():
            if ref not in present:
                report.add("missing-named-ref", what, f"{key} leads to object {ref.hex()}, which is missing")
    _check_refs(repo, report, "streams")


def _open_stream(repo: Repository, report: FsckReport, digest: bytes, what: str) -> Splitstream | None:
    try:
        stream = repo.streams.open_id(digest)
        for _ in stream.chunks():
            pass
    except IntegrityError as error:
        report.bad_objects.add(digest)
        report.add("stream-open-failed", what, error)
    except BootcdError as error:
        report.add("stream-read-failed", what, error)
    else:
        return stream
    return None


def _check_images(repo: Repository, report: FsckReport) -> None:
    present = _Present(repo)
    for name in repo.images.links.names():
        report.images += 1
        what = f"images/{name}"
        digest = _link_target(repo, report, "images", name)
        if digest is None:
            continue
        if digest.hex() != name:
            report.add("image-invalid", what, f"leads to object {digest.hex()}")
            continue
        try:
            image = repo.images.read(digest)
            image.check()
            objects = image.objects()
        except ErofsError as error:
            report.add("image-invalid", what, error)
        except IntegrityError as error:
            report.bad_objects.add(digest)
            report.add("image-open-failed", what, error)
        except BootcdError as error:
            report.add("image-read-failed", what, error)
        else:
            missing = sorted(one for one in objects if one not in present)
            if missing:
                report.add("image-missing-object", what,
                           f"{len(missing)} objects are missing, the first {missing[0].hex()}")
    _check_refs(repo, report, "images")


def _link_target(repo: Repository, report: FsckReport, kind: str, name: str) -> bytes | None:
    links = repo.streams.links if kind == "streams" else repo.images.links
    what = f"{kind}/{name}"
    try:
        digest = links.target(name)
    except BootcdError as error:
        report.add("entry-not-symlink" if "symlink" in str(error) else "broken-symlink", what, error)
        return None
    if digest is None or not repo.objects.has(digest):
        report.add("broken-symlink", what, "its object is missing")
        return None
    return digest


def _check_refs(repo: Repository, report: FsckReport, kind: str) -> None:
    links = repo.streams.links if kind == "streams" else repo.images.links
    try:
        names = set(links.names())
        for ref, name in links.refs().items():
            if name not in names:
                report.add("broken-symlink", f"{kind}/refs/{ref}", f"leads to {name}, which is missing")
    except RepositoryDamaged as error:
        report.add("entry-not-symlink", f"{kind}/refs", error)


def _check_oci(repo: Repository, report: FsckReport) -> None:
    """Documents have their digest, and images their parts, by name."""
    oci = OciImages(repo)
    told = {finding.what for finding in report.findings}
    for digest in oci.manifests():
        what = f"streams/oci-manifest-{digest}"
        if what in told:
            continue
        try:
            missing = oci.missing(digest)
        except IntegrityError as error:
            report.add("oci-digest-mismatch", what, error)
        except (BootcdError, MetadataError) as error:
            report.add("oci-invalid", what, error)
        else:
            if missing:
                report.add("oci-incomplete", what, f"missing: {', '.join(missing)}")


class _Present:
    """Whether an object is there; asked once each."""

    def __init__(self, repo: Repository) -> None:
        self._objects = repo.objects
        self._known: dict[bytes, bool] = {}

    def __contains__(self, digest: bytes) -> bool:
        known = self._known.get(digest)
        if known is None:
            known = self._known[digest] = self._objects.has(digest)
        return known
