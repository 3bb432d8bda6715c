// SPDX-License-Identifier: Apache-2.0
// Mounts, by the kernel's file descriptor API. Every function succeeds or ends the program with a message.
#pragma once

#include <stdbool.h>

enum { NO_LAYER = -1 };

// Leave for a mount namespace of our own, with an empty tmpfs at /run, whose descriptor is returned. What is mounted
// there until `leave_workshop` goes with this program, however it ends.
int enter_workshop(void);
void leave_workshop(void);

// Take "read-only" off a mount in the workshop's namespace, as far as it can be: that of its file system stays.
void make_writable(const char *path);

// Open a directory below another one, as O_PATH. What leads out of `root`, and magic links, are refused.
// `what` begins the message.
int open_beneath(int root, const char *path, bool links, const char *what);

// openat2(2) with the same limits; -1 with errno on failure.
int try_open_beneath(int root, const char *path, int flags, bool links);

// A directory in `parent`, made unless it is there. It gets mode and owner of `like`, or else 0700.
int make_directory(int parent, const char *name, int like);

// Mount an image on a new directory of the workshop, and an overlay on `where`; returned is the mount's descriptor.
int mount_erofs(int image, int workshop, const char *name);
struct layers {
    const char *source;
    int lower, data, upper, work; // data, or upper and work, may be NO_LAYER
    bool require_verity;
};
int mount_overlay(const struct layers *layers, int where);

// A copy of the mount of a directory with all below it, mounted nowhere yet.
int clone_tree(int directory, bool read_only);
void attach(int mount, int directory);
