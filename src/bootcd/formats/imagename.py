# SPDX-License-Identifier: Apache-2.0
"""Image names as signatures and policies write them: in Docker's way, with what is left out filled in.

`busybox` is `docker.io/library/busybox`. A name may carry a tag, a digest, both or neither; nothing is added here.

Source: distribution/reference (normalisation), containers-policy.json(5), containers-registries.d(5).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import SignatureError, UsageError
from ..model import ImageReference


@dataclass(frozen=True, slots=True)
class ImageName:
    """`repository` is host and path; `tag` and `digest` are empty when they are not said."""

    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> ImageName:
        """Raises SignatureError."""
        bare, at, digest = text.partition("@")
        host, slash, _ = bare.partition("/")
        if not slash or not ("." in host or ":" in host or host == "localhost"):
            bare = f"docker.io/{bare}"
        try:
            read = ImageReference.parse(f"docker://{bare}{at}{digest}")
        except UsageError as error:
            raise SignatureError(f"'{text:.300}' is no image name") from error
        explicit = ":" in bare.rpartition("/")[2]
        return cls.of(replace(read, tag=read.tag if explicit else None))

    @classmethod
    def of(cls, reference: ImageReference) -> ImageName:
        """The name of an image at a registry."""
        host, _, path = reference.name.partition("/")
        if host == "index.docker.io":
            host = "docker.io"
        if host == "docker.io" and "/" not in path:
            path = f"library/{path}"
        return cls(f"{host}/{path}", reference.tag or "", reference.digest or "")

    def scopes(self) -> list[str]:
        """Under which names files speak of it, the most specific first: the image, its repository, the name spaces
        above, the host."""
        found = [f"{self.repository}@{self.digest}" if self.digest else f"{self.repository}:{self.tag}"]
        rest = self.repository
        while rest:
            found.append(rest)
            rest = rest.rpartition("/")[0]
        return found

    def wildcards(self) -> list[str]:
        """`*.DOMAIN` for each domain that the host is in, the smallest first. A port does not count."""
        host = self.repository.partition("/")[0].partition(":")[0]
        labels = host.split(".")
        return ["*." + ".".join(labels[start:]) for start in range(1, len(labels))]

    def __str__(self) -> str:
        return self.repository + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def path_scopes(path: str) -> list[str]:
    """A file or directory and all that it is in, but the root, which is what the default scope is for."""
    found = []
    while path not in ("", "/"):
        found.append(path)
        path = path.rpartition("/")[0]
    return found
