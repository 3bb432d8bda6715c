// SPDX-License-Identifier: Apache-2.0
// The image in the repository. Every function succeeds or ends the program with a message.
#pragma once

#include <stdbool.h>

#include "cmdline.h"

struct image {
    int fd;            // the file that was measured, and that has to be mounted
    int objects;       // the directory of the repository's objects, O_PATH
    bool fsverity;     // measured by the kernel, which enforces it; else computed here
    char id[2 * MAX_DIGEST + 1];
};

// The first image of the command line that the repository below `sysroot` has, its content verified.
struct image open_image(int sysroot, const struct cmdline *cmdline);
