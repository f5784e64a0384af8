/* Intel's ISA-L as a peer: encode and reconstruct with its Cauchy matrix, tables made beforehand as its users make them. */
#define _GNU_SOURCE
#include <isa-l.h>

#include "line.h"

static int shards, outputs, lost;
static size_t shard_bytes;
static uint8_t *memory, *tables;
static uint8_t *from[256], *to[256];

static void encode(void) { ec_encode_data((int)shard_bytes, shards, outputs, tables, from, to); }

static void reconstruct(void) { ec_encode_data((int)shard_bytes, shards, lost, tables, from, to); }

static work_fn prepare(const struct request *request, char *fields, size_t length) {
    int rebuild = strcmp(request->words[1], "erasure.reconstruct") == 0;
    if (!rebuild && strcmp(request->words[1], "erasure.encode") != 0) return fail("unknown work %s", request->words[1]);
    shards = (int)number(request, "k", 0);
    outputs = (int)number(request, "m", 0);
    lost = (int)number(request, "lost", 0);
    shard_bytes = number(request, "shard_bytes", 0);
    size_t stride = shard_bytes + number(request, "skew_bytes", SKEW_BYTES);
    int all = shards + outputs;
    if (shards < 1 || outputs < 1 || all > 255 || shard_bytes == 0 || shard_bytes > INT32_MAX)
        return fail("k, m and shard_bytes are out of range");
    if (rebuild && (lost < 1 || lost > outputs || lost > shards)) return fail("lost is out of range");
    free(memory);
    free(tables);
    memory = allocate((size_t)(all + lost) * stride);
    tables = allocate((size_t)32 * (size_t)shards * (size_t)all);
    uint8_t matrix[255 * 255];
    gf_gen_cauchy1_matrix(matrix, all, shards);
    int file = open(request->words[2], O_RDONLY | O_CLOEXEC);
    if (file < 0) return fail("the input cannot be opened");
    for (int at = 0; at < all; at++) {
        uint8_t *shard = memory + (size_t)at * stride;
        if (at < shards) from[at] = shard;
        else to[at - shards] = shard;
        if (at < shards && read_all(file, shard, shard_bytes) != 0) {
            close(file);
            return fail("the input is shorter than k shards");
        }
    }
    close(file);
    ec_init_tables(shards, outputs, matrix + shards * shards, tables);
    encode();
    uint32_t crc = 0;
    if (!rebuild) {
        for (int at = 0; at < outputs; at++) crc = crc32_of(crc, to[at], shard_bytes);
        snprintf(fields, length, "digest=%08" PRIx32, crc);
        return encode;
    }
    /* The first `lost` data shards are gone: what remains, and as many parity shards, take their place. */
    uint8_t kept[255 * 255], inverse[255 * 255];
    uint8_t *sources[256];
    for (int row = 0; row < shards; row++) {
        int which = row + lost;
        memcpy(kept + row * shards, matrix + which * shards, (size_t)shards);
        sources[row] = which < shards ? from[which] : to[which - shards];
    }
    if (gf_invert_matrix(kept, inverse, shards) != 0) return fail("the matrix cannot be inverted");
    ec_init_tables(shards, lost, inverse, tables);
    memcpy(from, sources, sizeof sources);
    for (int at = 0; at < lost; at++) to[at] = memory + (size_t)(all + at) * stride;
    reconstruct();
    for (int at = 0; at < lost; at++) crc = crc32_of(crc, to[at], shard_bytes);
    snprintf(fields, length, "digest=%08" PRIx32, crc);
    return reconstruct;
}

int main(int count, char **arguments) {
    char version[32];
    /* The version of the package that was unpacked, which the header alone does not tell to the last digit. */
    snprintf(version, sizeof version, "%s", count > 1 ? arguments[1] : "unknown");
    return serve("isa-l", version, "erasure.encode,erasure.reconstruct", prepare);
}
