# SPDX-License-Identifier: Apache-2.0
"""What the sandbox hides."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootcd.model import ImageReference
from bootcd.ops.sight import check_sight, hidden_in

SANDBOX = """\
600 599 254:1 / / ro,relatime shared:1 - ext4 /dev/vda1 rw
601 600 254:1 /tmp/systemd-private-0123-bootcd.service-abc/tmp /tmp rw,relatime - ext4 /dev/vda1 rw
602 600 0:24 /systemd/inaccessible/dir /home ro,nosuid - tmpfs tmpfs rw,mode=755
603 600 0:24 /systemd/inaccessible/dir /root ro,nosuid - tmpfs tmpfs rw,mode=755
604 600 0:24 /systemd/inaccessible/dir /run/user ro,nosuid - tmpfs tmpfs rw,mode=755
605 600 0:30 /systemd-private-0123-bootcd.service-abc/tmp /var/tmp rw - tmpfs tmpfs rw
"""
OUTSIDE = """\
27 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
28 27 0:30 / /tmp rw - tmpfs tmpfs rw
29 27 254:2 / /home rw - ext4 /dev/vda2 rw
"""


@pytest.mark.parametrize(("path", "place"), [
    ("/home/user/layout", "/home"), ("/root/x", "/root"), ("/tmp/x", "/tmp"), ("/var/tmp/x", "/var/tmp"),
    ("/run/user/1000/x", "/run/user"), ("/run/media/user/stick", None), ("/homes/x", None), ("/media/usb", None),
])
def test_what_systemd_puts_over_a_directory_hides_it(path: str, place: str | None) -> None:
    assert hidden_in(path, SANDBOX) == place
    assert hidden_in(path, OUTSIDE) is None


def test_outside_of_a_sandbox_nothing_is_hidden(tmp_path: Path) -> None:
    for text in (f"oci:{tmp_path}/missing", "quay.io/os", "containers-storage:os", "tar:/tmp/no/such", "dir:a"):
        check_sight(ImageReference.parse(text))
