# SPDX-License-Identifier: Apache-2.0
"""bootcd keeps a Linux machine on the operating system that a container image describes."""

__version__ = "0.1.0"
