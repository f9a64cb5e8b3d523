/* What the implementations of attention share: the problem, and the kernels for parts of it. */

#ifndef GLMTUI_ATTENTION_PARTS_H
#define GLMTUI_ATTENTION_PARTS_H

#include "simd.h"

#define CHUNK 64               /* keys in one unit of work if there are few queries */
#define KV_PREFETCH_BYTES 2048 /* how far ahead of their use keys and values are prefetched */
#define MAX_HEAD_SIZE 256      /* elements of one head */

/* One call of attention. A token attends to the tokens before it and to itself. The cache already
   holds all of them. `heads` is a multiple of `kv_heads`; `head_size` is a multiple of 32, at most
   MAX_HEAD_SIZE. */
typedef struct {
    float *y;                  /* [tokens, heads, head_size] */
    const float *q;            /* [tokens, heads, head_size], tokens q_stride apart */
    const bf16 *keys, *values; /* [kv_heads, allocated, head_size] */
    long tokens, q_stride;
    long allocated; /* tokens that the cache has memory for */
    long offset;    /* tokens in the cache before the first one of this call */
    long heads, kv_heads, head_size;
} Attention;

/* The partial result of one query for one chunk of keys, in floats: head_size sums of values
   weighted by exp(score - max score), then the max score, then the sum of the weights, then padding
   */
INLINE long part_stride(long size)
{
    return size + 8;
}

/* Computes the parts of queries that see the same `count` keys, at most CHUNK.
   parts: [queries, part_stride]. q: [queries, size]. keys, values: [count, size]. */
typedef void AttendChunk(float *parts, const float *q, const bf16 *keys, const bf16 *values,
                         long count, long size, long queries);

AttendChunk attend_chunk_avx2, attend_chunk_avx512;

/* Attention of many queries, for processors with AMX. workspace: attention_workspace_size_amx
   floats */
long attention_workspace_size_amx(const Attention *a, int threads);
void attend_amx(const Attention *a, float *workspace, int threads);

#endif
