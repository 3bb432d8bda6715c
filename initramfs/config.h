// SPDX-License-Identifier: Apache-2.0
// setup-root-conf.toml, as composefs-rs and bootc have it:
//
//     [root] transient = BOOL
//     [etc]  mount = "bind"|"overlay"|"transient"|"none", transient = BOOL
//     [var]  the same
//
// Of TOML there are comments, tables, bare and dotted keys, booleans and strings of one line without escapes.
// All else is an error; a key that nobody knows is a warning, and its value is not looked at.
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum { MAX_CONFIG = 16384, MAX_TEXT = 200 };

enum mode { MODE_BIND, MODE_OVERLAY, MODE_TRANSIENT, MODE_NONE };

struct config {
    bool root_transient;
    enum mode etc;
    enum mode var;
};

// Called for each key that is not known.
typedef void config_warning(unsigned line, const char *key);

// False when the text cannot be understood; `line` and `problem` say where and why. An empty text has the defaults.
bool parse_config(const char *text, size_t length, struct config *result, config_warning *warn, unsigned *line,
                  char problem[static MAX_TEXT]);

const char *mode_name(enum mode mode);
