# SPDX-License-Identifier: Apache-2.0
"""What depends on what in a repository, to tell which images a damaged object takes along.

Every name is a node: `streams/<name>` and `images/<hex>`. A node is *hurt* when its own object or one that it is made
of is missing or damaged, and *unreadable* when nothing can be made of it at all. A stream needs the nodes of its named
refs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import BootcdError
from .ociimages import CONFIG_PREFIX, IMAGE_KEY, MANIFEST_PREFIX, OciImages, stream_of_ref
from .repository import Repository


@dataclass(slots=True)
class _Node:
    unreadable: bool = False
    hurt: bool = False
    needs: set[str] = field(default_factory=set)


class Damage:
    """The names of a repository, judged with `bad` being the objects whose content is wrong. What is no link at all was
    put there by somebody else and is left alone."""

    def __init__(self, repo: Repository, bad: set[bytes]) -> None:
        self._repo = repo
        self._bad = bad
        self._nodes = {f"streams/{name}": self._stream(name) for name in repo.streams.names()}
        self._nodes.update((f"images/{name}", self._image(name)) for name in repo.images.links.names())

    def useless(self) -> list[str]:
        """The names that must go: what cannot be read, and streams that are not whole.

        An image whose files are missing stays: they come back with their layers.
        """
        return sorted(name for name, node in self._nodes.items()
                      if node.unreadable or (node.hurt and name.startswith("streams/")))

    def to_pull(self) -> list[str]:
        """Tags, else manifest digests, of the OCI images that are not whole; then, by name, what is hurt and belongs to
        no OCI image; and tags that lead nowhere."""
        tags: dict[str, list[str]] = {}
        for tag, digest in OciImages(self._repo).tags().items():
            tags.setdefault(digest, []).append(tag)
        result: list[str] = []
        owned: set[str] = set()
        for name in sorted(self._nodes):
            if not name.startswith("streams/" + MANIFEST_PREFIX):
                continue
            reached = self._reach(name)
            owned |= reached
            digest = name.removeprefix("streams/" + MANIFEST_PREFIX)
            if any(one not in self._nodes or self._nodes[one].hurt for one in reached):
                result += sorted(tags.get(digest, [])) or [digest]
        for digest, names in sorted(tags.items()):
            if f"streams/{MANIFEST_PREFIX}{digest}" not in self._nodes:
                result += sorted(names)
        for name, node in sorted(self._nodes.items()):
            if node.hurt and name not in owned:
                bare = name.partition("/")[2]
                result.append(bare.removeprefix("oci-layer-").removeprefix(CONFIG_PREFIX))
        return result

    def _reach(self, name: str) -> set[str]:
        reached: set[str] = set()
        pending = [name]
        while pending:
            name = pending.pop()
            if name not in reached:
                reached.add(name)
                if name in self._nodes:
                    pending.extend(self._nodes[name].needs)
        return reached

    def _is_bad(self, digest: bytes) -> bool:
        return digest in self._bad or not self._repo.objects.has(digest)

    def _stream(self, name: str) -> _Node:
        node = _Node()
        if not self._repo.streams.links.is_link(name):
            return node
        try:
            digest = self._repo.streams.links.target(name)
            if digest is None or self._is_bad(digest):
                return _Node(unreadable=True, hurt=True)
            stream = self._repo.streams.open_id(digest)
            for _ in stream.chunks():
                pass
        except BootcdError:
            return _Node(unreadable=True, hurt=True)
        node.hurt = any(map(self._is_bad, stream.object_refs))
        for key, ref in stream.named_refs.items():
            node.needs.add(f"images/{ref.hex()}" if key.startswith(IMAGE_KEY) else f"streams/{stream_of_ref(key)}")
        return node

    def _image(self, name: str) -> _Node:
        if not self._repo.images.links.is_link(name):
            return _Node()
        try:
            digest = self._repo.images.links.target(name)
            if digest is None or digest.hex() != name or self._is_bad(digest):
                return _Node(unreadable=True, hurt=True)
            image = self._repo.images.read(digest)
            image.check()
            return _Node(hurt=any(map(self._is_bad, image.objects())))
        except BootcdError:
            return _Node(unreadable=True, hurt=True)
