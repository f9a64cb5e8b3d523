/* Attention of a few queries with AVX-512. */

#include <math.h>

#include "attention.h"
#include "numbers512.h"

#define QUERIES 4 /* that a key is read for at a time */
#define VALUES 4  /* vectors of a value that are added up at a time, for each of the queries */

/* scores = q k^T of one key head and n queries that see the same keys. q: [n, size].
   scores: [n, CHUNK], -inf for what there is no key for. */
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
    for (int j = 0; j < n; j++)
        for (long i = count; i < CHUNK; i++)
            scores[j * CHUNK + i] = -INFINITY;
}

/* scores = exp((scores - most) * shrink) of one query; returns their sum. */
INLINE float weigh_scores(float *scores, float shrink, float *most)
{
    const __m512 factor = _mm512_set1_ps(shrink);
    __m512 largest = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
    for (long i = 0; i < CHUNK; i += 16) /* of NaN the second operand is returned */
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
INLINE void mix_values(float *parts, const float *scores, const bf16 *values, long count, long size,
                       const int n, const int wide)
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

/* attend_chunk_avx512 for n queries, known when this is compiled */
INLINE void chunk_of(float *parts, const float *q, const bf16 *keys, const bf16 *values, long count,
                     long size, const int n)
{
    float scores[QUERIES * CHUNK];
    score_keys(scores, q, keys, count, size, n);
    for (int j = 0; j < n; j++) {
        float *end = parts + j * part_size(size) + size;
        end[1] = weigh_scores(scores + j * CHUNK, 1 / sqrtf((float)size), end);
    }
    if (size % (16 * VALUES))
        mix_values(parts, scores, values, count, size, n, 2);
    else
        mix_values(parts, scores, values, count, size, n, VALUES);
}

void attend_chunk_avx512(float *parts, const float *q, const bf16 *keys, const bf16 *values,
                         long count, long size, long queries)
{
    for (long j = 0; j < queries; j += QUERIES) {
        float *to = parts + j * part_size(size);
        const float *from = q + j * size;
        switch (queries - j) {
        case 1: chunk_of(to, from, keys, values, count, size, 1); break;
        case 2: chunk_of(to, from, keys, values, count, size, 2); break;
        case 3: chunk_of(to, from, keys, values, count, size, 3); break;
        default: chunk_of(to, from, keys, values, count, size, QUERIES);
        }
    }
}
