// SPDX-License-Identifier: Apache-2.0
#include "fsverity.h"

#include <errno.h>
#include <linux/fsverity.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "sha2.h"

enum { BLOCK = 4096, LEVELS = 8, DESCRIPTOR = 256 }; // 64 hashes a block: 8 levels are more than files can have

// One level of the tree of hashes: its last block, and how many hashes it has had.
struct level {
    uint8_t block[BLOCK];
    size_t fill;
    uint64_t count;
};

static struct level levels[LEVELS];

static void add_hash(unsigned depth, size_t size, const uint8_t *data);

static void end_block(unsigned depth, size_t size) {
    struct level *level = &levels[depth];
    memset(level->block + level->fill, 0, BLOCK - level->fill);
    level->fill = 0;
    add_hash(depth + 1, size, level->block);
}

static void add_hash(unsigned depth, size_t size, const uint8_t *data) {
    struct level *level = &levels[depth];
    sha2(size, data, BLOCK, level->block + level->fill);
    level->fill += size;
    level->count++;
    if (level->fill == BLOCK && depth + 1 < LEVELS)
        end_block(depth, size);
}

enum verity kernel_digest(int fd, size_t size, uint8_t digest[static 64]) {
    struct {
        struct fsverity_digest head;
        uint8_t digest[64];
    } measured = {.head.digest_size = 64};

    if (ioctl(fd, FS_IOC_MEASURE_VERITY, &measured) != 0)
        return errno == ENODATA || errno == ENOTTY || errno == EOPNOTSUPP ? VERITY_ABSENT : VERITY_FAILED;
    if (measured.head.digest_size != size ||
        measured.head.digest_algorithm != (size == 64 ? FS_VERITY_HASH_ALG_SHA512 : FS_VERITY_HASH_ALG_SHA256))
        return VERITY_OTHER;
    memcpy(digest, measured.digest, size);
    return VERITY_FOUND;
}

bool computed_digest(int fd, size_t size, uint8_t digest[static 64]) {
    static uint8_t buffer[64 * BLOCK];
    uint8_t descriptor[DESCRIPTOR] = {1, size == 64 ? FS_VERITY_HASH_ALG_SHA512 : FS_VERITY_HASH_ALG_SHA256, 12};
    uint64_t total = 0;
    size_t fill;

    memset(levels, 0, sizeof levels);
    do {
        for (fill = 0; fill < sizeof buffer;) {
            ssize_t got = pread(fd, buffer + fill, sizeof buffer - fill, (off_t)(total + fill));
            if (got < 0 && errno == EINTR)
                continue;
            if (got < 0)
                return false;
            if (got == 0)
                break;
            fill += (size_t)got;
        }
        memset(buffer + fill, 0, sizeof buffer - fill);
        for (size_t at = 0; at < fill; at += BLOCK)
            add_hash(0, size, buffer + at);
        total += fill;
    } while (fill == sizeof buffer);

    // The only hash of the topmost level is the root hash; that of an empty file is zero.
    unsigned depth = 0;
    for (; levels[depth].count > 1; depth++)
        if (levels[depth].fill > 0)
            end_block(depth, size);
    for (unsigned i = 0; i < 8; i++)
        descriptor[8 + i] = (uint8_t)(total >> 8 * i);
    memcpy(descriptor + 16, levels[depth].block, size);
    sha2(size, descriptor, sizeof descriptor, digest);
    return true;
}
