/* Causal attention over a cache: softmax(q k^T / sqrt(size)) v. */

#ifndef GLMTUI_ATTENTION_H
#define GLMTUI_ATTENTION_H

#include "numbers.h"

#define CHUNK 64        /* keys that one thread reads for a few queries before the next chunk */
#define KEYS_AHEAD 2048 /* bytes of keys and values that are fetched before they are needed */

#define LARGEST_HEAD 256 /* numbers */

/* A token attends to those before it and to itself; the cache holds them all. `heads` is divisible
   by `kv_heads`, `size` by 32, and it is LARGEST_HEAD at most. */
typedef struct {
    float *y;                  /* [tokens, heads, size] */
    const float *q;            /* [tokens, heads, size], tokens q_stride apart */
    const bf16 *keys, *values; /* [kv_heads, room, size] */
    long tokens, q_stride, room, offset, heads, kv_heads, size;
} Attention;

/* Numbers of room that `attend` needs */
long attention_room(const Attention *a, int threads);

/* room: [attention_room] */
void attend(const Attention *a, float *room, int threads);

/* What a chunk of keys adds to a query: the sum of its values, weighted by exp(score - largest
   score), then that largest score, then the sum of the weights */
INLINE long part_size(long size)
{
    return size + 8;
}

/* Fills the parts of queries that see the same `count` keys, up to CHUNK of them.
   parts: [queries, part_size]. q: [queries, size]. keys, values: [count, size]. */
typedef void AttendChunk(float *parts, const float *q, const bf16 *keys, const bf16 *values,
                         long count, long size, long queries);

/* Of processors with AVX-512, and with AMX */
AttendChunk attend_chunk_avx512;
long attention_room_amx(const Attention *a, int threads);
void attend_amx(const Attention *a, float *room, int threads);

#endif
