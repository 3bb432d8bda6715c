// SPDX-License-Identifier: Apache-2.0
// The parsers of bootcd-setup-root for tests: reads standard input, prints what was understood.
//
//     parsers cmdline                      one line "VERSION SIZE FORM OPTIONAL HEX" an image, then "volatile N UNKNOWN"
//     parsers config                       "ROOT ETC VAR" after a line "warning LINE KEY" for each unknown key
//     parsers digest 32|64                 the fs-verity digest of standard input, a file
//     parsers fuzz SECONDS SEED FILE...    mutations of the files for both text parsers; built with sanitizers
//
// Status 1 and "error ..." when the text was refused. For libFuzzer there is LLVMFuzzerTestOneInput.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cmdline.h"
#include "config.h"
#include "fsverity.h"

enum { MAX_INPUT = 1 << 16 };

static void print_warning(unsigned line, const char *key) {
    printf("warning %u %s\n", line, key);
}

static void ignore_warning(unsigned line, const char *key) {
    if (line == 0 || key[0] == '\0' || strlen(key) > 64)
        abort();
}

static int show_cmdline(const char *text, size_t length) {
    struct cmdline cmdline;
    char problem[MAX_PROBLEM], hex[2 * MAX_DIGEST + 1];

    if (!parse_cmdline(text, length, &cmdline, problem)) {
        printf("error %s\n", problem);
        return 1;
    }
    for (int sorted = 0; sorted < 2; sorted++) {
        for (size_t i = 0; i < cmdline.count; i++) {
            const struct karg *karg = &cmdline.kargs[i];
            to_hex(karg->digest, karg->size, hex);
            printf("%s %d %zu %d %d %s\n", sorted ? "order" : "found", karg->version, karg->size, karg->legacy,
                   karg->optional, hex);
        }
        sort_kargs(&cmdline);
    }
    printf("volatile %d %d\n", (int)cmdline.volatile_mode, cmdline.volatile_unknown);
    return 0;
}

static int show_config(const char *text, size_t length) {
    struct config config;
    unsigned line;
    char problem[MAX_TEXT];

    if (!parse_config(text, length, &config, print_warning, &line, problem)) {
        printf("error %u %s\n", line, problem);
        return 1;
    }
    printf("%d %s %s\n", config.root_transient, mode_name(config.etc), mode_name(config.var));
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// What must hold for any bytes; the sanitizers watch the rest.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct cmdline cmdline;
    struct config config;
    unsigned line;
    char problem[MAX_PROBLEM];
    // A copy of exactly this size, so that reading past the end is seen.
    char *text = malloc(size ? size : 1);

    if (text == NULL)
        abort();
    memcpy(text, data, size);
    memset(problem, 'x', sizeof problem);
    if (parse_cmdline(text, size, &cmdline, problem)) {
        size_t count = cmdline.count;
        sort_kargs(&cmdline);
        if (cmdline.count != count || count > MAX_KARGS)
            abort();
        for (size_t i = 0; i < count; i++)
            if ((cmdline.kargs[i].size != 32 && cmdline.kargs[i].size != 64) || (i && !cmdline.kargs[i].legacy &&
                cmdline.kargs[i - 1].legacy))
                abort();
    } else if (memchr(problem, '\0', sizeof problem) == NULL || strpbrk(problem, "\n\r\t\033") != NULL) {
        abort();
    }
    memset(problem, 'x', sizeof problem);
    if (!parse_config(text, size, &config, ignore_warning, &line, problem) &&
        (memchr(problem, '\0', MAX_TEXT) == NULL || line == 0 || strpbrk(problem, "\n\r\t\033") != NULL))
        abort();
    free(text);
    return 0;
}

#ifndef LIBFUZZER
static uint64_t state;

static size_t random_below(size_t limit) { // xorshift
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (size_t)(state % limit);
}

static size_t read_all(FILE *file, char *buffer) {
    return fread(buffer, 1, MAX_INPUT, file);
}

static size_t mutate(char *text, size_t length, const char *other, size_t other_length) {
    static const char *const words[] = {"composefs=", "composefs.digest=", "?", "v1-sha512-12:", "v2-sha256-12:", "\"", " ",
                                        "systemd.volatile=", "[etc]\n", "mount = ", "transient", "true", ".", "=", "#", "\n", "'"};
    for (size_t changes = 1 + random_below(6); changes > 0; changes--) {
        size_t at = random_below(length + 1), room = MAX_INPUT - length, count;
        switch (random_below(6)) {
        case 0: // one byte
            if (at < length)
                text[at] = (char)random_below(256);
            break;
        case 1: // cut the end off
            length = at;
            break;
        case 2: // take some out
            count = random_below(length - at + 1);
            memmove(text + at, text + at + count, length - at - count);
            length -= count;
            break;
        case 3: { // put a word in
            const char *word = words[random_below(sizeof words / sizeof *words)];
            if ((count = strlen(word)) > room)
                break;
            memmove(text + at + count, text + at, length - at);
            memcpy(text + at, word, count);
            length += count;
            break;
        }
        case 4: // repeat a part
            count = random_below(length - at + 1);
            if (count > room)
                break;
            memmove(text + at + count, text + at, length - at);
            length += count;
            break;
        default: // a part of another input
            count = random_below(other_length + 1);
            if (count > room)
                break;
            memmove(text + at + count, text + at, length - at);
            memcpy(text + at, other, count);
            length += count;
        }
    }
    return length;
}

static int fuzz(int argc, char *argv[]) {
    static char text[MAX_INPUT], seeds[16][MAX_INPUT];
    size_t lengths[16], count = 0, rounds = 0;
    double end = strtod(argv[2], NULL);
    struct timespec start, now;

    state = strtoull(argv[3], NULL, 10) * 2 + 1;
    for (int i = 4; i < argc && count < 16; i++) {
        FILE *file = fopen(argv[i], "rb");
        if (file == NULL)
            return 2;
        lengths[count] = read_all(file, seeds[count]);
        count++;
        fclose(file);
    }
    if (count == 0)
        return 2;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        for (int i = 0; i < 1000; i++, rounds++) {
            size_t seed = random_below(count), other = random_below(count);
            memcpy(text, seeds[seed], lengths[seed]);
            size_t length = mutate(text, lengths[seed], seeds[other], lengths[other]);
            LLVMFuzzerTestOneInput((const uint8_t *)text, length);
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((double)(now.tv_sec - start.tv_sec) + (double)(now.tv_nsec - start.tv_nsec) / 1e9 < end);
    printf("%zu\n", rounds);
    return 0;
}

int main(int argc, char *argv[]) {
    static char text[MAX_INPUT];
    uint8_t digest[64];
    char hex[2 * MAX_DIGEST + 1];

    if (argc == 2 && strcmp(argv[1], "cmdline") == 0)
        return show_cmdline(text, read_all(stdin, text));
    if (argc == 2 && strcmp(argv[1], "config") == 0)
        return show_config(text, read_all(stdin, text));
    if (argc == 3 && strcmp(argv[1], "digest") == 0) {
        size_t size = (size_t)atoi(argv[2]);
        if (!computed_digest(STDIN_FILENO, size, digest))
            return 1;
        to_hex(digest, size, hex);
        puts(hex);
        return 0;
    }
    if (argc > 4 && strcmp(argv[1], "fuzz") == 0)
        return fuzz(argc, argv);
    return 2;
}
#endif
