/* What this machine can do at most: memcpy, one stream of reads, first touch of memory, and, in the shape of a
 * Reed-Solomon code, XOR of the same traffic and GF(2^8) multiplications on registers alone. Built with -march=native. */
#define _GNU_SOURCE
#include "line.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

typedef uint64_t vector __attribute__((vector_size(64)));

static uint8_t *source, *target;
static size_t bytes, shards, outputs, shard_bytes, stride;
static volatile uint64_t sink;

static void release(void) {
    free(source);
    free(target);
    source = target = NULL;
}

static void copy(void) { memcpy(target, source, bytes); }

static void scan(void) {
    const vector *at = (const vector *)source, *end = (const vector *)(source + bytes);
    vector a = {0}, b = {0}, c = {0}, d = {0};
    for (; at + 4 <= end; at += 4) {
        a ^= at[0];
        b ^= at[1];
        c ^= at[2];
        d ^= at[3];
    }
    a ^= b ^ c ^ d;
    sink = a[0] ^ a[1] ^ a[2] ^ a[3] ^ a[4] ^ a[5] ^ a[6] ^ a[7];
}

static void fault(void) {
    uint8_t *fresh = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fresh == MAP_FAILED) abort();
    for (size_t at = 0; at < bytes; at += 4096) ((volatile uint8_t *)fresh)[at] = 1;
    munmap(fresh, bytes);
}

/* 256 bytes of each stream per step, as our kernel walks; every output gets what was read, so the traffic is that of RS. */
#define XOR_LOOP(STORE)                                                                       \
    for (size_t at = 0; at < shard_bytes; at += 256) {                                        \
        vector sum[4] = {{0}, {0}, {0}, {0}};                                                 \
        for (size_t shard = 0; shard < shards; shard++) {                                     \
            const vector *from = (const vector *)(source + shard * stride + at);              \
            for (int lane = 0; lane < 4; lane++) sum[lane] ^= from[lane];                     \
        }                                                                                     \
        for (size_t output = 0; output < outputs; output++) {                                 \
            vector *to = (vector *)(target + output * stride + at);                           \
            for (int lane = 0; lane < 4; lane++) STORE(to + lane, sum[lane]);                 \
        }                                                                                     \
    }

#define STORE_PLAIN(TO, VALUE) (*(TO) = (VALUE))
static void xor_plain(void) { XOR_LOOP(STORE_PLAIN) }

#if defined(__x86_64__)
static inline void store_past(vector *to, vector value) {
    for (int part = 0; part < 8; part += 2)
        _mm_stream_si128((__m128i *)((uint64_t *)to + part), _mm_set_epi64x((long long)value[part + 1], (long long)value[part]));
}
#if defined(__AVX512F__)
#define STORE_PAST(TO, VALUE) _mm512_stream_si512((__m512i *)(TO), (__m512i)(VALUE))
#elif defined(__AVX__)
static inline void store_past_256(vector *to, vector value) {
    __m256i halves[2];
    memcpy(halves, &value, sizeof halves);
    _mm256_stream_si256((__m256i *)to, halves[0]);
    _mm256_stream_si256((__m256i *)to + 1, halves[1]);
}
#define STORE_PAST(TO, VALUE) store_past_256(TO, VALUE)
#else
#define STORE_PAST(TO, VALUE) store_past(TO, VALUE)
#endif
static void xor_past(void) {
    XOR_LOOP(STORE_PAST)
    _mm_sfence();
}
#endif

/* As many GF(2^8) multiplications as the code has, on registers and into nothing: the rate at which they can be issued.
 * Their sums are left out, as how many XORs they need is a matter of the kernel (one ternary XOR adds two products), and
 * the lookups of nibbles too. In assembler, as a compiler would take the one product out of the loop. */
#if defined(__GFNI__) && defined(__AVX512F__)
#define GF_PATH "gfni-512"
typedef __m512i lane;
#define MULTIPLY __asm__ volatile("vgf2p8affineqb $0, %2, %1, %0" : "=v"(product) : "v"(value), "v"(matrix));
#elif defined(__AVX2__)
#define GF_PATH "avx2-pshufb"
typedef __m256i lane;
#define MULTIPLY                                                                                   \
    __asm__ volatile("vpshufb %1, %2, %0" : "=x"(product) : "x"(value), "x"(matrix));              \
    __asm__ volatile("vpshufb %1, %2, %0" : "=x"(product) : "x"(value), "x"(matrix));
#endif
#ifdef GF_PATH
static void gf(void) {
    lane product, value, matrix;
    memset(&value, (int)sink & 15, sizeof value);
    memset(&matrix, 7, sizeof matrix);
    for (uint64_t left = (uint64_t)shards * outputs * shard_bytes / sizeof(lane) / 8; left > 0; left--) {
        MULTIPLY MULTIPLY MULTIPLY MULTIPLY MULTIPLY MULTIPLY MULTIPLY MULTIPLY
    }
}
#endif

/* The faster of two, by the best of a few tries of each. */
static work_fn faster(work_fn one, work_fn two) {
    int64_t best[2] = {INT64_MAX, INT64_MAX};
    for (int attempt = 0; attempt < 32; attempt++) {
        work_fn each = attempt % 2 ? two : one;
        int64_t begin = now_ns();
        each();
        int64_t spent = now_ns() - begin;
        if (spent < best[attempt % 2]) best[attempt % 2] = spent;
    }
    return best[0] <= best[1] ? one : two;
}

static work_fn prepare(const struct request *request, char *fields, size_t length) {
    const char *work = request->words[1];
    release();
    bytes = number(request, "bytes", 0);
    if (strncmp(work, "roofline.", 9) != 0) return fail("unknown work %s", work);
    work += 9;
    if (strcmp(work, "memcpy") == 0 || strcmp(work, "read") == 0 || strcmp(work, "fault") == 0) {
        if (bytes == 0 || bytes % 256) return fail("bytes must be a multiple of 256");
        if (strcmp(work, "fault") == 0) return fault;
        source = allocate(bytes);
        if (strcmp(work, "read") == 0) return scan;
        target = allocate(bytes);
        return copy;
    }
    shards = number(request, "k", 0);
    outputs = number(request, "m", 0);
    shard_bytes = number(request, "shard_bytes", 0);
    stride = shard_bytes + number(request, "skew_bytes", SKEW_BYTES);
    if (shards == 0 || outputs == 0 || shard_bytes == 0 || shard_bytes % 256 || stride % 64)
        return fail("k, m and shard_bytes, a multiple of 256, are needed");
    if (strcmp(work, "gf") == 0) {
#ifdef GF_PATH
        snprintf(fields, length, "path=%s", GF_PATH);
        return gf;
#else
        return fail("missing no loop for this CPU was written");
#endif
    }
    if (strcmp(work, "xor") != 0) return fail("unknown work roofline.%s", work);
    source = allocate(shards * stride);
    target = allocate(outputs * stride);
    work_fn chosen = xor_plain;
#if defined(__x86_64__)
    chosen = faster(xor_plain, xor_past);
#endif
    snprintf(fields, length, "path=%s", chosen == xor_plain ? "plain" : "non-temporal");
    return chosen;
}

int main(void) {
    return serve("roofline", "1", "roofline.memcpy,roofline.read,roofline.fault,roofline.xor,roofline.gf", prepare);
}
