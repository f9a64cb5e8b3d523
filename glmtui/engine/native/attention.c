/* Attention of a few queries key by key, and of many by panels. */

#include <math.h>
#include <omp.h>

#include "attention.h"
#include "linear.h"
#include "matrix.h"

#define QUERIES 3 /* that a key is read for at a time: as many as there are registers for */
#define ROWS 96   /* queries that share a panel of keys, about */

/* softmax(x * shrink) in place; there is room for numbers up to a multiple of 8. */
static void softmax(float *x, float shrink, long length)
{
    const __m256 factor = _mm256_set1_ps(shrink);
    __m256 largest = _mm256_set1_ps(-INFINITY), total = _mm256_setzero_ps();
    for (long i = length; i < padded(length); i++)
        x[i] = -INFINITY;
    for (long i = 0; i < length; i += 8)
        largest = _mm256_max_ps(_mm256_loadu_ps(x + i), largest);
    largest = _mm256_set1_ps(largest_of(largest));
    for (long i = 0; i < length; i += 8) {
        const __m256 below = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x + i), largest), factor);
        /* exp_of hides NaN, which 0 * below does not; what is far below counts for nothing */
        const __m256 seen = _mm256_cmp_ps(below, _mm256_set1_ps(-87), _CMP_NLT_UQ);
        const __m256 weight = _mm256_fmadd_ps(below, _mm256_setzero_ps(), exp_of(below));
        _mm256_storeu_ps(x + i, _mm256_and_ps(weight, seen));
        total = _mm256_add_ps(total, _mm256_and_ps(weight, seen));
    }
    const __m256 inverse = _mm256_set1_ps(1 / sum_of(total));
    for (long i = 0; i < length; i += 8)
        _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), inverse));
}

/* ---- a few */

/* scores = softmax(q k^T / sqrt(size)) of one key head and n queries that see the same keys.
   q: [n, size]. scores: [n, stride], of which length are filled. */
INLINE void weigh(float *scores, const float *q, const bf16 *keys, long length, long stride,
                  long size, const int n)
{
    const float shrink = 1 / sqrtf((float)size);
    for (long i = 0; i < length; i++) {
        __m256 sums[QUERIES];
        for (int j = 0; j < n; j++)
            sums[j] = _mm256_setzero_ps();
        for (long c = 0; c < size; c += 8) {
            const __m256 key = load_bf16(keys + i * size + c);
            for (int j = 0; j < n; j++)
                sums[j] = _mm256_fmadd_ps(_mm256_loadu_ps(q + j * size + c), key, sums[j]);
        }
        for (int j = 0; j < n; j++)
            scores[j * stride + i] = sum_of(sums[j]);
    }
    for (int j = 0; j < n; j++)
        softmax(scores + j * stride, shrink, length);
}

/* y = scores v; y: [n, size] */
INLINE void mix(float *y, const float *scores, const bf16 *values, long length, long stride,
                long size, const int n)
{
    for (long c = 0; c < size; c += 32) { /* as many sums as there are registers for */
        __m256 sums[QUERIES][4];
        for (int j = 0; j < n; j++)
            for (int k = 0; k < 4; k++)
                sums[j][k] = _mm256_setzero_ps();
        for (long i = 0; i < length; i++)
            for (int k = 0; k < 4; k++) {
                const __m256 value = load_bf16(values + i * size + c + 8 * k);
                for (int j = 0; j < n; j++)
                    sums[j][k] = _mm256_fmadd_ps(_mm256_set1_ps(scores[j * stride + i]), value,
                                                 sums[j][k]);
            }
        for (int j = 0; j < n; j++)
            for (int k = 0; k < 4; k++)
                _mm256_storeu_ps(y + j * size + c + 8 * k, sums[j][k]);
    }
}

/* softmax(q k^T / sqrt(size)) v; y, q: [n, size] */
static void attend_few(float *y, float *scores, const float *q, const bf16 *keys,
                       const bf16 *values, long length, long stride, long size, int n)
{
    switch (n) { /* known when each is compiled */
    case 1:
        weigh(scores, q, keys, length, stride, size, 1);
        mix(y, scores, values, length, stride, size, 1);
        break;
    case 2:
        weigh(scores, q, keys, length, stride, size, 2);
        mix(y, scores, values, length, stride, size, 2);
        break;
    default:
        weigh(scores, q, keys, length, stride, size, QUERIES);
        mix(y, scores, values, length, stride, size, QUERIES);
    }
}

/* A thread's part of the queries of all tokens, by as many as share keys and there are registers
   for */
static void attend_part(const Attention *a, long first, long end, float *scores)
{
    const long size = a->size, group = a->heads / a->kv_heads;
    for (long query = first; query < end;) {
        const long t = query / a->heads, head = query % a->heads, h = head / group;
        const long n = lesser(lesser(end - query, QUERIES), (h + 1) * group - head);
        const long keys = h * a->room * size, length = a->offset + t + 1;
        attend_few(a->y + query * size, scores, a->q + t * a->q_stride + head * size,
                   a->keys + keys, a->values + keys, length, padded(length), size, (int)n);
        query += n;
    }
}

/* ---- many */

/* A panel of values: a token's numbers are a column */
static void fill_values(Panel panel, const bf16 *values, long size, long count)
{
    for (long i = 0; i < count; i++, panel += WIDE, values += size) {
        _mm256_store_ps(panel, load_bf16(values));
        _mm256_store_ps(panel + 8, load_bf16(values + 8));
    }
}

/* `multiply_tile` for all tokens */
static void multiply_panel(float *y, long y_stride, const float *x, long x_stride,
                           const float *panel, long depth, const float *start, long tokens)
{
    for (long t = 0; t < tokens; t += TALL)
        multiply_tile(y + t * y_stride, y_stride, x + t * x_stride, x_stride, panel, depth, start,
                      lesser(tokens - t, TALL));
}

/* Tokens that attend together, of a multiple of TALL */
static long together(const Attention *a)
{
    const long tokens = ROWS * a->kv_heads / a->heads / TALL * TALL;
    return tokens < TALL ? TALL : tokens;
}

/* All queries of some tokens that share a key head. scores: [group, tokens, stride] */
static void attend_block(const Attention *a, long first, long h, float *scores)
{
    const long size = a->size, group = a->heads / a->kv_heads;
    const long tokens = lesser(a->tokens - first, together(a)), before = a->offset + first;
    const long length = before + tokens, stride = (length + WIDE - 1) / WIDE * WIDE;
    const Linear keys = {.q = a->keys + h * a->room * size, .rows = length, .columns = size,
                         .bits = 16, .is_bf16 = 1};
    const bf16 *values = a->values + h * a->room * size;
    const float *q = a->q + first * a->q_stride + h * group * size;
    float *y = a->y + (first * a->heads + h * group) * size;
    const float shrink = 1 / sqrtf((float)size), zeros[WIDE] = {0};
    Panel panel;
    for (long k = 0; k < length; k += WIDE) {
        fill_panel(panel, &keys, k, 0, size);
        for (long j = 0; j < group; j++)
            multiply_panel(scores + j * tokens * stride + k, stride, q + j * size, a->q_stride,
                           panel, size, zeros, tokens);
    }
    for (long j = 0; j < group; j++)
        for (long t = 0; t < tokens; t++) {
            float *row = scores + (j * tokens + t) * stride;
            softmax(row, shrink, before + t + 1);
            for (long k = padded(before + t + 1); k < length; k++)
                row[k] = 0; /* of keys that come later */
        }
    for (long c = 0; c < size; c += WIDE)
        for (long k = 0; k < length; k += DEPTH) {
            const long depth = lesser(length - k, DEPTH);
            fill_values(panel, values + k * size + c, size, depth);
            for (long j = 0; j < group; j++)
                multiply_panel(y + j * size + c, a->heads * size, scores + j * tokens * stride + k,
                               stride, panel, depth, k ? NULL : zeros, tokens);
        }
}

/* ---- all */

long attention_room(const Attention *a)
{
    const long stride = (a->offset + a->tokens + WIDE - 1) / WIDE * WIDE;
    const long rows = a->tokens <= FEW ? QUERIES : a->heads / a->kv_heads * together(a);
    return rows * stride;
}

void attend(const Attention *a, float *room, int threads)
{
    const long each = attention_room(a), queries = a->tokens * a->heads, step = together(a);
    const long blocks = (a->tokens + step - 1) / step * a->kv_heads;
    if (a->tokens <= FEW) {
        PARALLEL_FOR
        for (long part = 0; part < threads; part++)
            attend_part(a, queries * part / threads, queries * (part + 1) / threads,
                        room + part * each);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static, 1) /* later tokens see more */
    for (long block = 0; block < blocks; block++)
        attend_block(a, block / a->kv_heads * step, block % a->kv_heads,
                     room + omp_get_thread_num() * each);
}
