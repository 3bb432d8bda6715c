# SPDX-License-Identifier: Apache-2.0
"""Images, Debian packages, a pusher and a registry. Nothing here imports pytest: the demo and benchmarks use it too."""
