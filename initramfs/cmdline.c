// SPDX-License-Identifier: Apache-2.0
#include "cmdline.h"

#include <stdio.h>
#include <string.h>

#include "say.h"

static const char DIGEST_KEY[] = "composefs.digest=";
static const char LEGACY_KEY[] = "composefs=";
static const char VOLATILE_KEY[] = "systemd.volatile";

enum { SHOWN = 60 }; // bytes of a malformed argument that a message has

struct token {
    const char *text;
    size_t length;
};

void to_hex(const uint8_t *bytes, size_t size, char *text) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < size; i++) {
        *text++ = digits[bytes[i] >> 4];
        *text++ = digits[bytes[i] & 15];
    }
    *text = '\0';
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static bool is_blank(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

// The next argument from `*at` on; false at the end.
static bool next_token(const char *text, size_t length, size_t *at, struct token *token) {
    bool quoted = false;

    while (*at < length && is_blank(text[*at]))
        ++*at;
    token->text = text + *at;
    while (*at < length && (quoted || !is_blank(text[*at]))) {
        if (text[*at] == '"')
            quoted = !quoted;
        ++*at;
    }
    token->length = (size_t)(text + *at - token->text);
    return token->length > 0;
}

static bool take(struct token *token, const char *prefix) {
    size_t length = strlen(prefix);
    if (token->length < length || memcmp(token->text, prefix, length) != 0)
        return false;
    token->text += length;
    token->length -= length;
    return true;
}

static bool equals(struct token token, const char *text) {
    return take(&token, text) && token.length == 0;
}

// What follows the key. False when it is malformed.
static bool parse_value(struct token value, bool legacy, struct karg *karg) {
    *karg = (struct karg){.legacy = legacy, .version = 2};
    karg->optional = take(&value, "?");
    if (legacy) {
        karg->size = value.length / 2;
    } else {
        if (take(&value, "v1-"))
            karg->version = 1;
        else if (!take(&value, "v2-"))
            return false;
        if (take(&value, "sha256-12:"))
            karg->size = 32;
        else if (take(&value, "sha512-12:"))
            karg->size = 64;
    }
    if ((karg->size != 32 && karg->size != 64) || value.length != 2 * karg->size)
        return false;
    for (size_t i = 0; i < karg->size; i++) {
        int high = hex_digit(value.text[2 * i]), low = hex_digit(value.text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        karg->digest[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static enum volatile_mode parse_volatile(struct token value, bool *unknown) {
    static const char *const yes[] = {"1", "yes", "y", "true", "t", "on"};
    static const char *const no[] = {"0", "no", "n", "false", "f", "off"};

    *unknown = false;
    if (equals(value, "state"))
        return VOLATILE_STATE;
    if (equals(value, "overlay"))
        return VOLATILE_OVERLAY;
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
        if (equals(value, yes[i]))
            return VOLATILE_YES;
        if (equals(value, no[i]))
            return VOLATILE_NO;
    }
    *unknown = true;
    return VOLATILE_NO;
}

static void show(char problem[static MAX_PROBLEM], const char *what, struct token token) {
    size_t length = token.length > SHOWN ? SHOWN : token.length;
    (void)snprintf(problem, MAX_PROBLEM, "%s '%.*s%s'", what, (int)length, token.text,
                   length < token.length ? "..." : "");
    make_printable(problem);
}

// Add to the result. An image named twice is one; two images for the same version and algorithm are a contradiction,
// and which one was meant is not for us to guess.
static bool add(struct cmdline *result, const struct karg *karg, struct token token, char problem[static MAX_PROBLEM]) {
    for (size_t i = 0; i < result->count; i++) {
        const struct karg *other = &result->kargs[i];
        if (other->version != karg->version || other->size != karg->size)
            continue;
        if (other->optional != karg->optional || memcmp(other->digest, karg->digest, karg->size) != 0) {
            show(problem, "it names the image twice, differently; the second time with", token);
            return false;
        }
        if (other->legacy == karg->legacy)
            return true;
    }
    if (result->count == MAX_KARGS) {
        show(problem, "too many arguments that name an image, from here on:", token);
        return false;
    }
    result->kargs[result->count++] = *karg;
    return true;
}

bool parse_cmdline(const char *text, size_t length, struct cmdline *result, char problem[static MAX_PROBLEM]) {
    struct token token;

    memset(result, 0, sizeof *result);
    for (size_t at = 0; next_token(text, length, &at, &token);) {
        struct token value = token;
        struct karg karg;
        bool legacy = false;
        if (take(&value, DIGEST_KEY) || (legacy = take(&value, LEGACY_KEY))) {
            if (!parse_value(value, legacy, &karg)) {
                show(problem, "malformed argument", token);
                return false;
            }
            if (!add(result, &karg, token, problem))
                return false;
        } else if (take(&value, VOLATILE_KEY)) {
            if (value.length == 0) // as systemd does: without a value it does not change an earlier one
                result->volatile_mode = result->volatile_mode == VOLATILE_NO ? VOLATILE_YES : result->volatile_mode;
            else if (take(&value, "="))
                result->volatile_mode = parse_volatile(value, &result->volatile_unknown);
        }
    }
    return true;
}

void sort_kargs(struct cmdline *cmdline) {
    struct karg sorted[MAX_KARGS];
    size_t count = 0;

    for (int legacy = 0; legacy <= 1; legacy++)
        for (size_t i = 0; i < cmdline->count; i++)
            if (cmdline->kargs[i].legacy == (legacy == 1))
                sorted[count++] = cmdline->kargs[i];
    memcpy(cmdline->kargs, sorted, count * sizeof *sorted);
}
