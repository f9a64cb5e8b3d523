/* Attention of many queries by tiles of AMX: scores and values are multiplied in bfloat16 and added up
   in float32, as torch's own attention in bfloat16 does. */

#include <math.h>
#include <omp.h>

#include "attention.h"
#include "tiles.h"

#define QUERIES 32 /* tokens whose queries of one head are computed together */

/* The scratch memory of one call */
typedef struct {
    bf16 *keys;    /* rearranged: [kv_heads, length / SIDE, size / DEEP] tiles */
    bf16 *values;  /* rearranged: [kv_heads, length / DEEP, size / SIDE] tiles */
    bf16 *queries; /* [tokens rounded up to a multiple of SIDE, heads * size], zeros at the end */
    float *scores; /* [threads, QUERIES, length] */
    long length;   /* number of keys, rounded up to a multiple of DEEP */
} Room;

static long divide_room(Room *room, const Attention *a, float *start, int threads)
{
    room->length = multiple_of(DEEP, a->offset + a->tokens);
    const long cached = a->kv_heads * room->length * a->size / 2; /* in numbers of float32 */
    const long queries = multiple_of(SIDE, a->tokens) * a->heads * a->size / 2;
    room->keys = (bf16 *)start;
    room->values = (bf16 *)(start + cached);
    room->queries = (bf16 *)(start + 2 * cached);
    room->scores = start + 2 * cached + queries;
    return 2 * cached + queries + threads * QUERIES * room->length;
}

long attention_room_amx(const Attention *a, int threads)
{
    Room room;
    return divide_room(&room, a, NULL, threads) + SIDE; /* to begin at a multiple of 64 bytes */
}

/* ---- keys and values as tiles */

/* Rearranges 16 keys from `first` on into tiles. Beyond the last key, the last one is repeated. */
static void arrange_keys(bf16 *tiles, const bf16 *keys, long first, long length, long size)
{
    int32_t distance[SIDE];
    for (long i = 0; i < SIDE; i++)
        distance[i] = (int32_t)(lesser(first + i, length - 1) * size * sizeof *keys);
    const __m512i distances = _mm512_loadu_si512((const void *)distance);
    for (long c = 0; c < size; c += 2, tiles += 2 * SIDE)
        _mm512_storeu_si512((void *)tiles,
                            _mm512_i32gather_epi32(distances, (const int *)(keys + c), 1));
}

INLINE __m512i sixteen_values(const bf16 *values, long key, long length, long size)
{
    if (key >= length) /* its weight is 0, and 0 times an infinite number would be NaN */
        return _mm512_setzero_si512();
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(values + key * size)));
}

/* Rearranges 32 values from `first` on into tiles. */
static void arrange_values(bf16 *tiles, const bf16 *values, long first, long length, long size)
{
    for (long c = 0; c < size; c += SIDE)
        for (long key = first; key < first + DEEP; key += 2, tiles += 2 * SIDE) {
            const __m512i even = sixteen_values(values + c, key, length, size);
            const __m512i odd = sixteen_values(values + c, key + 1, length, size);
            _mm512_storeu_si512((void *)tiles, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
        }
}

/* ---- scores */

/* Turns scores into weights, exp((x - largest) * shrink), in bfloat16 from the same place on, zeros up
   to `end`; returns the inverse of their sum. */
static float weigh_scores(float *x, float shrink, long length, long end)
{
    const __m512 factor = _mm512_set1_ps(shrink);
    bf16 *weights = (bf16 *)x;
    __m512 largest = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
    for (long i = length; i < end; i++)
        x[i] = -INFINITY;
    for (long i = 0; i < end; i += 16) /* if either is NaN, the second is returned */
        largest = _mm512_max_ps(_mm512_loadu_ps(x + i), largest);
    largest = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
    for (long i = 0; i < end; i += 16) {
        const __m512 below = _mm512_sub_ps(_mm512_loadu_ps(x + i), largest);
        const __m512 weight = exp16_of(_mm512_mul_ps(below, factor));
        total = _mm512_add_ps(total, weight);
        _mm256_storeu_si256((__m256i *)(weights + i), (__m256i)_mm512_cvtneps_pbh(weight));
    }
    memset(weights + length, 0, (end - length) * sizeof *weights);
    return 1 / _mm512_reduce_add_ps(total);
}

/* ---- all */

/* The queries of one head of up to QUERIES tokens from `first` on; tall: of more than SIDE */
INLINE void attend_tokens(const Attention *a, const Room *room, long first, long head, float *scores,
                          const int tall)
{
    const long size = a->size, h = head / (a->heads / a->kv_heads), width = a->heads * size;
    const long tokens = lesser(a->tokens - first, QUERIES), before = a->offset + first;
    const long end = multiple_of(DEEP, before + tokens);
    const bf16 *keys = room->keys + h * room->length * size;
    const bf16 *values = room->values + h * room->length * size;
    const float shrink = 1 / sqrtf((float)size);
    float inverse[QUERIES], mixed[QUERIES * DEEP];
    for (long k = 0; k < end; k += DEEP) {
        zero_tiles();
        dot_tiles(room->queries + first * width + head * size, width, keys + k * size, TILE,
                  SIDE * size, size, tall);
        store_tiles(scores + k, end, tall);
    }
    for (long t = 0; t < tokens; t++)
        inverse[t] = weigh_scores(scores + t * end, shrink, before + t + 1, end);
    for (long c = 0; c < size; c += 2 * SIDE) {
        zero_tiles();
        dot_tiles((const bf16 *)scores, 2 * end, values + c / SIDE * TILE, size / SIDE * TILE, TILE,
                  end, tall);
        store_tiles(mixed, DEEP, tall);
        for (long t = 0; t < tokens; t++)
            for (long i = 0; i < 2 * SIDE; i++)
                a->y[(first + t) * width + head * size + c + i] = mixed[t * DEEP + i] * inverse[t];
    }
}

void attend_amx(const Attention *a, float *start, int threads)
{
    const long size = a->size, width = a->heads * size, length = a->offset + a->tokens;
    const long blocks = (a->tokens + QUERIES - 1) / QUERIES;
    Room room;
    divide_room(&room, a, (float *)multiple_of(64, (long)start), threads);
    const long tiles = room.length / SIDE, pairs = room.length / DEEP;
    memset(room.queries + a->tokens * width, 0,
           (multiple_of(SIDE, a->tokens) - a->tokens) * width * sizeof *room.queries);
#pragma omp parallel num_threads(threads)
    {
        set_up_tiles();
#pragma omp for schedule(static) nowait
        for (long i = 0; i < a->kv_heads * tiles; i++)
            arrange_keys(room.keys + i * SIDE * size, a->keys + i / tiles * a->room * size,
                         i % tiles * SIDE, length, size);
#pragma omp for schedule(static) nowait
        for (long i = 0; i < a->kv_heads * pairs; i++)
            arrange_values(room.values + i * DEEP * size, a->values + i / pairs * a->room * size,
                           i % pairs * DEEP, length, size);
#pragma omp for schedule(static)
        for (long t = 0; t < a->tokens; t++)
            round_row(room.queries + t * width, a->q + t * a->q_stride, width);
#pragma omp for schedule(dynamic) /* later tokens see more */
        for (long task = blocks * a->heads - 1; task >= 0; task--) {
            const long first = task / a->heads * QUERIES;
            float *scores = room.scores + omp_get_thread_num() * QUERIES * room.length;
            if (a->tokens - first > SIDE)
                attend_tokens(a, &room, first, task % a->heads, scores, 1);
            else
                attend_tokens(a, &room, first, task % a->heads, scores, 0);
        }
        give_up_tiles();
    }
}
