/* Attention of a few queries by chunks of keys, and of many by panels. */

#include <math.h>
#include <omp.h>

#include "attention.h"
#include "isa.h"
#include "linear.h"
#include "matrix.h"

#define QUERIES 3 /* that a key is read for at a time: as many as there are registers for */
#define ROWS 96   /* queries that share a panel of keys, about */

/* Replaces each x by exp((x - most) * shrink), where `most` is set to the largest x. Returns the sum of
   the results. x must have room for a multiple of 8 floats. NaN stays NaN. */
static float weigh_scores(float *x, float shrink, long length, float *most)
{
    const __m256 factor = _mm256_set1_ps(shrink);
    __m256 largest = _mm256_set1_ps(-INFINITY), total = _mm256_setzero_ps();
    for (long i = length; i < padded(length); i++)
        x[i] = -INFINITY;
    for (long i = 0; i < length; i += 8)
        largest = _mm256_max_ps(_mm256_loadu_ps(x + i), largest);
    *most = largest_of(largest);
    largest = _mm256_set1_ps(*most);
    for (long i = 0; i < length; i += 8) {
        const __m256 below = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x + i), largest), factor);
        /* exp_of hides NaN, which 0 * below does not; what is far below counts for nothing */
        const __m256 seen = _mm256_cmp_ps(below, _mm256_set1_ps(-87), _CMP_NLT_UQ);
        const __m256 weight = _mm256_fmadd_ps(below, _mm256_setzero_ps(), exp_of(below));
        _mm256_storeu_ps(x + i, _mm256_and_ps(weight, seen));
        total = _mm256_add_ps(total, _mm256_and_ps(weight, seen));
    }
    return sum_of(total);
}

/* softmax(x * shrink) in place; x must have room for a multiple of 8 floats. */
static void softmax(float *x, float shrink, long length)
{
    float most;
    const __m256 inverse = _mm256_set1_ps(1 / weigh_scores(x, shrink, length, &most));
    for (long i = 0; i < length; i += 8)
        _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), inverse));
}

/* ---- a few */

/* scores = q k^T of one key head and n queries that see the same keys. q: [n, size].
   scores: [n, CHUNK]. */
INLINE void score_keys(float *scores, const float *q, const bf16 *keys, long count, long size,
                       const int n)
{
    for (long i = 0; i < count; i++) {
        __m256 sums[QUERIES];
        for (int j = 0; j < n; j++)
            sums[j] = _mm256_setzero_ps();
        for (long c = 0; c < size; c += 8) {
            if (c % 32 == 0)
                _mm_prefetch((const char *)(keys + i * size + c) + KEYS_AHEAD, _MM_HINT_T0);
            const __m256 key = load_bf16(keys + i * size + c);
            for (int j = 0; j < n; j++)
                sums[j] = _mm256_fmadd_ps(_mm256_loadu_ps(q + j * size + c), key, sums[j]);
        }
        for (int j = 0; j < n; j++)
            scores[j * CHUNK + i] = sum_of(sums[j]);
    }
}

/* parts[j] = the sum of values, each weighted by a score. parts: [n, part_size]. */
INLINE void mix_values(float *parts, const float *scores, const bf16 *values, long count, long size,
                       const int n)
{
    for (long c = 0; c < size; c += 32) { /* as many sums as there are registers for */
        __m256 sums[QUERIES][4];
        for (int j = 0; j < n; j++)
            for (int k = 0; k < 4; k++)
                sums[j][k] = _mm256_setzero_ps();
        for (long i = 0; i < count; i++) {
            _mm_prefetch((const char *)(values + i * size + c) + KEYS_AHEAD, _MM_HINT_T0);
            for (int k = 0; k < 4; k++) {
                const __m256 value = load_bf16(values + i * size + c + 8 * k);
                for (int j = 0; j < n; j++)
                    sums[j][k] = _mm256_fmadd_ps(_mm256_set1_ps(scores[j * CHUNK + i]), value,
                                                 sums[j][k]);
            }
        }
        for (int j = 0; j < n; j++)
            for (int k = 0; k < 4; k++)
                _mm256_storeu_ps(parts + j * part_size(size) + c + 8 * k, sums[j][k]);
    }
}

#define ATTEND_CHUNK attend_chunk_avx2
#include "attention_chunk.h"

/* Combines the partial results of one query into its attention, y. Chunks are `stride` floats apart.
   They are always added in the same order, so that the number of threads does not change the bits. */
static void add_parts(float *y, const float *parts, long chunks, long stride, long size)
{
    const float shrink = 1 / sqrtf((float)size);
    float most = -INFINITY, total = 0;
    for (long c = 0; c < chunks; c++)
        most = parts[c * stride + size] > most ? parts[c * stride + size] : most;
    for (long i = 0; i < size; i += 8)
        _mm256_storeu_ps(y + i, _mm256_setzero_ps());
    for (long c = 0; c < chunks; c++) {
        const float *part = parts + c * stride;
        const float weight = expf((part[size] - most) * shrink);
        const __m256 weights = _mm256_set1_ps(weight);
        total += part[size + 1] * weight;
        for (long i = 0; i < size; i += 8)
            _mm256_storeu_ps(y + i, _mm256_fmadd_ps(_mm256_loadu_ps(part + i), weights,
                                                    _mm256_loadu_ps(y + i)));
    }
    const __m256 inverse = _mm256_set1_ps(1 / total);
    for (long i = 0; i < size; i += 8)
        _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_loadu_ps(y + i), inverse));
}

INLINE long chunks_of(long length)
{
    return (length + CHUNK - 1) / CHUNK;
}

/* Shares chunks of keys out to threads, so that each key is read by one thread only.
   parts: [tokens, chunks, heads, part_size]. */
static void attend_few(const Attention *a, float *parts, int threads)
{
    const long size = a->size, group = a->heads / a->kv_heads, tokens = a->tokens;
    const long chunks = chunks_of(a->offset + tokens), stride = a->heads * part_size(size);
    AttendChunk *const chunk = USES_AVX512 ? attend_chunk_avx512 : attend_chunk_avx2;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (long task = 0; task < a->kv_heads * chunks * tokens; task++) {
            const long t = task % tokens, c = task / tokens % chunks, h = task / tokens / chunks;
            const long count = lesser(a->offset + t + 1 - c * CHUNK, CHUNK);
            const long from = (h * a->room + c * CHUNK) * size;
            if (count > 0) /* else the chunk holds later tokens only */
                chunk(parts + (t * chunks + c) * stride + h * group * part_size(size),
                      a->q + t * a->q_stride + h * group * size, a->keys + from, a->values + from,
                      count, size, group);
        }
#pragma omp for schedule(static)
        for (long query = 0; query < tokens * a->heads; query++) {
            const long t = query / a->heads, head = query % a->heads;
            add_parts(a->y + query * size,
                      parts + t * chunks * stride + head * part_size(size),
                      chunks_of(a->offset + t + 1), stride, size);
        }
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
    _Static_assert(LARGEST_HEAD <= DEPTH, "a panel holds keys whole");
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

/* Scratch memory per thread when there are many queries, in floats */
static long room_of_block(const Attention *a)
{
    const long stride = (a->offset + a->tokens + WIDE - 1) / WIDE * WIDE;
    return a->heads / a->kv_heads * together(a) * stride;
}

long attention_room(const Attention *a, int threads)
{
    if (a->tokens <= FEW)
        return a->tokens * chunks_of(a->offset + a->tokens) * a->heads * part_size(a->size);
    return USES_AMX ? attention_room_amx(a, threads) : threads * room_of_block(a);
}

void attend(const Attention *a, float *room, int threads)
{
    const long step = together(a), blocks = (a->tokens + step - 1) / step * a->kv_heads;
    if (a->tokens <= FEW) {
        attend_few(a, room, threads);
        return;
    }
    if (USES_AMX) {
        attend_amx(a, room, threads);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static, 1) /* later tokens see more */
    for (long block = 0; block < blocks; block++)
        attend_block(a, block / a->kv_heads * step, block % a->kv_heads,
                     room + omp_get_thread_num() * room_of_block(a));
}
