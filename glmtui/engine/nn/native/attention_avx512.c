/* Attention of a few queries with AVX-512. */

#include <math.h>

#include "attention.h"
#include "numbers512.h"

#define QUERIES 4 /* that a key is read for at a time */
#define VALUES 4  /* vectors of a value that are added up at a time, for each of the queries */

/* scores = q k^T of one key head and n queries that see the same keys. q: [n, size].
   scores: [n, CHUNK]. */
INLINE void score_keys(float *scores, const float *q, const bf16 *keys, long count, long size,
                       const int n)
{
    for (long i = 0; i < count; i++) {
        __m512 sums[QUERIES];
        for (int j = 0; j < n; j++)
            sums[j] = _mm512_setzero_ps();
        for (long c = 0; c < size; c += 32) {
            const bf16 *key = keys + i * size + c;
            const __m512 first = load16_bf16(key), second = load16_bf16(key + 16);
            _mm_prefetch((const char *)key + KEYS_AHEAD, _MM_HINT_T0);
            for (int j = 0; j < n; j++) {
                const float *query = q + j * size + c;
                sums[j] = _mm512_fmadd_ps(_mm512_loadu_ps(query), first, sums[j]);
                sums[j] = _mm512_fmadd_ps(_mm512_loadu_ps(query + 16), second, sums[j]);
            }
        }
        for (int j = 0; j < n; j++)
            scores[j * CHUNK + i] = _mm512_reduce_add_ps(sums[j]);
    }
}

/* Replaces each of `count` scores by exp((score - most) * shrink), where `most` is set to the largest
   score. Returns the sum of the results. scores: [CHUNK]. */
INLINE float weigh_scores(float *scores, float shrink, long count, float *most)
{
    const __m512 factor = _mm512_set1_ps(shrink);
    __m512 largest = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
    for (long i = count; i < CHUNK; i++)
        scores[i] = -INFINITY;
    for (long i = 0; i < CHUNK; i += 16) /* if either is NaN, the second is returned */
        largest = _mm512_max_ps(_mm512_loadu_ps(scores + i), largest);
    *most = _mm512_reduce_max_ps(largest);
    largest = _mm512_set1_ps(*most);
    for (long i = 0; i < CHUNK; i += 16) {
        const __m512 below = _mm512_sub_ps(_mm512_loadu_ps(scores + i), largest);
        const __m512 weight = exp16_of(_mm512_mul_ps(below, factor));
        _mm512_storeu_ps(scores + i, weight);
        total = _mm512_add_ps(total, weight);
    }
    return _mm512_reduce_add_ps(total);
}

/* parts[j] = the sum of values, each weighted by a score. parts: [n, part_size]. `wide` vectors of 16
   numbers at a time. */
INLINE void mix_vectors(float *parts, const float *scores, const bf16 *values, long count,
                        long size, const int n, const int wide)
{
    for (long c = 0; c < size; c += 16 * wide) {
        __m512 sums[QUERIES][VALUES];
        for (int j = 0; j < n; j++)
            for (int k = 0; k < wide; k++)
                sums[j][k] = _mm512_setzero_ps();
        for (long i = 0; i < count; i++) {
            const bf16 *value = values + i * size + c;
            for (int k = 0; k < wide; k += 2)
                _mm_prefetch((const char *)(value + 16 * k) + KEYS_AHEAD, _MM_HINT_T0);
            for (int k = 0; k < wide; k++) {
                const __m512 numbers = load16_bf16(value + 16 * k);
                for (int j = 0; j < n; j++)
                    sums[j][k] = _mm512_fmadd_ps(_mm512_set1_ps(scores[j * CHUNK + i]), numbers,
                                                 sums[j][k]);
            }
        }
        for (int j = 0; j < n; j++)
            for (int k = 0; k < wide; k++)
                _mm512_storeu_ps(parts + j * part_size(size) + c + 16 * k, sums[j][k]);
    }
}

INLINE void mix_values(float *parts, const float *scores, const bf16 *values, long count, long size,
                       const int n)
{
    if (size % (16 * VALUES))
        mix_vectors(parts, scores, values, count, size, n, 2);
    else
        mix_vectors(parts, scores, values, count, size, n, VALUES);
}

#define ATTEND_CHUNK attend_chunk_avx512
#include "attention_chunk.h"
