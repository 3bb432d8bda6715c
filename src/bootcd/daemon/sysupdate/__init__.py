# SPDX-License-Identifier: Apache-2.0
"""org.freedesktop.sysupdate1, the interface of systemd-sysupdated, for GNOME Software, KDE Discover and updatectl.

A translator: it keeps nothing of its own, reads what the daemon has in memory, and lets the daemon's jobs do the work.
systemd takes the interface away in version 263; the clients that know nothing else stay for years. See
docs/desktops.md for what they expect.

    versions    what the deployments and the source are in the words of sysupdate
    requests    what a client wants, as a job of ours
    freshness   asking the source, but not too often and not for too long
    errors      what clients understand when something goes wrong
    jobs        the objects of jobs
    target      the objects of the manager and of the one target
    service     the connection with the name
"""
