/* Products of many tokens with a weight, which is unpacked to float32 panel by panel. */

#include "gemm.h"
#include "isa.h"
#include "linear.h"

#define BLOCK_PANELS 8 /* panels that are multiplied with a token while it is in the L1 cache */

/* ---- unpacking. A panel is filled in two halves of eight rows that start at `row`. `last` is the
   index of the last valid row of a half; rows beyond it repeat it. */

/* Loads 32 bits from each of eight addresses that are `stride` bytes apart. */
INLINE __m256i gather8_words(const void *from, long stride, long last)
{
    int32_t gathered[8];
    for (int i = 0; i < 8; i++)
        memcpy(gathered + i, (const char *)from + (i < last ? i : last) * stride, sizeof *gathered);
    return _mm256_loadu_si256((const __m256i *)gathered);
}

/* float16 in the low half of each 32-bit lane, to float32 */
INLINE __m256 widen_f16(__m256i lanes)
{
    const __m256i packed = _mm256_packus_epi32(lanes, lanes);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
}

INLINE __m256 widen_bf16(__m256i lanes)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(lanes, 16));
}

INLINE __m256 gather8_f16(const f16 *from, long stride, long last)
{
    f16 gathered[8];
    for (int i = 0; i < 8; i++)
        gathered[i] = from[(i < last ? i : last) * stride];
    return load_f16(gathered);
}

/* Unpacks weights of 4 or 8 bits. bits: a compile-time constant. */
INLINE void unpack_half_panel_packed(float *panel, const Linear *w, long row, long last, long first,
                                     long depth, const int bits)
{
    const long groups = w->columns / w->group, stride = w->columns * bits / 8;
    const char *q = (const char *)w->q + row * stride + first * bits / 8;
    __m256 scale = _mm256_setzero_ps(), zero = scale;
    for (long c = 0; c < depth; c += 32 / bits, q += 4) {
        if (c % 32 == 0) {
            const long g = row * groups + (first + c) / w->group;
            scale = gather8_f16(w->scale + g, groups, last);
            zero = w->zero ? gather8_f16(w->zero + g, groups, last) : zero;
        }
        const __m256i packed = gather8_words(q, stride, last);
        for (int i = 0; i < 32 / bits; i++, panel += PANEL_ROWS) {
            const __m256i high = _mm256_slli_epi32(packed, 32 - bits * (i + 1));
            const __m256i number = bits == 4 ? _mm256_srli_epi32(high, 32 - bits)
                                             : _mm256_srai_epi32(high, 32 - bits);
            _mm256_store_ps(panel, _mm256_fmadd_ps(_mm256_cvtepi32_ps(number), scale, zero));
        }
    }
}

static void unpack_half_panel_16bit(float *panel, const Linear *w, long row, long last, long first,
                                    long depth)
{
    const uint16_t *from = (const uint16_t *)w->q + row * w->columns + first;
    for (long c = 0; c < depth; c += 2, panel += 2 * PANEL_ROWS) {
        const __m256i two = gather8_words(from + c, w->columns * sizeof *from, last);
        const __m256i even = _mm256_and_si256(two, _mm256_set1_epi32(0xffff));
        const __m256i odd = _mm256_srli_epi32(two, 16);
        _mm256_store_ps(panel, w->is_bf16 ? widen_bf16(even) : widen_f16(even));
        _mm256_store_ps(panel + PANEL_ROWS, w->is_bf16 ? widen_bf16(odd) : widen_f16(odd));
    }
}

void unpack_panel(Panel panel, const Linear *w, long row, long first, long depth)
{
    for (int half = 0; half < PANEL_ROWS; half += 8) {
        const long left = w->rows - row - half; /* if no row is left, the last one is repeated */
        const long from = left > 0 ? row + half : w->rows - 1, last = left > 0 ? left - 1 : 0;
        if (w->bits == 4)
            unpack_half_panel_packed(panel + half, w, from, last, first, depth, 4);
        else if (w->bits == 8)
            unpack_half_panel_packed(panel + half, w, from, last, first, depth, 8);
        else
            unpack_half_panel_16bit(panel + half, w, from, last, first, depth);
    }
}

/* ---- products */

/* multiply_tile for a panel with fewer than PANEL_ROWS valid rows: `width` of them */
static void multiply_edge(float *y, long y_stride, const float *x, long x_stride,
                          const float *panel, long depth, const float *start, long n, long width)
{
    float padded_y[TILE_TOKENS * PANEL_ROWS];
    for (long t = 0; !start && t < n; t++)
        memcpy(padded_y + t * PANEL_ROWS, y + t * y_stride, width * sizeof *y);
    multiply_tile(padded_y, PANEL_ROWS, x, x_stride, panel, depth, start, n);
    for (long t = 0; t < n; t++)
        memcpy(y + t * y_stride, padded_y + t * PANEL_ROWS, width * sizeof *y);
}

/* The products with rows [row, end) of the weight, at most BLOCK_PANELS * PANEL_ROWS */
static void multiply_rows(float *y, const float *x, const Linear *w, long tokens, long row, long end)
{
    Panel panels[BLOCK_PANELS];
    float bias[BLOCK_PANELS * PANEL_ROWS] = {0};
    for (long r = row; w->bias && r < end; r++)
        bias[r - row] = bf16_to_float(w->bias[r]);
    for (long first = 0; first < w->columns; first += PANEL_COLUMNS) {
        const long depth = min_long(w->columns - first, PANEL_COLUMNS);
        for (long r = row; r < end; r += PANEL_ROWS)
            unpack_panel(panels[(r - row) / PANEL_ROWS], w, r, first, depth);
        for (long t = 0; t < tokens; t += TILE_TOKENS)
            for (long r = row; r < end; r += PANEL_ROWS) {
                float *to = y + t * w->rows + r;
                const float *from = x + t * w->columns + first;
                const float *panel = panels[(r - row) / PANEL_ROWS];
                const float *start = first ? NULL : bias + r - row;
                const long n = min_long(tokens - t, TILE_TOKENS), width = end - r;
                if (width < PANEL_ROWS)
                    multiply_edge(to, w->rows, from, w->columns, panel, depth, start, n, width);
                else
                    multiply_tile(to, w->rows, from, w->columns, panel, depth, start, n);
            }
    }
}

int gemm(float *y, const float *x, const Linear *w, long tokens, int threads)
{
    const long panels = (w->rows + PANEL_ROWS - 1) / PANEL_ROWS;
    if (USES_AMX)
        return gemm_amx(y, x, w, tokens, threads);
    PARALLEL_FOR
    for (long part = 0; part < threads; part++) {
        const long end = min_long(panels * (part + 1) / threads * PANEL_ROWS, w->rows);
        const long first = panels * part / threads * PANEL_ROWS;
        for (long row = first; row < end; row += BLOCK_PANELS * PANEL_ROWS)
            multiply_rows(y, x, w, tokens, row, min_long(end, row + BLOCK_PANELS * PANEL_ROWS));
    }
    return SUCCESS;
}
