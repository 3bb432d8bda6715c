# SPDX-License-Identifier: Apache-2.0
"""Lists everything that pyproject.toml wants for building, running, testing and checking, one requirement a line."""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())
wanted = [*project["build-system"]["requires"], "meson", "ninja", *project["project"]["dependencies"]]
for extra in project["project"]["optional-dependencies"].values():
    wanted += extra
print(*dict.fromkeys(wanted), sep="\n")
