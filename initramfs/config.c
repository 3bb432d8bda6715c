// SPDX-License-Identifier: Apache-2.0
#include "config.h"

#include <stdio.h>
#include <string.h>

enum key { ROOT_TRANSIENT, ETC_MOUNT, ETC_TRANSIENT, VAR_MOUNT, VAR_TRANSIENT, KEYS };

static const char *const KEY_NAMES[KEYS] = {
    "root.transient", "etc.mount", "etc.transient", "var.mount", "var.transient",
};

enum { MAX_NAME = 64 };

// What was read so far; a value is -1 while its key was not there.
struct state {
    const char *at, *end; // of the line
    char table[MAX_NAME];
    int values[KEYS];
    char *problem;
};

static const struct {
    const char *name;
    enum mode mode;
} MODES[] = {
    {"bind", MODE_BIND},           {"overlay", MODE_OVERLAY}, {"transient", MODE_TRANSIENT},
    {"volatile", MODE_TRANSIENT}, {"none", MODE_NONE},       {"root", MODE_NONE}, // two more words of bootc's
};

const char *mode_name(enum mode mode) {
    for (size_t i = 0; i < sizeof MODES / sizeof *MODES; i++)
        if (MODES[i].mode == mode)
            return MODES[i].name;
    return "?";
}

static bool fail(struct state *state, const char *what, const char *which) {
    (void)snprintf(state->problem, MAX_TEXT, which ? "%s '%s'" : "%s", what, which);
    return false;
}

static void skip_blanks(struct state *state) {
    while (state->at < state->end && (*state->at == ' ' || *state->at == '\t'))
        state->at++;
}

static bool is_bare(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

static bool accept(struct state *state, char c) {
    if (state->at == state->end || *state->at != c)
        return false;
    state->at++;
    return true;
}

// Nothing but a comment is left of the line.
static bool at_end(struct state *state) {
    skip_blanks(state);
    return state->at == state->end || *state->at == '#' ||
           fail(state, "something is left at the end of the line", NULL);
}

// Bare keys with dots between them, appended to `name`.
static bool read_name(struct state *state, char name[static MAX_NAME]) {
    size_t length = strlen(name);

    do {
        size_t before = length;
        skip_blanks(state);
        while (state->at < state->end && is_bare(*state->at)) {
            if (length + 2 >= MAX_NAME)
                return fail(state, "a key is too long", NULL);
            name[length++] = *state->at++;
        }
        if (length == before)
            return fail(state, "a key of letters, digits, '-' and '_' is expected", NULL);
        name[length++] = '.';
        skip_blanks(state);
    } while (accept(state, '.'));
    name[length - 1] = '\0';
    return true;
}

static bool read_table(struct state *state) {
    state->table[0] = '\0';
    if (!read_name(state, state->table))
        return false;
    return accept(state, ']') ? at_end(state) : fail(state, "']' is expected", NULL);
}

static bool read_bool(struct state *state, int *value) {
    char word[8] = "";
    for (size_t length = 0; state->at < state->end && is_bare(*state->at) && length < sizeof word - 1;)
        word[length++] = *state->at++;
    *value = strcmp(word, "true") == 0;
    return *value || strcmp(word, "false") == 0 || fail(state, "true or false is expected", NULL);
}

static bool read_mode(struct state *state, int *value) {
    char word[MAX_NAME];
    size_t length = 0;
    char quote = state->at < state->end ? *state->at : '\0';

    if (quote != '"' && quote != '\'')
        return fail(state, "a string is expected", NULL);
    for (state->at++; state->at < state->end && *state->at != quote; state->at++) {
        if (!is_bare(*state->at) || length + 1 >= sizeof word)
            return fail(state, "no such way to mount", NULL);
        word[length++] = *state->at;
    }
    word[length] = '\0';
    if (!accept(state, quote))
        return fail(state, "a string has no end", NULL);
    for (size_t i = 0; i < sizeof MODES / sizeof *MODES; i++) {
        if (strcmp(word, MODES[i].name) == 0) {
            *value = (int)MODES[i].mode;
            return true;
        }
    }
    return fail(state, "no such way to mount:", word);
}

static bool read_assignment(struct state *state, config_warning *warn, unsigned line) {
    char name[MAX_NAME] = "";
    int key, value;

    if (state->table[0] != '\0')
        (void)snprintf(name, sizeof name, "%.*s.", MAX_NAME - 2, state->table);
    if (!read_name(state, name))
        return false;
    if (!accept(state, '='))
        return fail(state, "'=' is expected", NULL);
    skip_blanks(state);
    for (key = 0; key < KEYS && strcmp(name, KEY_NAMES[key]) != 0; key++)
        ;
    if (key == KEYS) {
        if (strcmp(name, "root") == 0 || strcmp(name, "etc") == 0 || strcmp(name, "var") == 0)
            return fail(state, "an inline table is not understood; write a table", NULL);
        warn(line, name);
        return true;
    }
    if (state->values[key] >= 0)
        return fail(state, "a second value for", name);
    bool read = key == ETC_MOUNT || key == VAR_MOUNT ? read_mode(state, &value) : read_bool(state, &value);
    if (!read || !at_end(state))
        return false;
    state->values[key] = value;
    return true;
}

static bool read_line(struct state *state, config_warning *warn, unsigned line) {
    if (state->at < state->end && state->end[-1] == '\r')
        state->end--;
    for (const char *c = state->at; c < state->end; c++)
        if (((unsigned char)*c < 0x20 && *c != '\t') || *c == 0x7f)
            return fail(state, "a control character", NULL);
    skip_blanks(state);
    if (state->at == state->end || *state->at == '#')
        return true;
    return accept(state, '[') ? read_table(state) : read_assignment(state, warn, line);
}

static enum mode effective(int mount, int transient) {
    return mount >= 0 ? (enum mode)mount : transient > 0 ? MODE_TRANSIENT : MODE_BIND;
}

bool parse_config(const char *text, size_t length, struct config *result, config_warning *warn, unsigned *line,
                  char problem[static MAX_TEXT]) {
    struct state state = {.problem = problem, .values = {-1, -1, -1, -1, -1}};
    const char *end = text + length;

    *line = 0;
    for (const char *start = text; start < end;) {
        const char *newline = memchr(start, '\n', (size_t)(end - start));
        state.at = start;
        state.end = newline ? newline : end;
        ++*line;
        if (!read_line(&state, warn, *line))
            return false;
        start = newline ? newline + 1 : end;
    }
    result->root_transient = state.values[ROOT_TRANSIENT] > 0;
    result->etc = effective(state.values[ETC_MOUNT], state.values[ETC_TRANSIENT]);
    result->var = effective(state.values[VAR_MOUNT], state.values[VAR_TRANSIENT]);
    return true;
}
