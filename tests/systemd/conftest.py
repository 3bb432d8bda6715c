# SPDX-License-Identifier: Apache-2.0
"""What is in `guest` runs in the virtual machine only."""

from __future__ import annotations

collect_ignore = ["guest"]
