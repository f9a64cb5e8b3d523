/* Causal attention over a cache: softmax(q k^T / sqrt(size)) v. */

#ifndef GLMTUI_ATTENTION_H
#define GLMTUI_ATTENTION_H

#include "numbers.h"

#define CHUNK 64        /* keys in one unit of work when there are few queries */
#define KEYS_AHEAD 2048 /* how far ahead keys and values are prefetched, in bytes */

#define LARGEST_HEAD 256 /* numbers */

/* A token attends to those before it and to itself; the cache holds them all. `heads` is divisible
   by `kv_heads`, `size` by 32, and it is LARGEST_HEAD at most. */
typedef struct {
    float *y;                  /* [tokens, heads, size] */
    const float *q;            /* [tokens, heads, size], tokens q_stride apart */
    const bf16 *keys, *values; /* [kv_heads, room, size] */
    long tokens, q_stride, room, offset, heads, kv_heads, size;
} Attention;

/* Size of the scratch memory that `attend` needs, in floats */
long attention_room(const Attention *a, int threads);

/* room: scratch memory of attention_room floats. */
void attend(const Attention *a, float *room, int threads);

/* The partial result of one query over one chunk of keys, in floats: `size` sums of values weighted
   by exp(score - largest score), then the largest score, then the sum of the weights. The rest is
   padding. */
INLINE long part_size(long size)
{
    return size + 8;
}

/* Fills the parts of queries that see the same `count` keys, up to CHUNK of them.
   parts: [queries, part_size]. q: [queries, size]. keys, values: [count, size]. */
typedef void AttendChunk(float *parts, const float *q, const bf16 *keys, const bf16 *values,
                         long count, long size, long queries);

AttendChunk attend_chunk_avx2, attend_chunk_avx512;

/* Of many queries, for processors with AMX */
long attention_room_amx(const Attention *a, int threads);
void attend_amx(const Attention *a, float *room, int threads);

#endif
