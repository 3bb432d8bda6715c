// SPDX-License-Identifier: Apache-2.0
// The fs-verity digest of a file with blocks of 4096 bytes and without salt: what composefs calls an image by.
// Documentation/filesystems/fsverity.rst, linux/fsverity.h.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum verity { VERITY_FOUND, VERITY_ABSENT, VERITY_OTHER, VERITY_FAILED };

// What the kernel measured and enforces whenever the file is read. `size` is 32 for SHA-256, 64 for SHA-512.
// ABSENT: the file has no fs-verity, or there is none here; OTHER: one of another algorithm; FAILED: errno says why.
enum verity kernel_digest(int fd, size_t size, uint8_t digest[static 64]);

// The same number, computed here. It says what the file holds now, and enforces nothing. False: errno says why.
bool computed_digest(int fd, size_t size, uint8_t digest[static 64]);
