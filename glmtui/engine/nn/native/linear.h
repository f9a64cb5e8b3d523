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

/* What the functions of the library return, which Python calls */
enum { DONE = 0, NO_MEMORY = -1, REFUSED = -2 /* sizes that are not as described */ };

/* Whether sizes are as described above; what is none of this would be read beyond its end. */
int is_linear(const Linear *w);

/* The same of tokens and threads */
INLINE int are_counts(long tokens, int threads)
{
    return tokens > 0 && tokens <= 1L << 32 && threads > 0 && threads <= 4096;
}

/* y = x w^T + bias; x: [tokens, columns], y: [tokens, rows]. Returns DONE or NO_MEMORY. */
int multiply(float *y, const float *x, const Linear *w, long tokens, int threads);

/* The same by panels of the weight, unpacked to float32, or with AMX to bfloat16: faster where tokens
   are more than FEW. */
int multiply_many(float *y, const float *x, const Linear *w, long tokens, int threads);

/* Of processors with AMX */
int multiply_amx(float *y, const float *x, const Linear *w, long tokens, int threads);

/* x[t] = table[ids[t]] */
void embed(float *x, const int64_t *ids, const Linear *table, long tokens);

#endif
