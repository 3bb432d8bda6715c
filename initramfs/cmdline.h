// SPDX-License-Identifier: Apache-2.0
// The kernel command line: which image is the root file system.
//
//     composefs.digest=v1-sha512-12:<128 hex>    an EROFS image of version 0 or 1; `v2-...` one of version 2
//     composefs=<64 or 128 hex>                  one of version 2, the older form
//     a '?' right after the '='                  fs-verity is optional
//     systemd.volatile=yes|no|state|overlay      what of the machine's state is left out
//
// It is split at ASCII white space outside of double quotes; quotes have no escapes and stay in the argument.
// The same rules in Python: src/bootcd/boot/kargs.py.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MAX_CMDLINE = 16384, // bytes; the kernel's COMMAND_LINE_SIZE is 4096 at most where composefs is used
    MAX_KARGS = 8,       // two versions by two hash algorithms by two forms
    MAX_DIGEST = 64,
    MAX_PROBLEM = 256,
};

struct karg {
    uint8_t digest[MAX_DIGEST];
    size_t size;  // of the digest: 32 is SHA-256, 64 is SHA-512
    int version;  // 1 for EROFS V0 and V1, else 2
    bool legacy;  // written as composefs=
    bool optional; // fs-verity may lack
};

enum volatile_mode { VOLATILE_NO, VOLATILE_YES, VOLATILE_STATE, VOLATILE_OVERLAY };

struct cmdline {
    struct karg kargs[MAX_KARGS]; // in the order of the command line
    size_t count;
    enum volatile_mode volatile_mode;
    bool volatile_unknown; // systemd.volatile= has a value that nobody knows
};

// False when an argument that names an image is malformed or contradicts another one; `problem` says which and why.
bool parse_cmdline(const char *text, size_t length, struct cmdline *result, char problem[static MAX_PROBLEM]);

// Sort into the order in which images are looked for: first each composefs.digest=, then composefs=.
void sort_kargs(struct cmdline *cmdline);

void to_hex(const uint8_t *bytes, size_t size, char *text); // writes 2 * size + 1 bytes
