/* A linear layer as the kernels read it. */

#ifndef GLMTUI_LINEAR_H
#define GLMTUI_LINEAR_H

#include "numbers.h"

/* weight[r][c] = q[r][c] * scale[r][g] + zero[r][g], g = c / group.
   bits: 4 (uint8 [rows, columns / 2], the even column in the low half) or 8 (int8 [rows, columns]),
   group 32 or divisible by 64, columns divisible by it and by 64, zero NULL for none;
   or 16, the whole weight, [rows, columns], columns divisible by 32.
   bias: [rows], or NULL for none. */
typedef struct {
    const void *q;
    const f16 *scale, *zero;
    const bf16 *bias;
    int64_t rows, columns, group;
    int32_t bits, is_bf16; /* of 16 bits: bfloat16, else float16 */
} Linear;

/* y = x w^T + bias; x: [tokens, columns], y: [tokens, rows]. 0, or -1 where memory is short. */
int multiply(float *y, const float *x, const Linear *w, long tokens, int threads);

/* The same by panels of the weight in float32: faster where tokens are more than FEW. */
void multiply_many(float *y, const float *x, const Linear *w, long tokens, int threads);

/* x[t] = table[ids[t]] */
void embed(float *x, const int64_t *ids, const Linear *table, long tokens);

#endif
