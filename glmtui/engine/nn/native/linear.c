/* Products of a few tokens with weights of 4, 8 and 16 bits, and unpacking of weights.

   For weights of 4 and 8 bits, the activations are quantized to int16 with one scale per BLOCK,
   which is more precise than bfloat16, and multiplied as integers: one instruction multiplies two
   pairs per lane and adds them. A token's result is bit-identical whatever other tokens are in the
   call. NaN and infinity become NaN. Matrices are row-major. */

#include <stdlib.h>

#include "linear.h"

#define BLOCK 64                   /* columns that share a scale of the activations */
#define TOKENS_PER_ROW 4           /* tokens that one unpacked row is multiplied with */
#define WEIGHT_PREFETCH_BYTES 2048 /* how far ahead of its use a weight is prefetched */

/* ---- quantized activations */

typedef struct {
    int16_t *q;   /* [columns] */
    float *scale; /* [columns / BLOCK] */
    float *sums;  /* [groups, rounded up to 8]: sum of each group's activations, then zeros */
} QuantizedToken;

/* The index at which column c of a block is stored, in the order in which weights are unpacked.
   With 4 bits, every fourth column is adjacent. With groups of 32 columns (small_groups), the lower
   half of a vector of sums must belong to the first 32 columns of the block and the upper half to
   the others: with 4 bits this is already so; with 8 bits, eight of the first 32 columns alternate
   with eight of the others. */
INLINE int activation_index(int c, const int bits, const int small_groups)
{
    if (bits == 4)
        return c % 4 * 16 + c / 4;
    return small_groups ? c % 32 / 8 * 16 + c / 32 * 8 + c % 8 : c;
}

INLINE void permute_activations(int16_t *q, const int32_t *rounded, const int bits,
                                const int small_groups)
{
    for (int c = 0; c < BLOCK; c++)
        q[activation_index(c, bits, small_groups)] = (int16_t)rounded[c];
}

static void quantize_token(const float *x, long columns, long group, int bits,
                           QuantizedToken result)
{
    const __m256 abs_mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    memset(result.sums, 0, round_up_8(columns / group) * sizeof(float));
    for (long g = 0; g < columns / group; g++) {
        __m256 sum = _mm256_setzero_ps();
        for (long c = g * group; c < (g + 1) * group; c += 8)
            sum = _mm256_add_ps(sum, _mm256_loadu_ps(x + c));
        result.sums[g] = horizontal_sum(sum);
    }
    for (long b = 0; b < columns / BLOCK; b++, x += BLOCK) {
        __m256 largest = _mm256_setzero_ps(), nan_if_not_finite = _mm256_setzero_ps();
        for (int c = 0; c < BLOCK; c += 8) {
            const __m256 v = _mm256_loadu_ps(x + c);
            largest = _mm256_max_ps(_mm256_and_ps(v, abs_mask), largest);
            nan_if_not_finite = _mm256_fmadd_ps(v, _mm256_setzero_ps(), nan_if_not_finite);
        }
        const float magnitude = horizontal_max(largest);
        const __m256 to_int16 = _mm256_set1_ps(magnitude > 0 ? 32767 / magnitude : 0);
        int32_t rounded[BLOCK];
        for (int c = 0; c < BLOCK; c += 8) {
            const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + c), to_int16);
            _mm256_storeu_si256((__m256i *)(rounded + c), _mm256_cvtps_epi32(scaled));
        }
        int16_t *q = result.q + b * BLOCK;
        if (bits == 4)
            permute_activations(q, rounded, 4, 0);
        else if (group < BLOCK)
            permute_activations(q, rounded, 8, 1);
        else
            permute_activations(q, rounded, 8, 0);
        result.scale[b] = magnitude / 32767 + horizontal_sum(nan_if_not_finite);
    }
}

/* Quantizes tokens. Everything is in one allocation, which the caller frees. NULL if out of memory.
   */
static QuantizedToken *quantize_tokens(const float *x, long tokens, long columns, long group,
                                       int bits)
{
    const long q = columns * sizeof(int16_t), scale = round_up_8(columns / BLOCK) * sizeof(float);
    const long sums = round_up_8(columns / group) * sizeof(float);
    const long per_token = (q + scale + sums + 63) / 64 * 64;
    const long head = (tokens * sizeof(QuantizedToken) + 63) / 64 * 64;
    QuantizedToken *inputs = aligned_alloc(64, head + tokens * per_token);
    for (long t = 0; inputs && t < tokens; t++) {
        char *start = (char *)inputs + head + t * per_token;
        inputs[t] = (QuantizedToken){(int16_t *)start, (float *)(start + q),
                                     (float *)(start + q + scale)};
        quantize_token(x + t * columns, columns, group, bits, inputs[t]);
    }
    return inputs;
}

/* ---- products */

/* Unpacks 64 weights of 4 bits to int16, in the order of activation_index. */
INLINE void widen_int4(const uint8_t *q, __m256i w[4])
{
    const __m256i low_bits = _mm256_set1_epi16(15), packed = _mm256_loadu_si256((const __m256i *)q);
    w[0] = _mm256_and_si256(packed, low_bits);
    w[1] = _mm256_and_si256(_mm256_srli_epi16(packed, 4), low_bits);
    w[2] = _mm256_and_si256(_mm256_srli_epi16(packed, 8), low_bits);
    w[3] = _mm256_srli_epi16(packed, 12);
}

/* Unpacks 64 weights of 8 bits to int16, in the order of activation_index. */
INLINE void widen_int8(const int8_t *q, __m256i w[4], const int small_groups)
{
    for (int i = 0; i < 4; i++) {
        if (!small_groups) {
            w[i] = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(q + 16 * i)));
            continue;
        }
        const __m128i low = _mm_loadl_epi64((const __m128i *)(q + 8 * i));
        const __m128i high = _mm_loadl_epi64((const __m128i *)(q + 32 + 8 * i));
        w[i] = _mm256_cvtepi8_epi16(_mm_unpacklo_epi64(low, high));
    }
}

INLINE __m256 dot(const __m256i w[4], const int16_t *x)
{
    const __m256i *v = (const __m256i *)x;
    const __m256i a = _mm256_add_epi32(_mm256_madd_epi16(w[0], v[0]), _mm256_madd_epi16(w[1], v[1]));
    const __m256i b = _mm256_add_epi32(_mm256_madd_epi16(w[2], v[2]), _mm256_madd_epi16(w[3], v[3]));
    return _mm256_cvtepi32_ps(_mm256_add_epi32(a, b));
}

/* The scales of two groups, each in one half of the vector */
INLINE __m256 load_two_scales(const f16 *scale)
{
    int32_t two;
    memcpy(&two, scale, sizeof two);
    const __m256 both = _mm256_castps128_ps256(_mm_cvtph_ps(_mm_cvtsi32_si128(two)));
    return _mm256_permutevar8x32_ps(both, _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
}

INLINE __m256 load_f16_partial(const f16 *from, long count)
{
    if (count >= 8)
        return load_f16(from);
    f16 padded[8] = {0};
    memcpy(padded, from, count * sizeof(f16));
    return load_f16(padded);
}

/* sums[t] = the product of row r with token t, for n tokens. bits, small_groups and n: compile-time
   constants. */
INLINE void dot_row_inlined(float *sums, const Linear *w, long r, const QuantizedToken *x,
                            const int bits, const int small_groups, const int n)
{
    const long groups = w->columns / w->group, blocks = small_groups ? 1 : w->group / BLOCK;
    const char *q = (const char *)w->q + r * w->columns * bits / 8;
    const f16 *scale = w->scale + r * groups;
    __m256 sum[TOKENS_PER_ROW], part[TOKENS_PER_ROW];
    __m256i v[4];
    for (int t = 0; t < n; t++)
        sum[t] = _mm256_setzero_ps();
    for (long g = 0; w->zero && g < groups; g += 8) {
        const __m256 zeros = load_f16_partial(w->zero + r * groups + g, groups - g);
        for (int t = 0; t < n; t++)
            sum[t] = _mm256_fmadd_ps(zeros, _mm256_loadu_ps(x[t].sums + g), sum[t]);
    }
    for (long first = 0; first < w->columns / BLOCK; first += blocks) {
        for (int t = 0; t < n; t++)
            part[t] = _mm256_setzero_ps();
        for (long b = first; b < first + blocks; b++) {
            _mm_prefetch(q + b * BLOCK * bits / 8 + WEIGHT_PREFETCH_BYTES, _MM_HINT_T0);
            if (bits == 4)
                widen_int4((const uint8_t *)q + b * BLOCK / 2, v);
            else
                widen_int8((const int8_t *)q + b * BLOCK, v, small_groups);
            for (int t = 0; t < n; t++) {
                const __m256 unit = _mm256_set1_ps(x[t].scale[b]);
                part[t] = _mm256_fmadd_ps(dot(v, x[t].q + b * BLOCK), unit, part[t]);
            }
        }
        const __m256 scales = small_groups ? load_two_scales(scale + 2 * first)
                                    : _mm256_set1_ps(_cvtsh_ss(scale[first / blocks]));
        for (int t = 0; t < n; t++)
            sum[t] = _mm256_fmadd_ps(part[t], scales, sum[t]);
    }
    for (int t = 0; t < n; t++)
        sums[t] = horizontal_sum(sum[t]);
}

/* dot_row_inlined for 1 to TOKENS_PER_ROW tokens */
INLINE void dot_row(float *sums, const Linear *w, long r, const QuantizedToken *x, const int bits,
                    const int small_groups, int n)
{
    switch (n) {
    case 1: dot_row_inlined(sums, w, r, x, bits, small_groups, 1); break;
    case 2: dot_row_inlined(sums, w, r, x, bits, small_groups, 2); break;
    case 3: dot_row_inlined(sums, w, r, x, bits, small_groups, 3); break;
    default: dot_row_inlined(sums, w, r, x, bits, small_groups, TOKENS_PER_ROW);
    }
}

static int gemv_packed(float *y, const float *x, const Linear *w, long tokens, int threads)
{
    const int small_groups = w->group < BLOCK;
    QuantizedToken *inputs = quantize_tokens(x, tokens, w->columns, w->group, w->bits);
    if (!inputs)
        return NO_MEMORY;
    PARALLEL_FOR
    for (long r = 0; r < w->rows; r++)
        for (long first = 0; first < tokens; first += TOKENS_PER_ROW) {
            const int n = tokens - first < TOKENS_PER_ROW ? (int)(tokens - first) : TOKENS_PER_ROW;
            float sums[TOKENS_PER_ROW];
            if (w->bits == 4 && small_groups)
                dot_row(sums, w, r, inputs + first, 4, 1, n);
            else if (w->bits == 4)
                dot_row(sums, w, r, inputs + first, 4, 0, n);
            else if (small_groups)
                dot_row(sums, w, r, inputs + first, 8, 1, n);
            else
                dot_row(sums, w, r, inputs + first, 8, 0, n);
            for (int t = 0; t < n; t++)
                y[(first + t) * w->rows + r] = sums[t] + (w->bias ? bf16_to_float(w->bias[r]) : 0);
        }
    free(inputs);
    return SUCCESS;
}

static int gemv_16bit(float *y, const float *x, const Linear *w, long tokens, int threads)
{
    const long rows = w->rows, columns = w->columns;
    PARALLEL_FOR
    for (long r = 0; r < rows; r++) {
        const uint16_t *row = (const uint16_t *)w->q + r * columns;
        for (long t = 0; t < tokens; t++) {
            __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                              _mm256_setzero_ps()};
            for (long c = 0; c < columns; c += 32) {
                _mm_prefetch((const char *)(row + c) + WEIGHT_PREFETCH_BYTES, _MM_HINT_T0);
                for (int i = 0; i < 4; i++) {
                    const uint16_t *from = row + c + 8 * i;
                    const __m256 weights = w->is_bf16 ? load_bf16(from) : load_f16(from);
                    const __m256 numbers = _mm256_loadu_ps(x + t * columns + c + 8 * i);
                    sums[i] = _mm256_fmadd_ps(weights, numbers, sums[i]);
                }
            }
            const float sum = horizontal_sum(_mm256_add_ps(_mm256_add_ps(sums[0], sums[1]),
                                                   _mm256_add_ps(sums[2], sums[3])));
            y[t * rows + r] = sum + (w->bias ? bf16_to_float(w->bias[r]) : 0);
        }
    }
    return SUCCESS;
}

int multiply(float *y, const float *x, const Linear *w, long tokens, int threads)
{
    if (tokens <= FEW_TOKENS)
        return (w->bits == 16 ? gemv_16bit : gemv_packed)(y, x, w, tokens, threads);
    return gemm(y, x, w, tokens, threads);
}

int valid_linear(const Linear *w)
{
    const long most = 1L << 40; /* weights: no product of sizes overflows a long */
    if (!w->q || w->rows <= 0 || w->columns <= 0 || w->rows > most / w->columns)
        return 0;
    if (w->bits == 16)
        return w->columns % 32 == 0;
    if (!w->scale || (w->bits != 4 && w->bits != 8) || w->columns % BLOCK || w->group <= 0)
        return 0;
    return (w->group == 32 || w->group % BLOCK == 0) && w->columns % w->group == 0;
}

/* `multiply` with x and y in bfloat16. Returns SUCCESS, NO_MEMORY or INVALID_SIZES. */
int linear(bf16 *y, const bf16 *x, const Linear *w, long tokens, int threads)
{
    if (!valid_linear(w) || !valid_counts(tokens, threads))
        return INVALID_SIZES;
    const long in = tokens * w->columns, out = tokens * w->rows;
    float *x_and_y = malloc((in + out) * sizeof(float));
    if (!x_and_y)
        return NO_MEMORY;
    PARALLEL_IF_MANY
    for (long i = 0; i < in; i++)
        x_and_y[i] = bf16_to_float(x[i]);
    const int result = multiply(x_and_y + in, x_and_y, w, tokens, threads);
    if (result == 0) {
        PARALLEL_IF_MANY
        for (long i = 0; i < out; i++)
            y[i] = float_to_bf16(x_and_y[in + i]);
    }
    free(x_and_y);
    return result;
}

INLINE __m256i load8_int8(const int8_t *q)
{
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)q));
}

INLINE __m256i load8_int4(const uint8_t *q)
{
    const __m256i shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    int32_t packed;
    memcpy(&packed, q, sizeof packed);
    return _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(packed), shifts),
                            _mm256_set1_epi32(15));
}

/* Unpacks a row of a packed weight to float32 or bfloat16. as_bf16: a compile-time constant. */
INLINE void unpack_row(void *row, const Linear *w, long r, const int as_bf16)
{
    const long groups = w->columns / w->group;
    for (long g = 0; g < groups; g++) {
        const __m256 scale = _mm256_set1_ps(_cvtsh_ss(w->scale[r * groups + g]));
        const __m256 zero = _mm256_set1_ps(w->zero ? _cvtsh_ss(w->zero[r * groups + g]) : 0);
        for (long c = g * w->group; c < (g + 1) * w->group; c += 8) {
            const long index = r * w->columns + c;
            const __m256i number = w->bits == 4 ? load8_int4((const uint8_t *)w->q + index / 2)
                                                : load8_int8((const int8_t *)w->q + index);
            const __m256 weight = _mm256_fmadd_ps(_mm256_cvtepi32_ps(number), scale, zero);
            if (as_bf16)
                store_bf16((bf16 *)row + c, weight);
            else
                _mm256_storeu_ps((float *)row + c, weight);
        }
    }
}

/* Unpacks rows [first, last) of a packed weight to float32 or bfloat16. Returns SUCCESS or
   INVALID_SIZES. */
int unpack(void *unpacked, const Linear *w, long first, long last, int as_bf16, int threads)
{
    if (!valid_linear(w) || w->bits == 16 || first < 0 || last > w->rows ||
        !valid_counts(1, threads))
        return INVALID_SIZES;
    PARALLEL_FOR
    for (long r = first; r < last; r++)
        if (as_bf16)
            unpack_row((bf16 *)unpacked + (r - first) * w->columns, w, r, 1);
        else
            unpack_row((float *)unpacked + (r - first) * w->columns, w, r, 0);
    return SUCCESS;
}

void embed(float *x, const int64_t *ids, const Linear *table, long tokens)
{
    for (long t = 0; t < tokens; t++, x += table->columns) {
        const uint16_t *half = (const uint16_t *)table->q + ids[t] * table->columns;
        if (table->bits < 16)
            unpack_row(x, table, ids[t], 0);
        else
            for (long c = 0; c < table->columns; c += 8)
                _mm256_storeu_ps(x + c, table->is_bf16 ? load_bf16(half + c) : load_f16(half + c));
    }
}
