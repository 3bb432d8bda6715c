# SPDX-License-Identifier: Apache-2.0
"""How a pull of an image would go, step by step, in the order in which it goes.

Nothing is decided here. What files say is told by the functions that a pull asks for its decisions; what a registry
says, by a pull that ends before the first layer, and that is watched (registry/observe.py); for root it is the process
without rights that asks, as ever. A step that fails does not keep others from being told, as far as they do not need
it.

This runs in the process of the caller and never in the daemon: it explains files of the machine, and whose right it is
to read them is half of the explanation; asked by anybody, the daemon would tell what only root may read. It pulls as
root and with an environment of its own, and where that may make a difference, a note says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from ..errors import BootcdError
from ..formats.oci import Descriptor
from ..model import ImageReference, Platform, size_text
from ..registry import registries
from ..registry.client import served_by
from ..registry.judgement import POLICIES, Judgement, Outcome, policy_file
from ..registry.opening import endpoints, open_source
from ..registry.sources import FetchedManifest, Source, SourceOptions
from . import admit, doctor_layers
from .diagnosis import Diagnosis, DiagnosisStep
from .doctor_places import Asked, Place, Telling, Watch, text
from .machine import Machine
from .pull import fetch_config, options_for
from .sight import SANDBOXED

_ATTEMPTS = 2
"""Who wants to know what is wrong does not want to wait until it is right."""
_SHOWN = 20
"""Images of an index that are listed."""


def diagnose(machine: Machine, image: str, *, offline: bool = False) -> Diagnosis:
    """Tell how a pull of `image` would go; with `offline`, without a connection. Changes nothing, and takes no lock.
    What goes wrong is in the answer, and no error."""
    return _Examination(machine, image, offline).diagnosis()


class _Examination:
    def __init__(self, machine: Machine, image: str, offline: bool) -> None:
        self._machine = machine
        self._image = image
        self._offline = offline
        self._steps: list[DiagnosisStep] = []
        self._variables: list[str] = []
        self._files: list[str] = []
        self._watch = Watch()
        self._error: BootcdError | None = None
        """What the pull ends with."""
        self._complete = False
        """Whether there was nothing that was not looked at."""

    def diagnosis(self) -> Diagnosis:
        reference = self._name()
        if reference is not None and reference.transport == "docker":
            self._at_registry(reference)
        elif reference is not None:
            self._at_hand(reference)
        works, summary = None, "Nothing that can be seen without a connection keeps a pull from working."
        if self._complete:
            works, summary = True, "A pull would work."
        told = Diagnosis(self._image, works, summary, notes=tuple(self._notes()), steps=tuple(self._steps))
        error = self._error
        if error is None:
            return told
        return replace(told, works=False, summary=f"A pull would fail: {error}", error=error.bus_name(),
                       message=str(error), advice=error.hint, exit_status=error.exit_status)

    def _notes(self) -> Iterator[str]:
        if os.geteuid() != 0:
            yield (f"This is what uid {os.geteuid()} can read. The daemon pulls as root, with what root can read; "
                   "'sudo bootcctl doctor' tells of that.")
        closed = [file for file in dict.fromkeys(self._files) if any(map(Path(file).is_relative_to, SANDBOXED))]
        if closed:
            yield f"The daemon cannot see {', '.join(closed)}: home directories and /tmp are closed to it."
        if self._variables:
            yield (f"The daemon does not have your environment, of which {', '.join(dict.fromkeys(self._variables))} "
                   "counts here; bootcd.toml(5) has keys for the same.")

    @contextmanager
    def _step(self, name: str) -> Iterator[Telling]:
        told = Telling("", name)
        try:
            yield told
        except BootcdError as error:
            told.fail(error)
            self._fail(error)
        self._steps.append(told.told())

    def _fail(self, error: BootcdError | None) -> None:
        self._error = self._error or error

    # --- where the image is ---

    def _name(self) -> ImageReference | None:
        reference: ImageReference | None = None
        with self._step("name") as told:
            image = self._expanded()
            if image != self._image:
                told.says.append(f"an alias of registries.conf: {self._image} stands for {image}")
            reference = ImageReference.parse(image).absolute()
            told.facts |= {"transport": reference.transport, "name": reference.name, "tag": reference.tag or "",
                           "digest": reference.digest or ""}
            if reference.transport != "docker":
                self._files += [reference.path] if reference.path else []
                which = f"image {reference.tag}" if reference.tag else reference.digest or "the only image"
                told.says.append(f"{which} in {reference.name} ({reference.transport})")
            else:
                told.says.append(f"registry {reference.host}, repository {reference.repository}"
                                 + (f", tag {reference.tag}" if reference.tag else "")
                                 + (f", digest {reference.digest}" if reference.digest else ""))
                host, repository = served_by(reference)
                if host != reference.host:
                    told.says.append(f"{host} serves it, as {repository}")
                if reference.tag and reference.digest:
                    told.says.append("the digest alone counts, whatever the tag names")
                elif reference.tag == "latest" and not self._image.endswith(":latest"):
                    told.says.append("the tag is latest where there is neither a tag nor a digest")
        return reference

    def _expanded(self) -> str:
        """Files that make no sense are a step of their own."""
        if not registries.is_short(self._image):
            return self._image
        with suppress(BootcdError):
            return registries.load(registries.files(self._machine.config.registry_registries_file)).expand(self._image)
        return self._image

    def _at_hand(self, reference: ImageReference) -> None:
        source: Source | None = None
        fetched: FetchedManifest | None = None
        with self._step("source") as told:
            source = open_source(reference, options_for(reference, self._machine.config))
            fetched = source.manifest(Platform.current())
            told.says.append(f"{reference.name} can be read")
            if fetched.delta is not None:
                told.says.append(f"it is a delta, made from {fetched.delta.origin}, which has to be in the repository")
        self._image_of(reference, source, fetched)

    def _at_registry(self, reference: ImageReference) -> None:
        options = replace(options_for(reference, self._machine.config), attempts=_ATTEMPTS)
        found = self._registries(reference, options)
        if found is None:
            self._image_of(reference, None, None)
            return
        places = [Place(endpoint, there) for endpoint, there in endpoints(reference, options, found)]
        self._fail(next((place.error for place in places if place.error is not None), None))
        source: Source | None = None
        fetched: FetchedManifest | None = None
        asked: list[Asked] = []
        missing = self._unseen()
        if self._error is None and not self._offline:
            try:
                source = open_source(reference, replace(options, observer=self._watch), found)
                fetched = source.manifest(Platform.current())
                missing = "it is not asked, since one before it delivers"
            except BootcdError as error:
                self._fail(error)
            asked = self._watch.asked(len(places), self._error)
        for number, place in enumerate(places):
            self._steps += place.steps(asked[number] if number < len(asked) else missing, self._watch,
                                       fatal=fetched is None)
            self._variables += place.variables
            self._files += place.files
        self._image_of(reference, source, fetched)

    def _registries(self, reference: ImageReference, options: SourceOptions) -> registries.Registries | None:
        found: list[registries.Registries] = []
        with self._step("registries.conf") as told:
            choice = registries.choose(self._machine.config.registry_registries_file)
            self._variables += [choice.variable] if choice.variable else []
            read = registries.load(choice.files)
            self._files += map(str, read.files)
            told.facts["files"] = " ".join(map(str, read.files))
            there = choice.files[0] in read.files
            told.says.append(f"{choice.files[0]} ({choice.why})" if there else
                             f"there is none; it would be {choice.why}")
            told.says += [f"and {path}" for path in read.files if path != choice.files[0]]
            table = read.about(reference)
            if table is None:
                told.says.append("nothing in them is about this name" if read.files else
                                 "the name says where the image is")
            else:
                told.facts |= {"prefix": table.prefix, "origin": table.origin}
                told.says.append(f"[[registry]] '{table.prefix}' in {table.origin} is about this name")
            route = read.route(reference)
            told.says += [f"mirror {mirror.name} is {mirror.pulls}, and therefore not asked"
                          for mirror in route.passed_over]
            if table is not None:
                told.says += [f"{'mirror' if endpoint.is_mirror else 'registry'}: {endpoint.reference}"
                              f"{', insecure' if endpoint.insecure else ''}" for endpoint in route.endpoints]
            if options.insecure:
                told.says.append(f"insecure in bootcd.toml has {reference.host}")
            found.append(read)
        return found[0] if found else None

    def _unseen(self) -> str:
        return "left out by --offline" if self._offline else "it cannot be told, since something before it fails"

    # --- what it is ---

    def _image_of(self, reference: ImageReference, source: Source | None, fetched: FetchedManifest | None) -> None:
        """What can be told of the image, or without one of what would be done with it."""
        try:
            if source is None or fetched is None:
                self._policy(reference, None)
                return
            self._manifest(fetched)
            self._policy(reference, (source, fetched))
            layers = self._config(source, fetched)
            if layers is not None:
                self._layers(source, fetched, layers)
            self._complete = True
        finally:
            if source is not None:
                source.close()

    def _manifest(self, fetched: FetchedManifest) -> None:
        with self._step("manifest") as told:
            told.facts |= {"digest": fetched.digest, "reference-digest": fetched.reference_digest}
            told.says.append(f"{fetched.digest}")
            if fetched.indexes:
                told.says.append(f"chosen for {Platform.current()} from the index {fetched.reference_digest}:")
            for index in fetched.indexes:
                told.says += [f"{item.platform or 'no platform named'}, {item.digest}"
                              f"{' (taken)' if item.digest == fetched.digest else ''}"
                              for item in index.manifests[:_SHOWN]]
                if index.manifests[_SHOWN:]:
                    told.says.append(f"and {len(index.manifests) - _SHOWN} more")

    def _policy(self, reference: ImageReference, image: tuple[Source, FetchedManifest] | None) -> None:
        with self._step("policy") as told:
            config = self._machine.config
            file = policy_file(config.trust_policy)
            if file is None:
                told.says.append(f"there is neither {' nor '.join(map(str, POLICIES))}, so any image is taken, and no "
                                 "signature is asked for")
                return
            from ..registry import trust

            why = "policy in bootcd.toml" if config.trust_policy else (
                f"the first that exists of {' and '.join(map(str, POLICIES))}")
            told.says.append(f"{file} ({why})")
            told.facts["file"] = str(file)
            self._files += filter(None, (str(file), config.trust_timestamp_ca_file))
            loaded = trust.load(config.trust_policy, config.trust_registries_d, config.trust_bundles,
                                config.trust_timestamp_ca_file)
            assert loaded.policy is not None
            prospect = trust.about(loaded, loaded.policy, reference)
            told.facts["scope"] = prospect.scope
            told.says.append(f"{prospect.scope} decides about this image")
            for demand in prospect.demands():
                told.says.append(f"{demand.kind}: {demand.text}")
            told.says += prospect.places()
            if image is not None:
                self._judged(told, reference, *image)
            elif prospect.rejects:
                raise admit.refusal(str(reference), Judgement(loaded.file, prospect.scope, (Outcome("reject", False),)))
            else:
                told.says.append(f"whether it accepts the image: {self._unseen()}")

    def _judged(self, told: Telling, reference: ImageReference, source: Source, fetched: FetchedManifest) -> None:
        try:
            judgement = admit.judge(self._machine, source, fetched)
        finally:
            told.says += map(text, self._watch.fresh())
        for outcome in judgement.outcomes:
            told.says += [f"{found.origin}: " + (f"does not count: {found.reason}" if found.reason
                                                 else f"counts, by {found.signer}") for found in outcome.findings]
        told.facts |= {"accepted": "yes" if judgement.accepted else "no", "signed-by": ", ".join(judgement.signers)}
        if not judgement.accepted:
            raise admit.refusal(f"{reference} ({fetched.digest})", judgement)
        told.says.append("the image is accepted")

    def _config(self, source: Source, fetched: FetchedManifest) -> list[tuple[Descriptor, str]] | None:
        """Tells what the config says. Returns the layers with their diff IDs, unless something is wrong with it."""
        layers: list[tuple[Descriptor, str]] | None = None
        with self._step("config") as told:
            # Whether the image is let in was told before; what it is for is told all the same, and nothing is kept.
            try:
                _, config = fetch_config(source, admit.Admitted(fetched, admit.Verification()))
            finally:
                told.says += map(text, self._watch.fresh())
            layers = list(fetched.manifest.check_image(config))
            size = sum(descriptor.size for descriptor, _ in layers)
            told.facts |= {"platform": str(config.platform), "layers": str(len(layers)), "size": str(size)}
            told.says.append(f"for {config.platform}; at most {size_text(size)} to download, in "
                             f"{len(layers)} layer{'' if len(layers) == 1 else 's'}")
        return layers

    def _layers(self, source: Source, fetched: FetchedManifest, layers: list[tuple[Descriptor, str]]) -> None:
        with self._step("layers") as told:
            try:
                doctor_layers.tell(told, self._machine, source, fetched, layers)
            finally:
                told.says += map(text, self._watch.fresh())
