/* Attention of a few queries with AVX-512. */

#include <math.h>

#include "attention_parts.h"
#include "simd512.h"

#define QUERIES_PER_KEY 4 /* queries that share one load of a key */
#define VECTORS 4         /* vectors of a value that are summed at a time, per query */

/* scores = q k^T for one key head and n queries that see the same keys. q: [n, size].
   scores: [n, CHUNK]. */
INLINE void compute_scores(float *scores, const float *q, const bf16 *keys, long count, long size,
                           const int n)
{
    for (long i = 0; i < count; i++) {
        __m512 sums[QUERIES_PER_KEY];
        for (int j = 0; j < n; j++)
            sums[j] = _mm512_setzero_ps();
        for (long c = 0; c < size; c += 32) {
            const bf16 *key = keys + i * size + c;
            const __m512 first = load16_bf16(key), second = load16_bf16(key + 16);
            _mm_prefetch((const char *)key + KV_PREFETCH_BYTES, _MM_HINT_T0);
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

/* The numerators of a softmax, in place: score = exp((score - max) * scale). Writes the max to
   max_score and returns the sum. scores: [CHUNK], of which `count` are set. */
INLINE float softmax_unnormalized(float *scores, float scale, long count, float *max_score)
{
    const __m512 factor = _mm512_set1_ps(scale);
    __m512 largest = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
    for (long i = count; i < CHUNK; i++)
        scores[i] = -INFINITY;
    for (long i = 0; i < CHUNK; i += 16) /* returns the second operand if either is NaN */
        largest = _mm512_max_ps(_mm512_loadu_ps(scores + i), largest);
    *max_score = _mm512_reduce_max_ps(largest);
    largest = _mm512_set1_ps(*max_score);
    for (long i = 0; i < CHUNK; i += 16) {
        const __m512 shifted = _mm512_sub_ps(_mm512_loadu_ps(scores + i), largest);
        const __m512 weight = exp16(_mm512_mul_ps(shifted, factor));
        _mm512_storeu_ps(scores + i, weight);
        total = _mm512_add_ps(total, weight);
    }
    return _mm512_reduce_add_ps(total);
}

/* parts[j] = sum over i of scores[j][i] * values[i]. parts: [n, part_stride]. vectors: vectors of
   16 elements that are summed at a time. */
INLINE void accumulate_value_vectors(float *parts, const float *scores, const bf16 *values,
                                     long count, long size, const int n, const int vectors)
{
    for (long c = 0; c < size; c += 16 * vectors) {
        __m512 sums[QUERIES_PER_KEY][VECTORS];
        for (int j = 0; j < n; j++)
            for (int k = 0; k < vectors; k++)
                sums[j][k] = _mm512_setzero_ps();
        for (long i = 0; i < count; i++) {
            const bf16 *value = values + i * size + c;
            for (int k = 0; k < vectors; k += 2)
                _mm_prefetch((const char *)(value + 16 * k) + KV_PREFETCH_BYTES, _MM_HINT_T0);
            for (int k = 0; k < vectors; k++) {
                const __m512 numbers = load16_bf16(value + 16 * k);
                for (int j = 0; j < n; j++)
                    sums[j][k] = _mm512_fmadd_ps(_mm512_set1_ps(scores[j * CHUNK + i]), numbers,
                                                 sums[j][k]);
            }
        }
        for (int j = 0; j < n; j++)
            for (int k = 0; k < vectors; k++)
                _mm512_storeu_ps(parts + j * part_stride(size) + c + 16 * k, sums[j][k]);
    }
}

INLINE void accumulate_values(float *parts, const float *scores, const bf16 *values, long count,
                              long size, const int n)
{
    if (size % (16 * VECTORS))
        accumulate_value_vectors(parts, scores, values, count, size, n, 2);
    else
        accumulate_value_vectors(parts, scores, values, count, size, n, VECTORS);
}

#define ATTEND_CHUNK attend_chunk_avx512
#include "attention_chunk_template.h"
