/* Attention of many queries with AMX tiles. Products are in bfloat16 with float32 sums, as in
   torch's attention in bfloat16. */

#include <math.h>
#include <omp.h>

#include "amx_tiles.h"
#include "attention_parts.h"

#define BLOCK_TOKENS 32 /* tokens whose queries of one head are computed together */

/* The workspace of one call, divided */
typedef struct {
    bf16 *keys;    /* packed: [kv_heads, length / TILE_SIDE, size / TILE_DEPTH] tiles */
    bf16 *values;  /* packed: [kv_heads, length / TILE_DEPTH, size / TILE_SIDE] tiles */
    bf16 *queries; /* [tokens rounded up to TILE_SIDE, heads * size], zeros at the end */
    float *scores; /* [threads, BLOCK_TOKENS, length] */
    long length;   /* number of keys, rounded up to a multiple of TILE_DEPTH */
} Workspace;

static long lay_out_workspace(Workspace *workspace, const Attention *a, float *start, int threads)
{
    workspace->length = round_up_to(TILE_DEPTH, a->offset + a->tokens);
    const long cached = a->kv_heads * workspace->length * a->head_size / 2; /* in floats */
    const long queries = round_up_to(TILE_SIDE, a->tokens) * a->heads * a->head_size / 2;
    workspace->keys = (bf16 *)start;
    workspace->values = (bf16 *)(start + cached);
    workspace->queries = (bf16 *)(start + 2 * cached);
    workspace->scores = start + 2 * cached + queries;
    return 2 * cached + queries + threads * BLOCK_TOKENS * workspace->length;
}

long attention_workspace_size_amx(const Attention *a, int threads)
{
    Workspace workspace;
    /* TILE_SIDE floats more, for alignment to 64 bytes */
    return lay_out_workspace(&workspace, a, NULL, threads) + TILE_SIDE;
}

/* ---- packing of keys and values into B tiles */

/* Packs 16 keys, starting at `first`. Keys beyond the last one repeat it. */
static void pack_keys(bf16 *tiles, const bf16 *keys, long first, long length, long size)
{
    int32_t offset[TILE_SIDE];
    for (long i = 0; i < TILE_SIDE; i++)
        offset[i] = (int32_t)(min_long(first + i, length - 1) * size * sizeof *keys);
    const __m512i offsets = _mm512_loadu_si512((const void *)offset);
    for (long c = 0; c < size; c += 2, tiles += 2 * TILE_SIDE)
        _mm512_storeu_si512((void *)tiles,
                            _mm512_i32gather_epi32(offsets, (const int *)(keys + c), 1));
}

INLINE __m512i load16_values(const bf16 *values, long key, long length, long size)
{
    if (key >= length) /* its weight is 0, but 0 * infinity would be NaN */
        return _mm512_setzero_si512();
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(values + key * size)));
}

/* Packs 32 values, starting at `first`. */
static void pack_values(bf16 *tiles, const bf16 *values, long first, long length, long size)
{
    for (long c = 0; c < size; c += TILE_SIDE)
        for (long key = first; key < first + TILE_DEPTH; key += 2, tiles += 2 * TILE_SIDE) {
            const __m512i even = load16_values(values + c, key, length, size);
            const __m512i odd = load16_values(values + c, key + 1, length, size);
            const __m512i pairs = _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
            _mm512_storeu_si512((void *)tiles, pairs);
        }
}

/* ---- attention */

/* The numerators of a softmax of `length` scores, exp((x - max) * scale), as bfloat16 in the same
   memory, followed by zeros up to `end`. Returns the inverse of their sum. */
static float softmax_to_bf16(float *x, float scale, long length, long end)
{
    const __m512 factor = _mm512_set1_ps(scale);
    bf16 *weights = (bf16 *)x;
    __m512 largest = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
    for (long i = length; i < end; i++)
        x[i] = -INFINITY;
    for (long i = 0; i < end; i += 16) /* returns the second operand if either is NaN */
        largest = _mm512_max_ps(_mm512_loadu_ps(x + i), largest);
    largest = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
    for (long i = 0; i < end; i += 16) {
        const __m512 shifted = _mm512_sub_ps(_mm512_loadu_ps(x + i), largest);
        const __m512 weight = exp16(_mm512_mul_ps(shifted, factor));
        total = _mm512_add_ps(total, weight);
        _mm256_storeu_si256((__m256i *)(weights + i), (__m256i)_mm512_cvtneps_pbh(weight));
    }
    memset(weights + length, 0, (end - length) * sizeof *weights);
    return 1 / _mm512_reduce_add_ps(total);
}

/* Attention of one head and up to BLOCK_TOKENS tokens, starting at `first`. rows32: whether there
   are more than TILE_SIDE tokens, a compile-time constant. */
INLINE void attend_tokens(const Attention *a, const Workspace *workspace, long first, long head,
                          float *scores, const int rows32)
{
    const long size = a->head_size, h = head / (a->heads / a->kv_heads), width = a->heads * size;
    const long tokens = min_long(a->tokens - first, BLOCK_TOKENS), context = a->offset + first;
    const long end = round_up_to(TILE_DEPTH, context + tokens);
    const bf16 *keys = workspace->keys + h * workspace->length * size;
    const bf16 *values = workspace->values + h * workspace->length * size;
    const float scale = 1 / sqrtf((float)size);
    float inverse[BLOCK_TOKENS], output[BLOCK_TOKENS * TILE_DEPTH];
    for (long k = 0; k < end; k += TILE_DEPTH) {
        zero_tiles();
        dot_tiles(workspace->queries + first * width + head * size, width, keys + k * size,
                  TILE_ELEMENTS, TILE_SIDE * size, size, rows32);
        store_tiles(scores + k, end, rows32);
    }
    for (long t = 0; t < tokens; t++)
        inverse[t] = softmax_to_bf16(scores + t * end, scale, context + t + 1, end);
    for (long c = 0; c < size; c += 2 * TILE_SIDE) {
        zero_tiles();
        dot_tiles((const bf16 *)scores, 2 * end, values + c / TILE_SIDE * TILE_ELEMENTS,
                  size / TILE_SIDE * TILE_ELEMENTS, TILE_ELEMENTS, end, rows32);
        store_tiles(output, TILE_DEPTH, rows32);
        for (long t = 0; t < tokens; t++)
            for (long i = 0; i < 2 * TILE_SIDE; i++)
                a->y[(first + t) * width + head * size + c + i] =
                    output[t * TILE_DEPTH + i] * inverse[t];
    }
}

void attend_amx(const Attention *a, float *start, int threads)
{
    const long size = a->head_size, width = a->heads * size, length = a->offset + a->tokens;
    const long blocks = (a->tokens + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    Workspace workspace;
    lay_out_workspace(&workspace, a, (float *)round_up_to(64, (long)start), threads);
    const long key_tiles = workspace.length / TILE_SIDE;
    const long value_tiles = workspace.length / TILE_DEPTH;
    memset(workspace.queries + a->tokens * width, 0,
           (round_up_to(TILE_SIDE, a->tokens) - a->tokens) * width * sizeof *workspace.queries);
#pragma omp parallel num_threads(threads)
    {
        configure_tiles();
#pragma omp for schedule(static) nowait
        for (long i = 0; i < a->kv_heads * key_tiles; i++)
            pack_keys(workspace.keys + i * TILE_SIDE * size,
                      a->keys + i / key_tiles * a->allocated * size, i % key_tiles * TILE_SIDE,
                      length, size);
#pragma omp for schedule(static) nowait
        for (long i = 0; i < a->kv_heads * value_tiles; i++)
            pack_values(workspace.values + i * TILE_DEPTH * size,
                        a->values + i / value_tiles * a->allocated * size,
                        i % value_tiles * TILE_DEPTH, length, size);
#pragma omp for schedule(static)
        for (long t = 0; t < a->tokens; t++)
            round_to_bf16(workspace.queries + t * width, a->q + t * a->q_stride, width);
#pragma omp for schedule(dynamic) /* dynamic, last first: later tokens take longer */
        for (long task = blocks * a->heads - 1; task >= 0; task--) {
            const long first = task / a->heads * BLOCK_TOKENS;
            float *scores =
                workspace.scores + omp_get_thread_num() * BLOCK_TOKENS * workspace.length;
            if (a->tokens - first > TILE_SIDE)
                attend_tokens(a, &workspace, first, task % a->heads, scores, 1);
            else
                attend_tokens(a, &workspace, first, task % a->heads, scores, 0);
        }
        release_tiles();
    }
}
