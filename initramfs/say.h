// SPDX-License-Identifier: Apache-2.0
// What the program tells people: always one line, on stderr and in the kernel's log, which a console shows.
#pragma once

#include <stdbool.h>

enum priority { SAY_ERROR = 3, SAY_WARNING = 4, SAY_INFO = 6 }; // those of syslog(3)

extern bool say_to_kernel_log; // true until an option says otherwise

void say(enum priority priority, const char *format, ...) __attribute__((format(printf, 2, 3)));

// An error; the program ends with status 1. `die_errno` adds what errno means.
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void die_errno(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Replace what a terminal would act on, so that foreign text can be shown.
void make_printable(char *text);
