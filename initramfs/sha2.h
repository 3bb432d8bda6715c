// SPDX-License-Identifier: Apache-2.0
// SHA-256 and SHA-512 (FIPS 180-4), for files on a file system without fs-verity.
#pragma once

#include <stddef.h>
#include <stdint.h>

// `size` is that of the digest: 32 or 64.
void sha2(size_t size, const uint8_t *data, size_t length, uint8_t *digest);
