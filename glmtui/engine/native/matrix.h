/* Products of many tokens with a matrix in panels: of a few rows all numbers of a column lie
   together, as float32 [depth, WIDE]. A panel is filled once and multiplied with every token. */

#ifndef GLMTUI_MATRIX_H
#define GLMTUI_MATRIX_H

#include "numbers.h"

#define WIDE 16   /* rows of a panel */
#define TALL 6    /* tokens at a time: with WIDE as many sums as there are registers for */
#define DEPTH 256 /* columns of a panel at most; that many are 16 KB, half of a first-level cache */

/* Before a loop over sums, which thereby stay in registers */
#define UNROLLED _Pragma("GCC unroll 8")

typedef float Panel[DEPTH * WIDE] __attribute__((aligned(64)));

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

/* y[t] = start + the sum over c of x[t][c] panel[c]; start NULL: of what y[t] was. n tokens, known
   when this is compiled. */
INLINE void tile(float *y, long y_stride, const float *x, long x_stride, const float *panel,
                 long depth, const float *start, const int n)
{
    __m256 sums[TALL][2];
    UNROLLED
    for (int t = 0; t < n; t++) {
        const float *from = start ? start : y + t * y_stride;
        sums[t][0] = _mm256_loadu_ps(from);
        sums[t][1] = _mm256_loadu_ps(from + 8);
    }
    for (long c = 0; c < depth; c++, panel += WIDE) {
        const __m256 first = _mm256_load_ps(panel), second = _mm256_load_ps(panel + 8);
        UNROLLED
        for (int t = 0; t < n; t++) {
            const __m256 number = _mm256_broadcast_ss(x + t * x_stride + c);
            sums[t][0] = _mm256_fmadd_ps(number, first, sums[t][0]);
            sums[t][1] = _mm256_fmadd_ps(number, second, sums[t][1]);
        }
    }
    UNROLLED
    for (int t = 0; t < n; t++) {
        _mm256_storeu_ps(y + t * y_stride, sums[t][0]);
        _mm256_storeu_ps(y + t * y_stride + 8, sums[t][1]);
    }
}

/* The same for up to TALL tokens. */
static void multiply_tile(float *y, long y_stride, const float *x, long x_stride,
                          const float *panel, long depth, const float *start, long n)
{
    switch (n) {
    case 1: tile(y, y_stride, x, x_stride, panel, depth, start, 1); break;
    case 2: tile(y, y_stride, x, x_stride, panel, depth, start, 2); break;
    case 3: tile(y, y_stride, x, x_stride, panel, depth, start, 3); break;
    case 4: tile(y, y_stride, x, x_stride, panel, depth, start, 4); break;
    case 5: tile(y, y_stride, x, x_stride, panel, depth, start, 5); break;
    default: tile(y, y_stride, x, x_stride, panel, depth, start, TALL);
    }
}

#endif
