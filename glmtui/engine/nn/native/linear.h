/* A linear layer as the kernels read it, and its products with activations. */

#ifndef GLMTUI_LINEAR_H
#define GLMTUI_LINEAR_H

#include "simd.h"

/* weight[r][c] = q[r][c] * scale[r][g] + zero[r][g], with g = c / group.
   bits = 4: q is uint8 [rows, columns / 2], the even column in the low half of each byte.
   bits = 8: q is int8 [rows, columns].
   For both, group is 32 or a multiple of 64, and columns is a multiple of group and of 64. zero may
   be NULL for 0.
   bits = 16: q is the unpacked weight, [rows, columns]. columns is a multiple of 32.
   bias: [rows], or NULL. */
typedef struct {
    const void *q;
    const f16 *scale, *zero;
    const bf16 *bias;
    int64_t rows, columns, group;
    int32_t bits, is_bf16; /* is_bf16: for bits = 16, bfloat16 instead of float16 */
} Linear;

/* Return values of the functions that Python calls. INVALID_SIZES: nothing was computed. */
enum { SUCCESS = 0, NO_MEMORY = -1, INVALID_SIZES = -2 };

/* Whether the sizes are as described above. The kernels would read out of bounds for any others. */
int valid_linear(const Linear *w);

/* Whether counts of tokens and threads are in range */
INLINE int valid_counts(long tokens, int threads)
{
    return tokens > 0 && tokens <= 1L << 32 && threads > 0 && threads <= 4096;
}

/* y = x w^T + bias; x: [tokens, columns], y: [tokens, rows]. Returns SUCCESS or NO_MEMORY. */
int multiply(float *y, const float *x, const Linear *w, long tokens, int threads);

/* The same for many tokens: unpacks the weight panel by panel to float32, or to bfloat16 with AMX.
   Faster than `multiply` with more than FEW_TOKENS tokens. */
int gemm(float *y, const float *x, const Linear *w, long tokens, int threads);

/* gemm for processors with AMX */
int gemm_amx(float *y, const float *x, const Linear *w, long tokens, int threads);

/* x[t] = table[ids[t]] */
void embed(float *x, const int64_t *ids, const Linear *table, long tokens);

#endif
