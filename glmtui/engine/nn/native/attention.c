/* Attention: of a few queries by chunks of keys, of many queries by panels of keys and values. */

#include <math.h>
#include <omp.h>

#include "attention.h"
#include "gemm.h"
#include "isa.h"
#include "linear.h"

#define QUERIES_PER_KEY 3 /* queries that share one load of a key, limited by registers */
#define BLOCK_QUERIES 96  /* approximate number of queries that share a panel of keys */

/* The numerators of a softmax, in place: x = exp((x - max) * scale). Writes the max to max_score
   and returns the sum. x must have memory for a multiple of 8 floats. NaN stays NaN. */
static float softmax_unnormalized(float *x, float scale, long length, float *max_score)
{
    const __m256 factor = _mm256_set1_ps(scale);
    __m256 largest = _mm256_set1_ps(-INFINITY), total = _mm256_setzero_ps();
    for (long i = length; i < round_up_8(length); i++)
        x[i] = -INFINITY;
    for (long i = 0; i < length; i += 8)
        largest = _mm256_max_ps(_mm256_loadu_ps(x + i), largest);
    *max_score = horizontal_max(largest);
    largest = _mm256_set1_ps(*max_score);
    for (long i = 0; i < length; i += 8) {
        const __m256 distance = _mm256_sub_ps(_mm256_loadu_ps(x + i), largest);
        const __m256 shifted = _mm256_mul_ps(distance, factor);
        /* exp8 clamps NaN, so 0 * shifted restores it; results below e^-87 become 0 */
        const __m256 in_range = _mm256_cmp_ps(shifted, _mm256_set1_ps(-87), _CMP_NLT_UQ);
        const __m256 weight = _mm256_fmadd_ps(shifted, _mm256_setzero_ps(), exp8(shifted));
        _mm256_storeu_ps(x + i, _mm256_and_ps(weight, in_range));
        total = _mm256_add_ps(total, _mm256_and_ps(weight, in_range));
    }
    return horizontal_sum(total);
}

/* softmax(x * scale), in place. x must have memory for a multiple of 8 floats. */
static void softmax(float *x, float scale, long length)
{
    float max_score;
    const __m256 inverse = _mm256_set1_ps(1 / softmax_unnormalized(x, scale, length, &max_score));
    for (long i = 0; i < length; i += 8)
        _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), inverse));
}

/* ---- a few queries */

/* scores = q k^T for one key head and n queries that see the same keys. q: [n, size].
   scores: [n, CHUNK]. */
INLINE void compute_scores(float *scores, const float *q, const bf16 *keys, long count, long size,
                           const int n)
{
    for (long i = 0; i < count; i++) {
        __m256 sums[QUERIES_PER_KEY];
        for (int j = 0; j < n; j++)
            sums[j] = _mm256_setzero_ps();
        for (long c = 0; c < size; c += 8) {
            if (c % 32 == 0)
                _mm_prefetch((const char *)(keys + i * size + c) + KV_PREFETCH_BYTES, _MM_HINT_T0);
            const __m256 key = load_bf16(keys + i * size + c);
            for (int j = 0; j < n; j++)
                sums[j] = _mm256_fmadd_ps(_mm256_loadu_ps(q + j * size + c), key, sums[j]);
        }
        for (int j = 0; j < n; j++)
            scores[j * CHUNK + i] = horizontal_sum(sums[j]);
    }
}

/* parts[j] = sum over i of scores[j][i] * values[i]. parts: [n, part_stride]. */
INLINE void accumulate_values(float *parts, const float *scores, const bf16 *values, long count,
                              long size, const int n)
{
    for (long c = 0; c < size; c += 32) { /* 4 vectors for each query: 12 sums */
        __m256 sums[QUERIES_PER_KEY][4];
        for (int j = 0; j < n; j++)
            for (int k = 0; k < 4; k++)
                sums[j][k] = _mm256_setzero_ps();
        for (long i = 0; i < count; i++) {
            _mm_prefetch((const char *)(values + i * size + c) + KV_PREFETCH_BYTES, _MM_HINT_T0);
            for (int k = 0; k < 4; k++) {
                const __m256 value = load_bf16(values + i * size + c + 8 * k);
                for (int j = 0; j < n; j++)
                    sums[j][k] = _mm256_fmadd_ps(_mm256_set1_ps(scores[j * CHUNK + i]), value,
                                                 sums[j][k]);
            }
        }
        for (int j = 0; j < n; j++)
            for (int k = 0; k < 4; k++)
                _mm256_storeu_ps(parts + j * part_stride(size) + c + 8 * k, sums[j][k]);
    }
}

#define ATTEND_CHUNK attend_chunk_avx2
#include "attention_chunk_template.h"

/* Merges the parts of one query into its attention, y. Parts of successive chunks are `stride`
   floats apart. The order of additions is fixed, so the result does not depend on the number of
   threads. */
static void merge_parts(float *y, const float *parts, long chunks, long stride, long size)
{
    const float scale = 1 / sqrtf((float)size);
    float max_score = -INFINITY, total = 0;
    for (long c = 0; c < chunks; c++)
        max_score = parts[c * stride + size] > max_score ? parts[c * stride + size] : max_score;
    for (long i = 0; i < size; i += 8)
        _mm256_storeu_ps(y + i, _mm256_setzero_ps());
    for (long c = 0; c < chunks; c++) {
        const float *part = parts + c * stride;
        const float weight = expf((part[size] - max_score) * scale);
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

INLINE long chunk_count(long length)
{
    return (length + CHUNK - 1) / CHUNK;
}

/* Distributes chunks of keys over threads, so that only one thread reads each key.
   parts: [tokens, chunks, heads, part_stride]. */
static void attend_few_queries(const Attention *a, float *parts, int threads)
{
    const long size = a->head_size, group = a->heads / a->kv_heads, tokens = a->tokens;
    const long chunks = chunk_count(a->offset + tokens), stride = a->heads * part_stride(size);
    AttendChunk *const chunk = USES_AVX512 ? attend_chunk_avx512 : attend_chunk_avx2;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (long task = 0; task < a->kv_heads * chunks * tokens; task++) {
            const long t = task % tokens, c = task / tokens % chunks, h = task / tokens / chunks;
            const long count = min_long(a->offset + t + 1 - c * CHUNK, CHUNK);
            const long from = (h * a->allocated + c * CHUNK) * size;
            if (count > 0) /* otherwise the chunk has only later tokens */
                chunk(parts + (t * chunks + c) * stride + h * group * part_stride(size),
                      a->q + t * a->q_stride + h * group * size, a->keys + from, a->values + from,
                      count, size, group);
        }
#pragma omp for schedule(static)
        for (long query = 0; query < tokens * a->heads; query++) {
            const long t = query / a->heads, head = query % a->heads;
            merge_parts(a->y + query * size,
                      parts + t * chunks * stride + head * part_stride(size),
                      chunk_count(a->offset + t + 1), stride, size);
        }
    }
}

/* ---- many queries */

/* Fills a panel with 16 elements of `count` values; each value is a column of the panel. */
static void load_value_panel(Panel panel, const bf16 *values, long size, long count)
{
    for (long i = 0; i < count; i++, panel += PANEL_ROWS, values += size) {
        _mm256_store_ps(panel, load_bf16(values));
        _mm256_store_ps(panel + 8, load_bf16(values + 8));
    }
}

/* multiply_tile for any number of tokens */
static void multiply_panel(float *y, long y_stride, const float *x, long x_stride,
                           const float *panel, long depth, const float *start, long tokens)
{
    for (long t = 0; t < tokens; t += TILE_TOKENS)
        multiply_tile(y + t * y_stride, y_stride, x + t * x_stride, x_stride, panel, depth, start,
                      min_long(tokens - t, TILE_TOKENS));
}

/* Tokens of one attend_block call: a multiple of TILE_TOKENS that gives about BLOCK_QUERIES queries
   */
static long tokens_per_block(const Attention *a)
{
    const long tokens = BLOCK_QUERIES * a->kv_heads / a->heads / TILE_TOKENS * TILE_TOKENS;
    return tokens < TILE_TOKENS ? TILE_TOKENS : tokens;
}

/* Attention of tokens_per_block tokens, starting at `first`, for the query heads of key head h.
   scores: workspace, [group, tokens, stride]. */
static void attend_block(const Attention *a, long first, long h, float *scores)
{
    const long size = a->head_size, group = a->heads / a->kv_heads;
    const long tokens = min_long(a->tokens - first, tokens_per_block(a));
    const long context = a->offset + first, length = context + tokens;
    const long stride = (length + PANEL_ROWS - 1) / PANEL_ROWS * PANEL_ROWS;
    const Linear keys = {.q = a->keys + h * a->allocated * size, .rows = length, .columns = size,
                         .bits = 16, .is_bf16 = 1};
    const bf16 *values = a->values + h * a->allocated * size;
    const float *q = a->q + first * a->q_stride + h * group * size;
    float *y = a->y + (first * a->heads + h * group) * size;
    const float scale = 1 / sqrtf((float)size), zeros[PANEL_ROWS] = {0};
    Panel panel;
    _Static_assert(MAX_HEAD_SIZE <= PANEL_COLUMNS, "a whole key fits into a column of a panel");
    for (long k = 0; k < length; k += PANEL_ROWS) {
        unpack_panel(panel, &keys, k, 0, size);
        for (long j = 0; j < group; j++)
            multiply_panel(scores + j * tokens * stride + k, stride, q + j * size, a->q_stride,
                           panel, size, zeros, tokens);
    }
    for (long j = 0; j < group; j++)
        for (long t = 0; t < tokens; t++) {
            float *row = scores + (j * tokens + t) * stride;
            softmax(row, scale, context + t + 1);
            for (long k = round_up_8(context + t + 1); k < length; k++)
                row[k] = 0; /* weights of later keys */
        }
    for (long c = 0; c < size; c += PANEL_ROWS)
        for (long k = 0; k < length; k += PANEL_COLUMNS) {
            const long depth = min_long(length - k, PANEL_COLUMNS);
            load_value_panel(panel, values + k * size + c, size, depth);
            for (long j = 0; j < group; j++)
                multiply_panel(y + j * size + c, a->heads * size, scores + j * tokens * stride + k,
                               stride, panel, depth, k ? NULL : zeros, tokens);
        }
}

/* ---- any number of queries */

/* Workspace of one thread for attend_block, in floats */
static long block_workspace_size(const Attention *a)
{
    const long stride = (a->offset + a->tokens + PANEL_ROWS - 1) / PANEL_ROWS * PANEL_ROWS;
    return a->heads / a->kv_heads * tokens_per_block(a) * stride;
}

long attention_workspace_size(const Attention *a, int threads)
{
    if (a->tokens <= FEW_TOKENS)
        return a->tokens * chunk_count(a->offset + a->tokens) * a->heads *
               part_stride(a->head_size);
    return USES_AMX ? attention_workspace_size_amx(a, threads) : threads * block_workspace_size(a);
}

void attend(const Attention *a, float *workspace, int threads)
{
    const long step = tokens_per_block(a), blocks = (a->tokens + step - 1) / step * a->kv_heads;
    if (a->tokens <= FEW_TOKENS) {
        attend_few_queries(a, workspace, threads);
        return;
    }
    if (USES_AMX) {
        attend_amx(a, workspace, threads);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static, 1) /* later blocks take longer */
    for (long block = 0; block < blocks; block++)
        attend_block(a, block / a->kv_heads * step, block % a->kv_heads,
                     workspace + omp_get_thread_num() * block_workspace_size(a));
}
