// SPDX-License-Identifier: Apache-2.0
// By syscall(2): glibc has these since 2.36, other libraries not yet, and its <sys/mount.h> bites <linux/mount.h>.
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "say.h"

#ifndef MS_PRIVATE
#define MS_PRIVATE (1 << 18)
#endif

enum { ATTEMPTS = 64, MAX_SAID = 300 };

static int home_namespace, home_root, home_directory;

// --- file systems ----------------------------------------------------------------------------------------------------

static int fs_open(const char *type) {
    int fs = (int)syscall(SYS_fsopen, type, FSOPEN_CLOEXEC);
    if (fs < 0 && errno == ENODEV)
        die("the kernel has no file system '%s'; is its module in the initrd?", type);
    if (fs < 0)
        die_errno("cannot mount %s", type);
    return fs;
}

static long fs_configure(int fs, unsigned command, const char *key, const char *value, int fd) {
    return syscall(SYS_fsconfig, fs, command, key, value, fd);
}

// The message has the kernel's own words, if it has any.
_Noreturn static void fs_failed(int fs, const char *what) {
    int error = errno;
    char said[MAX_SAID];
    ssize_t length = read(fs, said, sizeof said - 1);

    while (length > 0 && said[length - 1] == '\n')
        length--;
    said[length > 0 ? length : 0] = '\0';
    errno = error;
    die_errno("%s%s%s%s", what, length > 0 ? " (" : "", length > 2 ? said + 2 : "", length > 0 ? ")" : "");
}

static void fs_string(int fs, const char *key, const char *value) {
    char what[160];
    (void)snprintf(what, sizeof what, "the kernel refuses the mount option %s=%s", key, value);
    if (fs_configure(fs, FSCONFIG_SET_STRING, key, value, 0) != 0)
        fs_failed(fs, what);
}

static int fs_mount(int fs, unsigned attributes, const char *what) {
    int mount = (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, attributes);
    if (mount < 0)
        fs_failed(fs, what);
    (void)close(fs);
    return mount;
}

void attach(int mount, int directory) {
    if (syscall(SYS_move_mount, mount, "", directory, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) != 0)
        die_errno("cannot put a mount into its place");
}

int clone_tree(int directory, bool read_only) {
    int tree = (int)syscall(SYS_open_tree, directory, "",
                            AT_EMPTY_PATH | AT_RECURSIVE | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY};

    if (tree < 0)
        die_errno("cannot bind-mount a directory");
    if (read_only && syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof attributes))
        die_errno("cannot make a mount read-only");
    return tree;
}

// --- the workshop ----------------------------------------------------------------------------------------------------

int enter_workshop(void) {
    struct mount_attr attributes = {.propagation = MS_PRIVATE};

    home_namespace = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
    home_root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    home_directory = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (home_namespace < 0 || home_root < 0 || home_directory < 0)
        die_errno("cannot open /proc/self/ns/mnt, / or the working directory");
    if (unshare(CLONE_NEWNS) != 0)
        die_errno("cannot make a mount namespace");
    if (syscall(SYS_mount_setattr, AT_FDCWD, "/", AT_RECURSIVE, &attributes, sizeof attributes) != 0)
        die_errno("cannot make mounts private");
    int fs = fs_open("tmpfs");
    fs_string(fs, "mode", "0755");
    if (fs_configure(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) != 0)
        fs_failed(fs, "cannot mount a tmpfs");
    int workshop = fs_mount(fs, 0, "cannot mount a tmpfs");
    int place = open("/run", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (place < 0)
        die_errno("cannot open /run");
    attach(workshop, place);
    return workshop;
}

void leave_workshop(void) {
    // setns() goes to the root of the namespace, which need not be ours.
    if (setns(home_namespace, CLONE_NEWNS) != 0 || fchdir(home_root) != 0 || chroot(".") != 0 ||
        fchdir(home_directory) != 0)
        die_errno("cannot return to the mount namespace of the system");
}

void make_writable(const char *path) {
    struct mount_attr attributes = {.attr_clr = MOUNT_ATTR_RDONLY};
    (void)syscall(SYS_mount_setattr, AT_FDCWD, path, 0, &attributes, sizeof attributes);
}

int try_open_beneath(int root, const char *path, int flags, bool links) {
    struct open_how how = {
        .flags = (unsigned)(flags | O_CLOEXEC),
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | (links ? 0 : RESOLVE_NO_SYMLINKS),
    };
    int fd = -1;

    // EAGAIN: something was renamed or mounted, anywhere, while a ".." was looked at.
    for (int i = 0; i < ATTEMPTS && fd < 0 && (i == 0 || errno == EAGAIN); i++)
        fd = (int)syscall(SYS_openat2, root, path, &how, sizeof how);
    return fd;
}

int open_beneath(int root, const char *path, bool links, const char *what) {
    int fd = try_open_beneath(root, path, O_PATH | O_DIRECTORY, links);
    if (fd < 0 && errno == EXDEV)
        die("%s: a symbolic link leads out of where it belongs", what);
    if (fd < 0 && errno == ELOOP)
        die("%s: a symbolic link where none belongs", what);
    if (fd < 0)
        die_errno("%s", what);
    return fd;
}

int make_directory(int parent, const char *name, int like) {
    struct stat model = {.st_mode = 0700};
    bool made = mkdirat(parent, name, 0700) == 0;

    if (!made && errno != EEXIST)
        die_errno("cannot make the directory '%s' for an overlay", name);
    int directory = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (directory < 0 || (like != NO_LAYER && fstat(like, &model) != 0) ||
        (made && (fchown(directory, model.st_uid, model.st_gid) != 0 || fchmod(directory, model.st_mode & 07777) != 0)))
        die_errno("cannot make the directory '%s' for an overlay", name);
    return directory;
}

// --- images ----------------------------------------------------------------------------------------------------------

// A free loop device for the file, read-only, that frees itself when the mount goes.
static int loop_device(int image, char path[static 32]) {
    struct loop_config config = {
        .fd = (unsigned)image, .block_size = 4096, .info.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR};
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);

    if (control < 0)
        die_errno("this kernel mounts images by a loop device, and /dev/loop-control cannot be opened");
    for (int i = 0; i < ATTEMPTS; i++) {
        int number = ioctl(control, LOOP_CTL_GET_FREE);
        if (number < 0)
            break;
        (void)snprintf(path, 32, "/dev/loop%d", number);
        int device = open(path, O_RDONLY | O_CLOEXEC);
        if (device < 0)
            break;
        if (ioctl(device, LOOP_CONFIGURE, &config) == 0) {
            (void)close(control);
            return device;
        }
        (void)close(device);
        if (errno != EBUSY) // else somebody was faster
            break;
    }
    die_errno("cannot set up a loop device for the image");
}

static int erofs_from(const char *source) {
    int fs = fs_open("erofs");
    fs_string(fs, "source", source);
    if (fs_configure(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0) != 0)
        fs_failed(fs, "the kernel refuses the mount option ro");
    if (fs_configure(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
        return fs_mount(fs, MOUNT_ATTR_RDONLY, "cannot mount the image");
    if (errno != ENOTBLK)
        fs_failed(fs, "cannot mount the image");
    (void)close(fs);
    return -1;
}

int mount_erofs(int image, int workshop, const char *name) {
    char path[32];
    int device = -1;

    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", image);
    int mount = erofs_from(path);
    if (mount < 0) { // before Linux 6.12, or without CONFIG_EROFS_FS_BACKED_BY_FILE
        device = loop_device(image, path);
        mount = erofs_from(path);
    }
    if (mount < 0)
        die("cannot mount the image: %s is no block device", path);
    if (device >= 0)
        (void)close(device);
    attach(mount, make_directory(workshop, name, NO_LAYER));
    return mount;
}

// By text, which every kernel that can be used here understands; layers as descriptors came with 6.13. A path through
// /proc leads to the directory that was opened, whatever its name is now.
static void set_layers(int fs, const struct layers *layers) {
    char text[80], path[32];

    int length = snprintf(text, sizeof text, "/proc/self/fd/%d", layers->lower);
    if (layers->data != NO_LAYER)
        (void)snprintf(text + length, sizeof text - (size_t)length, "::/proc/self/fd/%d", layers->data);
    fs_string(fs, "lowerdir", text);
    if (layers->upper == NO_LAYER)
        return;
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", layers->upper);
    fs_string(fs, "upperdir", path);
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", layers->work);
    fs_string(fs, "workdir", path);
}

int mount_overlay(const struct layers *layers, int where) {
    int fs = fs_open("overlay");

    fs_string(fs, "source", layers->source);
    if (layers->data != NO_LAYER) {
        fs_string(fs, "metacopy", "on");
        fs_string(fs, "redirect_dir", "on");
    }
    if (layers->require_verity)
        fs_string(fs, "verity", "require"); // Linux 6.6; an older kernel refuses, and must
    set_layers(fs, layers);
    if (fs_configure(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) != 0)
        fs_failed(fs, "cannot mount the overlay");
    int mount = fs_mount(fs, layers->upper == NO_LAYER ? MOUNT_ATTR_RDONLY : 0, "cannot mount the overlay");
    attach(mount, where);
    return mount;
}
