/* Causal attention over a cache: softmax(q k^T / sqrt(size)) v. */

#ifndef GLMTUI_ATTENTION_H
#define GLMTUI_ATTENTION_H

#include "numbers.h"

/* A token attends to those before it and to itself; the cache holds them all. `heads` is divisible
   by `kv_heads`, `size` by 32. */
typedef struct {
    float *y;                  /* [tokens, heads, size] */
    const float *q;            /* [tokens, heads, size], tokens q_stride apart */
    const bf16 *keys, *values; /* [kv_heads, room, size] */
    long tokens, q_stride, room, offset, heads, kv_heads, size;
} Attention;

/* Numbers of room that a thread needs */
long attention_room(const Attention *a);

/* room: [threads, attention_room] */
void attend(const Attention *a, float *room, int threads);

#endif
