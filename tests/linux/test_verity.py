# SPDX-License-Identifier: Apache-2.0
"""fs-verity by the kernel, where there is any."""

from __future__ import annotations

import os

import pytest

from bootcd.errors import Unsupported
from bootcd.formats.fsverity import Algorithm, measure
from bootcd.linux import files, verity


@pytest.mark.parametrize("algorithm", Algorithm)
def test_the_kernel_measures_what_we_measure(tmp_path, algorithm):
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        if not verity.supported(fd, algorithm):
            pytest.skip("the file system has no fs-verity")
        with files.tmpfile(fd) as temporary:
            os.write(temporary.fd, b"x" * 10000)
            with pytest.raises(verity.FileBusy):
                verity.enable(temporary.fd, algorithm)
            temporary.reopen_read_only()
            assert verity.measure(temporary.fd, algorithm) is None
            verity.enable(temporary.fd, algorithm)
            verity.enable(temporary.fd, algorithm)
            assert verity.measure(temporary.fd, algorithm) == measure(b"x" * 10000, algorithm)
    finally:
        os.close(fd)


def test_without_fs_verity():
    fd = os.memfd_create("x")
    try:
        assert verity.measure(fd, Algorithm.SHA512) is None
        with pytest.raises(Unsupported, match="does not support fs-verity"):
            verity.enable(fd, Algorithm.SHA512)
    finally:
        os.close(fd)
