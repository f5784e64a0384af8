/* The peer's side of docs/spec/bench-peer.md for programs in C: lines in, lines out. */
#ifndef ZOS_BENCH_LINE_H
#define ZOS_BENCH_LINE_H

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define WORDS_MAX 32
/* Shards at power-of-two strides alias in the caches: everybody gets the layout that ours has. */
#define SKEW_BYTES 4160
/* From here on ours has huge pages (native/buffer_pool.py), and so has everybody (BENCH-PEER-8). */
#define HUGE_BYTES ((size_t)2 << 20)

struct request {
    char *words[WORDS_MAX];
    int count;
};

/* A work that is ready: do it once. */
typedef void (*work_fn)(void);

static char error_text[512];

static work_fn fail(const char *form, ...) {
    va_list rest;
    va_start(rest, form);
    vsnprintf(error_text, sizeof error_text, form, rest);
    va_end(rest);
    return NULL;
}

/* The whole number of KEY=N, or `otherwise` where the key is not given. Ends the program on what is no number. */
static uint64_t number(const struct request *request, const char *key, uint64_t otherwise) {
    size_t length = strlen(key);
    for (int at = 3; at < request->count; at++) {
        const char *word = request->words[at];
        if (strncmp(word, key, length) == 0 && word[length] == '=') {
            char *end;
            uint64_t value = strtoull(word + length + 1, &end, 10);
            if (*end != 0 || end == word + length + 1) {
                printf("error %s is no number\n", word);
                fflush(stdout);
                exit(2);
            }
            return value;
        }
    }
    return otherwise;
}

/* `bytes` on a page boundary, of huge pages where ours are, touched, so that no page fault is left for the measure. */
static void *allocate(size_t bytes) {
    void *made = NULL;
    size_t rounded = bytes ? (bytes + 4095) / 4096 * 4096 : 4096;
    if (posix_memalign(&made, bytes >= HUGE_BYTES ? HUGE_BYTES : 4096, rounded) != 0) {
        printf("error no memory for %zu bytes\n", bytes);
        fflush(stdout);
        exit(2);
    }
    /* A kernel without transparent huge pages says EINVAL; ours has small ones there, too. */
    if (bytes >= HUGE_BYTES) (void)madvise(made, rounded, MADV_HUGEPAGE);
    memset(made, 1, rounded);
    return made;
}

/* Read exactly `bytes` of an open file. */
__attribute__((unused)) static int read_all(int file, void *into, size_t bytes) {
    size_t done = 0;
    while (done < bytes) {
        ssize_t got = read(file, (char *)into + done, bytes - done);
        if (got <= 0) return -1;
        done += (size_t)got;
    }
    return 0;
}

/* CRC-32 as zlib has it, continued from `crc`. */
__attribute__((unused)) static uint32_t crc32_of(uint32_t crc, const uint8_t *data, size_t length) {
    static uint32_t table[256];
    if (table[1] == 0) {
        for (uint32_t at = 0; at < 256; at++) {
            uint32_t value = at;
            for (int bit = 0; bit < 8; bit++) value = value & 1 ? 0xEDB88320u ^ (value >> 1) : value >> 1;
            table[at] = value;
        }
    }
    crc = ~crc;
    for (size_t at = 0; at < length; at++) crc = table[(crc ^ data[at]) & 255] ^ (crc >> 8);
    return ~crc;
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static long faults(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_minflt;
}

/* `prepare` makes a work ready and writes the fields of the answer, or fails with error_text ("missing ..." or a
 * sentence). Serves until stdin closes. */
static int serve(const char *peer, const char *version, const char *works,
                 work_fn (*prepare)(const struct request *, char *fields, size_t length)) {
    char *line = NULL;
    size_t space = 0;
    ssize_t length;
    work_fn work = NULL;
    printf("hello 1 peer=%s version=%s works=%s\n", peer, version, works);
    fflush(stdout);
    while ((length = getline(&line, &space, stdin)) > 0) {
        struct request request = {.count = 0};
        char *rest = NULL;
        if (line[length - 1] == '\n') line[length - 1] = 0;
        for (char *word = strtok_r(line, " ", &rest); word && request.count < WORDS_MAX; word = strtok_r(NULL, " ", &rest))
            request.words[request.count++] = word;
        if (request.count >= 3 && strcmp(request.words[0], "prepare") == 0) {
            char fields[512] = "";
            work = prepare(&request, fields, sizeof fields);
            if (work == NULL && strncmp(error_text, "missing ", 8) == 0) printf("%s\n", error_text);
            else if (work == NULL) printf("error %s\n", error_text);
            else printf("ok%s%s\n", *fields ? " " : "", fields);
        } else if (request.count == 2 && strcmp(request.words[0], "run") == 0 && work != NULL) {
            uint64_t count = strtoull(request.words[1], NULL, 10);
            long before = faults();
            int64_t begin = now_ns();
            for (uint64_t at = 0; at < count; at++) work();
            int64_t spent = now_ns() - begin;
            printf("ok ns=%" PRId64 " faults=%ld\n", spent, faults() - before);
        } else {
            printf("error not understood\n");
        }
        fflush(stdout);
    }
    free(line);
    return 0;
}

#endif
