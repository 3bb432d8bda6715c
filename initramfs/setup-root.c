// SPDX-License-Identifier: Apache-2.0
// bootcd-setup-root: makes the deployment that the kernel command line names the root file system. Runs in the initrd,
// when the physical root is mounted. docs/boot-chain.md says what it does step by step, and why.
//
// All is put together in a mount namespace of its own and brought into that of the system at the very end, by one
// mount. So an error, wherever it comes up, leaves nothing behind: one line, status 1, no root that was not verified.
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/mount.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "cmdline.h"
#include "config.h"
#include "image.h"
#include "mounts.h"
#include "say.h"

#ifndef VERSION
#define VERSION "unknown"
#endif
#define DETACH 2 // MNT_DETACH; <sys/mount.h> and <linux/mount.h> do not go together in glibc 2.36

struct options {
    const char *sysroot, *target, *cmdline, *config;
};

static struct options parse_options(int argc, char *argv[]) {
    enum { SYSROOT = 1, TARGET, CMDLINE, CONFIG, NO_KMSG, SHOW_VERSION };
    static const struct option known[] = {
        {"sysroot", required_argument, NULL, SYSROOT}, {"target", required_argument, NULL, TARGET},
        {"cmdline", required_argument, NULL, CMDLINE}, {"config", required_argument, NULL, CONFIG},
        {"no-kmsg", no_argument, NULL, NO_KMSG},       {"version", no_argument, NULL, SHOW_VERSION},
        {NULL, 0, NULL, 0},
    };
    struct options options = {"/sysroot", NULL, "/proc/cmdline", "/usr/lib/composefs/setup-root-conf.toml"};

    opterr = 0;
    for (int found; (found = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (found) {
        case SYSROOT: options.sysroot = optarg; break;
        case TARGET: options.target = optarg; break;
        case CMDLINE: options.cmdline = optarg; break;
        case CONFIG: options.config = optarg; break;
        case NO_KMSG: say_to_kernel_log = false; break;
        case SHOW_VERSION: (void)puts("bootcd-setup-root " VERSION); exit(EXIT_SUCCESS);
        default: die("cannot understand '%s'; see bootcd-setup-root(8)", argv[optind - 1]);
        }
    }
    if (optind < argc)
        die("cannot understand '%s'; see bootcd-setup-root(8)", argv[optind]);
    return options;
}

// The length; 0 also when there is no such file and there need not be one.
static size_t read_file(const char *path, char *buffer, size_t size, bool needed) {
    size_t length = 0;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

    if (file < 0 && errno == ENOENT && !needed)
        return 0;
    if (file < 0)
        die_errno("cannot read %s", path);
    for (ssize_t got = 1; got > 0 && length < size; length += (size_t)got) {
        got = read(file, buffer + length, size - length);
        if (got < 0)
            die_errno("cannot read %s", path);
    }
    (void)close(file);
    if (length == size)
        die("%s has more than %zu bytes", path, size - 1);
    return length;
}

static void read_cmdline(const char *path, struct cmdline *cmdline) {
    static char text[MAX_CMDLINE + 1];
    char problem[MAX_PROBLEM];

    if (!parse_cmdline(text, read_file(path, text, sizeof text, true), cmdline, problem))
        die("kernel command line: %s", problem);
    if (cmdline->count == 0)
        die("kernel command line: neither composefs.digest= nor composefs= names an image");
    if (cmdline->volatile_unknown)
        say(SAY_WARNING, "kernel command line: unknown value of systemd.volatile=, which is not heeded");
    sort_kargs(cmdline);
}

static const char *config_path;

static void unknown_key(unsigned line, const char *key) {
    say(SAY_WARNING, "%s, line %u: unknown key '%s', which is not heeded", config_path, line, key);
}

static struct config read_config(const char *path) {
    static char text[MAX_CONFIG + 1];
    char problem[MAX_TEXT];
    struct config config;
    unsigned line;

    config_path = path;
    if (!parse_config(text, read_file(path, text, sizeof text, false), &config, unknown_key, &line, problem))
        die("%s, line %u: %s", path, line, problem);
    return config;
}

// As systemd-volatile-root.service, which comes later, will have it: with `yes` nothing but /usr is kept, and with the
// others /var is not the machine's.
static void heed_volatile(struct config *config, enum volatile_mode mode) {
    if (mode != VOLATILE_NO)
        config->var = MODE_NONE;
    if (mode == VOLATILE_YES)
        config->etc = MODE_NONE;
}

// What there is to build with: descriptors of directories, and the id of the deployment.
struct site {
    int workshop, sysroot;
    int image; // mounted, read-only
    int root;  // the same, or the writable overlay over it
    const char *id;
};

// An overlay over `lower`, mounted on `place`. What is written goes to `state`, or is lost when that is the workshop.
static int overlay(int lower, int place, int state, const char *upper, const char *work, const char *source) {
    struct layers layers = {.source = source,
                            .lower = lower,
                            .data = NO_LAYER,
                            .upper = make_directory(state, upper, lower),
                            .work = make_directory(state, work, NO_LAYER)};
    return mount_overlay(&layers, place);
}

// Give the new root its /etc or /var. Overlays are over the image's directory also where the root is one: the kernel
// does not stack three, and nothing was written yet.
static void add_state(const struct site *site, const char *name, enum mode mode) {
    char path[sizeof "state/deploy//etc" + 2 * MAX_DIGEST], what[MAX_TEXT + 2 * MAX_DIGEST], upper[16], work[16];

    if (mode == MODE_NONE)
        return;
    (void)snprintf(what, sizeof what, "cannot open the directory %s of the image %s", name, site->id);
    int lower = open_beneath(site->image, name, false, what);
    int place = open_beneath(site->root, name, false, what);
    if (mode == MODE_TRANSIENT) {
        (void)snprintf(upper, sizeof upper, "%s.upper", name);
        (void)snprintf(work, sizeof work, "%s.work", name);
        (void)overlay(lower, place, site->workshop, upper, work, "transient");
        return;
    }
    (void)snprintf(path, sizeof path, "state/deploy/%s/%s", site->id, name);
    (void)snprintf(what, sizeof what, "cannot open %s", path);
    int state = open_beneath(site->sysroot, path, true, what); // var is a link to ../../os/default/var
    if (mode == MODE_BIND)
        attach(clone_tree(state, false), place);
    else
        (void)overlay(lower, place, state, "upper", "work", "overlay");
}

// The physical root, read-only; bootcd makes it writable for itself. An image without the directory does without it.
static void add_sysroot(const struct site *site) {
    int place = try_open_beneath(site->root, "sysroot", O_PATH | O_DIRECTORY, false);
    if (place >= 0)
        attach(clone_tree(site->sysroot, true), place);
    else if (errno == ENOENT)
        say(SAY_WARNING, "the image has no directory 'sysroot': the physical root will not be seen");
    else
        die_errno("cannot open the directory sysroot of the image %s", site->id);
}

// systemd-gpt-auto-generator finds the ESP by the disk of the root file system, which is no disk any more. This is how
// systemd-volatile-root.service helps it, and nothing depends on it. Nor is an encrypted volume: what counts there is the
// partition that it is in.
static void remember_disk(void) {
    struct stat disk;
    char path[64];

    if (stat("/dev/gpt-auto-root-luks", &disk) != 0 && stat("/dev/gpt-auto-root", &disk) != 0)
        return;
    if (!S_ISBLK(disk.st_mode))
        return;
    (void)snprintf(path, sizeof path, "/dev/block/%u:%u", major(disk.st_rdev), minor(disk.st_rdev));
    (void)!symlink(path, "/run/systemd/volatile-root");
}

int main(int argc, char *argv[]) {
    struct cmdline cmdline;
    struct statvfs physical;
    char source[sizeof "transient:composefs=" + 2 * MAX_DIGEST];
    struct options options = parse_options(argc, argv);

    umask(022);
    read_cmdline(options.cmdline, &cmdline);
    struct config config = read_config(options.config);
    heed_volatile(&config, cmdline.volatile_mode);

    struct site site = {.workshop = enter_workshop()};
    // A running system, unlike an initrd, has the physical root mounted read-only, which /etc and /var shall not be.
    if (options.target != NULL)
        make_writable(options.sysroot);
    site.sysroot = open(options.sysroot, O_PATH | O_DIRECTORY | O_CLOEXEC); // of the workshop's namespace
    if (site.sysroot < 0 || fstatvfs(site.sysroot, &physical) != 0)
        die_errno("cannot open the physical root %s", options.sysroot);
    struct image image = open_image(site.sysroot, &cmdline);
    site.id = image.id;

    (void)snprintf(source, sizeof source, "composefs:%s", image.id); // by which bootcd knows what runs
    struct layers layers = {.source = source,
                            .lower = mount_erofs(image.fd, site.workshop, "image"),
                            .data = image.objects,
                            .upper = NO_LAYER,
                            .work = NO_LAYER,
                            .require_verity = image.fsverity};
    site.image = site.root = mount_overlay(&layers, make_directory(site.workshop, "root", NO_LAYER));
    if (config.root_transient) {
        (void)snprintf(source, sizeof source, "transient:composefs=%s", image.id);
        site.root = overlay(site.image, site.image, site.workshop, "root.upper", "root.work", source);
    }
    add_sysroot(&site);
    add_state(&site, "etc", config.etc);
    add_state(&site, "var", config.var);
    if ((physical.f_flag & ST_RDONLY) && (config.etc == MODE_BIND || config.var == MODE_BIND))
        say(SAY_WARNING, "%s is mounted read-only, so /etc and /var are; the kernel argument rw is missing",
            options.sysroot);

    int tree = clone_tree(site.root, false);
    leave_workshop();
    remember_disk();
    if (options.target == NULL && syscall(SYS_umount2, options.sysroot, DETACH) != 0)
        die_errno("cannot unmount %s", options.sysroot);
    const char *target = options.target ? options.target : options.sysroot;
    if (syscall(SYS_move_mount, tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) != 0)
        die_errno("cannot mount the new root on %s", target);
    say(SAY_INFO, "%s is image %s, fs-verity %s, /etc %s, /var %s%s", target, image.id,
        image.fsverity ? "required" : "absent", mode_name(config.etc), mode_name(config.var),
        config.root_transient ? ", transient" : "");
    return EXIT_SUCCESS;
}
