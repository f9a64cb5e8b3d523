/* Products of many tokens with panels of a matrix. A panel holds a few rows transposed, as float32
   [depth, PANEL_ROWS]. It is unpacked once and multiplied with every token. */

#ifndef GLMTUI_GEMM_H
#define GLMTUI_GEMM_H

#include "linear.h"

#define PANEL_ROWS 16     /* rows of a panel: two vectors */
#define TILE_TOKENS 6     /* tokens at a time: with PANEL_ROWS, 12 sums fit into the 16 registers */
#define PANEL_COLUMNS 256 /* maximum depth of a panel: 16 KB, half of an L1 cache */

typedef float Panel[PANEL_COLUMNS * PANEL_ROWS] __attribute__((aligned(64)));

/* Unpacks `depth` columns, starting at `first`, of PANEL_ROWS rows, starting at `row`, into a
   panel. Rows beyond the last one repeat it. */
void unpack_panel(Panel panel, const Linear *w, long row, long first, long depth);

/* y[t] = start + sum over c of x[t][c] * panel[c], or y[t] += the sum if start is NULL. n: number
   of tokens, a compile-time constant. */
INLINE void multiply_tile_inlined(float *y, long y_stride, const float *x, long x_stride,
                                  const float *panel, long depth, const float *start, const int n)
{
    __m256 sums[TILE_TOKENS][2];
    UNROLLED
    for (int t = 0; t < n; t++) {
        const float *from = start ? start : y + t * y_stride;
        sums[t][0] = _mm256_loadu_ps(from);
        sums[t][1] = _mm256_loadu_ps(from + 8);
    }
    for (long c = 0; c < depth; c++, panel += PANEL_ROWS) {
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

/* multiply_tile_inlined for 1 to TILE_TOKENS tokens */
static void multiply_tile(float *y, long y_stride, const float *x, long x_stride,
                          const float *panel, long depth, const float *start, long n)
{
    switch (n) {
    case 1: multiply_tile_inlined(y, y_stride, x, x_stride, panel, depth, start, 1); break;
    case 2: multiply_tile_inlined(y, y_stride, x, x_stride, panel, depth, start, 2); break;
    case 3: multiply_tile_inlined(y, y_stride, x, x_stride, panel, depth, start, 3); break;
    case 4: multiply_tile_inlined(y, y_stride, x, x_stride, panel, depth, start, 4); break;
    case 5: multiply_tile_inlined(y, y_stride, x, x_stride, panel, depth, start, 5); break;
    default: multiply_tile_inlined(y, y_stride, x, x_stride, panel, depth, start, TILE_TOKENS);
    }
}

#endif
