// SPDX-License-Identifier: Apache-2.0
#include "say.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char NAME[] = "bootcd-setup-root";

enum { LINE = 900 }; // bytes; the kernel's log cuts off at about 1,000

bool say_to_kernel_log = true;

void make_printable(char *text) {
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = '?';
}

// One write each, so that the lines of two programs do not mix. There is nobody to tell when it fails.
static void put(enum priority priority, char *text) {
    char line[LINE + 64];

    make_printable(text);
    int length = snprintf(line, sizeof line, "<%d>%s: %s\n", (int)priority, NAME, text);
    if (length < 0 || (size_t)length >= sizeof line)
        return;
    if (say_to_kernel_log) {
        int log = open("/dev/kmsg", O_WRONLY | O_CLOEXEC | O_NOCTTY);
        if (log >= 0) {
            (void)!write(log, line, (size_t)length);
            (void)close(log);
        }
    }
    (void)!write(STDERR_FILENO, line + 3, (size_t)length - 3);
}

void say(enum priority priority, const char *format, ...) {
    char text[LINE];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    put(priority, text);
}

void die(const char *format, ...) {
    char text[LINE];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    put(SAY_ERROR, text);
    exit(EXIT_FAILURE);
}

void die_errno(const char *format, ...) {
    int error = errno;
    char text[LINE - 100];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    die("%s: %s", text, strerror(error));
}
