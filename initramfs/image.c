// SPDX-License-Identifier: Apache-2.0
#include "image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fsverity.h"
#include "mounts.h"
#include "say.h"

enum { SHORT = 12, MAX_METADATA = 8192 };

static const off_t MAX_IMAGE = 1 << 30; // bytes; what composefs-rs reads

static const char *algorithm(size_t size) {
    return size == 64 ? "sha512" : "sha256";
}

// Not found: say so, and whether the repository could ever have had it. Nothing is decided by meta.json.
_Noreturn static void not_found(int repository, const struct cmdline *cmdline, const char *id) {
    const struct karg *first = &cmdline->kargs[0];
    char metadata[MAX_METADATA + 1] = "", other[32];
    int file = try_open_beneath(repository, "meta.json", O_RDONLY | O_NONBLOCK, false);
    ssize_t length = file < 0 ? 0 : read(file, metadata, MAX_METADATA);

    metadata[length > 0 ? length : 0] = '\0';
    (void)snprintf(other, sizeof other, "\"fsverity-%s-12\"", algorithm(96 - first->size));
    if (cmdline->count == 1 && strstr(metadata, other) != NULL)
        die("the repository 'composefs' has images by %s, and the kernel command line names one by %s: %s",
            algorithm(96 - first->size), algorithm(first->size), id);
    die("the repository 'composefs' does not have the image %s%s", id,
        cmdline->count > 1 ? ", nor any other one that the kernel command line names" : "");
}

static void verify(struct image *image, const struct karg *karg) {
    uint8_t digest[MAX_DIGEST];
    char found[2 * MAX_DIGEST + 1];

    switch (kernel_digest(image->fd, karg->size, digest)) {
    case VERITY_FOUND:
        image->fsverity = true;
        break;
    case VERITY_ABSENT:
        if (!karg->optional)
            die("the image %s has no fs-verity, and the kernel command line demands it", image->id);
        if (!computed_digest(image->fd, karg->size, digest))
            die_errno("cannot read the image %s", image->id);
        break;
    case VERITY_OTHER:
        die("the image %s has an fs-verity digest of another algorithm than %s", image->id, algorithm(karg->size));
    case VERITY_FAILED:
        die_errno("cannot read the fs-verity digest of the image %s", image->id);
    }
    if (memcmp(digest, karg->digest, karg->size) != 0) {
        to_hex(digest, karg->size, found);
        die("the image %s has other content: its digest is %.*s...", image->id, SHORT, found);
    }
}

struct image open_image(int sysroot, const struct cmdline *cmdline) {
    struct image image = {.fd = -1};
    const struct karg *karg = cmdline->kargs;
    struct stat status;
    char path[sizeof "images/" + 2 * MAX_DIGEST], first[sizeof image.id];

    int repository = open_beneath(sysroot, "composefs", false, "cannot open the repository 'composefs'");
    to_hex(karg->digest, karg->size, first);
    for (size_t i = 0; i < cmdline->count && image.fd < 0; i++) {
        karg = &cmdline->kargs[i];
        to_hex(karg->digest, karg->size, image.id);
        (void)snprintf(path, sizeof path, "images/%s", image.id);
        // A link to ../objects/XX/REST. O_NONBLOCK: nothing that is no file shall make this wait.
        image.fd = try_open_beneath(repository, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, true);
        if (image.fd >= 0)
            break;
        if (errno == EXDEV)
            die("the link %s leads out of the repository", path);
        if (errno != ENOENT)
            die_errno("cannot open %s in the repository", path);
        if (try_open_beneath(repository, path, O_PATH | O_NOFOLLOW, true) >= 0)
            die("the image %s is damaged: its object is missing", image.id);
    }
    if (image.fd < 0)
        not_found(repository, cmdline, first);
    if (fstat(image.fd, &status) != 0)
        die_errno("cannot look at the image %s", image.id);
    if (!S_ISREG(status.st_mode) || status.st_size <= 0 || status.st_size > MAX_IMAGE)
        die("the image %s is no file, empty or too large", image.id);
    verify(&image, karg);
    image.objects = open_beneath(repository, "objects", false, "cannot open the repository's directory 'objects'");
    return image;
}
