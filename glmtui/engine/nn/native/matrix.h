/* Products of many tokens with a matrix in panels: of a few rows all numbers of a column lie
   together, as float32 [depth, WIDE]. A panel is filled once and multiplied with every token. */

#ifndef GLMTUI_MATRIX_H
#define GLMTUI_MATRIX_H

#include "linear.h"

#define WIDE 16   /* rows of a panel */
#define TALL 6    /* tokens at a time: with WIDE as many sums as there are registers for */
#define DEPTH 256 /* columns of a panel at most; that many are 16 KB, half of a first-level cache */

typedef float Panel[DEPTH * WIDE] __attribute__((aligned(64)));

/* Fills a panel with rows of a weight from `row` on, of which there may be fewer than WIDE, and
   `depth` of their columns. */
void fill_panel(Panel panel, const Linear *w, long row, long first, long depth);

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
