/* Products of many tokens with a weight, which is unpacked to float32 a panel at a time. */

#include "isa.h"
#include "linear.h"
#include "matrix.h"

#define PANELS 8 /* that are multiplied with a token while it is in the first-level cache */

/* ---- panels, half by half: eight rows from `row` on, or where there are fewer, the last of them
   again */

/* The 32 bits at eight places `stride` bytes apart, the last of them where there are fewer */
INLINE __m256i eight_apart(const void *at, long stride, long last)
{
    int32_t some[8];
    for (int i = 0; i < 8; i++)
        memcpy(some + i, (const char *)at + (i < last ? i : last) * stride, sizeof *some);
    return _mm256_loadu_si256((const __m256i *)some);
}

/* Halves of 16 bits in lanes of 32, wide */
INLINE __m256 from_f16(__m256i lanes)
{
    const __m256i packed = _mm256_packus_epi32(lanes, lanes);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
}

INLINE __m256 from_bf16(__m256i lanes)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(lanes, 16));
}

INLINE __m256 eight_halves(const f16 *at, long stride, long last)
{
    f16 some[8];
    for (int i = 0; i < 8; i++)
        some[i] = at[(i < last ? i : last) * stride];
    return load_f16(some);
}

/* Of weights of 4 or 8 bits, known when this is compiled */
INLINE void fill_packed(float *panel, const Linear *w, long row, long last, long first, long depth,
                        const int bits)
{
    const long groups = w->columns / w->group, stride = w->columns * bits / 8;
    const char *q = (const char *)w->q + row * stride + first * bits / 8;
    __m256 scale = _mm256_setzero_ps(), zero = scale;
    for (long c = 0; c < depth; c += 32 / bits, q += 4) {
        if (c % 32 == 0) {
            const long g = row * groups + (first + c) / w->group;
            scale = eight_halves(w->scale + g, groups, last);
            zero = w->zero ? eight_halves(w->zero + g, groups, last) : zero;
        }
        const __m256i packed = eight_apart(q, stride, last);
        for (int i = 0; i < 32 / bits; i++, panel += WIDE) {
            const __m256i high = _mm256_slli_epi32(packed, 32 - bits * (i + 1));
            const __m256i number = bits == 4 ? _mm256_srli_epi32(high, 32 - bits)
                                             : _mm256_srai_epi32(high, 32 - bits);
            _mm256_store_ps(panel, _mm256_fmadd_ps(_mm256_cvtepi32_ps(number), scale, zero));
        }
    }
}

static void fill_half(float *panel, const Linear *w, long row, long last, long first, long depth)
{
    const uint16_t *at = (const uint16_t *)w->q + row * w->columns + first;
    for (long c = 0; c < depth; c += 2, panel += 2 * WIDE) {
        const __m256i two = eight_apart(at + c, w->columns * sizeof *at, last);
        const __m256i even = _mm256_and_si256(two, _mm256_set1_epi32(0xffff));
        const __m256i odd = _mm256_srli_epi32(two, 16);
        _mm256_store_ps(panel, w->is_bf16 ? from_bf16(even) : from_f16(even));
        _mm256_store_ps(panel + WIDE, w->is_bf16 ? from_bf16(odd) : from_f16(odd));
    }
}

void fill_panel(Panel panel, const Linear *w, long row, long first, long depth)
{
    for (int half = 0; half < WIDE; half += 8) {
        const long left = w->rows - row - half; /* of none at all the last row is taken */
        const long from = left > 0 ? row + half : w->rows - 1, last = left > 0 ? left - 1 : 0;
        if (w->bits == 4)
            fill_packed(panel + half, w, from, last, first, depth, 4);
        else if (w->bits == 8)
            fill_packed(panel + half, w, from, last, first, depth, 8);
        else
            fill_half(panel + half, w, from, last, first, depth);
    }
}

/* ---- products */

/* The tile of a panel that has fewer than WIDE rows */
static void multiply_edge(float *y, long y_stride, const float *x, long x_stride,
                          const float *panel, long depth, const float *start, long n, long width)
{
    float whole[TALL * WIDE];
    for (long t = 0; !start && t < n; t++)
        memcpy(whole + t * WIDE, y + t * y_stride, width * sizeof *y);
    multiply_tile(whole, WIDE, x, x_stride, panel, depth, start, n);
    for (long t = 0; t < n; t++)
        memcpy(y + t * y_stride, whole + t * WIDE, width * sizeof *y);
}

/* The products with rows from `row` to before `end`, which PANELS hold */
static void multiply_rows(float *y, const float *x, const Linear *w, long tokens, long row, long end)
{
    Panel panels[PANELS];
    float bias[PANELS * WIDE] = {0};
    for (long r = row; w->bias && r < end; r++)
        bias[r - row] = one_bf16(w->bias[r]);
    for (long first = 0; first < w->columns; first += DEPTH) {
        const long depth = lesser(w->columns - first, DEPTH);
        for (long r = row; r < end; r += WIDE)
            fill_panel(panels[(r - row) / WIDE], w, r, first, depth);
        for (long t = 0; t < tokens; t += TALL)
            for (long r = row; r < end; r += WIDE) {
                float *to = y + t * w->rows + r;
                const float *from = x + t * w->columns + first;
                const float *panel = panels[(r - row) / WIDE], *start = first ? NULL : bias + r - row;
                const long n = lesser(tokens - t, TALL), width = end - r;
                if (width < WIDE)
                    multiply_edge(to, w->rows, from, w->columns, panel, depth, start, n, width);
                else
                    multiply_tile(to, w->rows, from, w->columns, panel, depth, start, n);
            }
    }
}

int multiply_many(float *y, const float *x, const Linear *w, long tokens, int threads)
{
    const long panels = (w->rows + WIDE - 1) / WIDE;
    if (USES_AMX)
        return multiply_amx(y, x, w, tokens, threads);
    PARALLEL_FOR
    for (long part = 0; part < threads; part++) {
        const long end = lesser(panels * (part + 1) / threads * WIDE, w->rows);
        for (long row = panels * part / threads * WIDE; row < end; row += PANELS * WIDE)
            multiply_rows(y, x, w, tokens, row, lesser(end, row + PANELS * WIDE));
    }
    return DONE;
}
