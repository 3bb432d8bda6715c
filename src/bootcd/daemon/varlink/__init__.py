# SPDX-License-Identifier: Apache-2.0
"""The same in Varlink, which is what systemd goes on with: io.systemd.SysUpdate on a socket that systemd hands over."""
