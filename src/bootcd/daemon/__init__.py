# SPDX-License-Identifier: Apache-2.0
"""bootcd: the bus, and nothing else. Work is done by worker processes."""
