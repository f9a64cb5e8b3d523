/* Products of a few tokens with weights of 4, 8 and 16 bits, and weights unpacked for many.

   For weights of 4 and 8 bits the activations are rounded to integers of 16 bits with a scale per
   BLOCK, closer than bfloat16 is, and multiplied as integers: two products and their sum per
   instruction and lane. A token's result is the same to the last bit, whatever is computed beside
   it. NaN and infinity come out as NaN.

   Matrices are row-major. Functions return 0, or -1 where memory is short. */

#include <stdlib.h>

#include "linear.h"

#define BLOCK 64 /* columns that share a scale of the activations */
#define TOKENS 4 /* that a row is unpacked for at a time */

/* ---- activations as integers */

typedef struct {
    int16_t *q;   /* [columns] */
    float *scale; /* [columns / BLOCK] */
    float *sums;  /* [groups], of the numbers as they were */
} Input;

/* Rounds one token. planes: of each BLOCK every fourth number first, then those after them and so
   on, the order in which unpacking 4 bits yields the columns. */
static void round_input(const float *x, long columns, long group, int planes, Input into)
{
    for (long g = 0; g < columns / group; g++) {
        __m256 sum = _mm256_setzero_ps();
        for (long c = g * group; c < (g + 1) * group; c += 8)
            sum = _mm256_add_ps(sum, _mm256_loadu_ps(x + c));
        into.sums[g] = sum_of(sum);
    }
    const __m256 unsign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    for (long b = 0; b < columns / BLOCK; b++, x += BLOCK) {
        __m256 most = _mm256_setzero_ps(), not_finite = _mm256_setzero_ps();
        for (int c = 0; c < BLOCK; c += 8) {
            const __m256 v = _mm256_loadu_ps(x + c);
            most = _mm256_max_ps(_mm256_and_ps(v, unsign), most);
            not_finite = _mm256_fmadd_ps(v, _mm256_setzero_ps(), not_finite);
        }
        const float largest = largest_of(most);
        const __m256 up = _mm256_set1_ps(largest > 0 ? 32767 / largest : 0);
        int16_t natural[BLOCK], *q = into.q + b * BLOCK;
        for (int c = 0; c < BLOCK; c += 16) {
            const __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + c), up));
            const __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + c + 8), up));
            const __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
            _mm256_storeu_si256((__m256i *)(natural + c), both);
        }
        for (int c = 0; c < BLOCK; c++)
            q[c] = planes ? natural[c % 16 * 4 + c / 16] : natural[c];
        into.scale[b] = largest / 32767 + sum_of(not_finite);
    }
}

/* Rounds tokens, all in one allocation that begins at the first one's q; NULL: no memory. */
static Input *round_inputs(const float *x, long tokens, long columns, long group, int planes)
{
    const long q = columns * sizeof(int16_t), scale = columns / BLOCK * sizeof(float);
    const long sums = columns / group * sizeof(float);
    const long each = (q + scale + sums + 63) / 64 * 64, head = (tokens * sizeof(Input) + 63) / 64 * 64;
    Input *inputs = aligned_alloc(64, head + tokens * each);
    for (long t = 0; inputs && t < tokens; t++) {
        char *at = (char *)inputs + head + t * each;
        inputs[t] = (Input){(int16_t *)at, (float *)(at + q), (float *)(at + q + scale)};
        round_input(x + t * columns, columns, group, planes, inputs[t]);
    }
    return inputs;
}

/* ---- products */

INLINE float zeros_dot(const f16 *zero, const float *sums, long groups)
{
    __m256 sum = _mm256_setzero_ps();
    float rest = 0;
    long g = 0;
    for (; g + 8 <= groups; g += 8)
        sum = _mm256_fmadd_ps(load_f16(zero + g), _mm256_loadu_ps(sums + g), sum);
    for (; g < groups; g++)
        rest += _cvtsh_ss(zero[g]) * sums[g];
    return sum_of(sum) + rest;
}

/* 64 weights of 4 bits, spread over 16 bits each, in planes */
INLINE void spread4(const uint8_t *q, __m256i w[4])
{
    const __m256i four = _mm256_set1_epi16(15), packed = _mm256_loadu_si256((const __m256i *)q);
    w[0] = _mm256_and_si256(packed, four);
    w[1] = _mm256_and_si256(_mm256_srli_epi16(packed, 4), four);
    w[2] = _mm256_and_si256(_mm256_srli_epi16(packed, 8), four);
    w[3] = _mm256_srli_epi16(packed, 12);
}

/* 64 weights of 8 bits, the same in their order */
INLINE void spread8(const int8_t *q, __m256i w[4])
{
    for (int i = 0; i < 4; i++)
        w[i] = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)q + i));
}

INLINE __m256i pair_sums(const __m256i *w, const int16_t *x, int first, int last)
{
    const __m256i *v = (const __m256i *)x;
    __m256i sum = _mm256_madd_epi16(w[first], v[first]);
    for (int i = first + 1; i < last; i++)
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(w[i], v[i]));
    return sum;
}

/* The products of a row with n tokens, sums[t]; n and bits are known when this is compiled. */
INLINE void row_dots(float *sums, const void *q, const f16 *scale, const Input *x, long columns,
                     long group, const int bits, const int n)
{
    __m256 sum[TOKENS], part[TOKENS], weights;
    __m256i w[4];
    for (int t = 0; t < n; t++)
        sum[t] = _mm256_setzero_ps();
    const long blocks = group > BLOCK ? group / BLOCK : 1;
    for (long first = 0; first < columns / BLOCK; first += blocks) {
        for (int t = 0; t < n; t++)
            part[t] = _mm256_setzero_ps();
        for (long b = first; b < first + blocks; b++) {
            if (bits == 4)
                spread4((const uint8_t *)q + b * BLOCK / 2, w);
            else
                spread8((const int8_t *)q + b * BLOCK, w);
            for (int t = 0; t < n; t++) {
                const __m256 unit = _mm256_set1_ps(x[t].scale[b]);
                const int16_t *v = x[t].q + b * BLOCK;
                if (bits == 8 && group < BLOCK) {
                    const __m256 low = _mm256_cvtepi32_ps(pair_sums(w, v, 0, 2));
                    const __m256 high = _mm256_cvtepi32_ps(pair_sums(w, v, 2, 4));
                    const __m256 s0 = _mm256_set1_ps(_cvtsh_ss(scale[2 * b]));
                    const __m256 s1 = _mm256_set1_ps(_cvtsh_ss(scale[2 * b + 1]));
                    part[t] = _mm256_mul_ps(_mm256_fmadd_ps(high, s1, _mm256_mul_ps(low, s0)), unit);
                } else {
                    part[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(pair_sums(w, v, 0, 4)), unit,
                                              part[t]);
                }
            }
        }
        if (bits == 4 && group < BLOCK) { /* the lower half of the sums is the first group's */
            int32_t two;
            memcpy(&two, scale + 2 * first, sizeof two);
            weights = _mm256_permutevar8x32_ps(
                _mm256_castps128_ps256(_mm_cvtph_ps(_mm_cvtsi32_si128(two))),
                _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
        } else {
            weights = _mm256_set1_ps(group < BLOCK ? 1 : _cvtsh_ss(scale[first / blocks]));
        }
        for (int t = 0; t < n; t++)
            sum[t] = _mm256_fmadd_ps(part[t], weights, sum[t]);
    }
    for (int t = 0; t < n; t++)
        sums[t] = sum_of(sum[t]);
}

/* The same with n known later. */
INLINE void row_dots_of(float *sums, const void *q, const f16 *scale, const Input *x, long columns,
                        long group, const int bits, int n)
{
    switch (n) {
    case 1: row_dots(sums, q, scale, x, columns, group, bits, 1); break;
    case 2: row_dots(sums, q, scale, x, columns, group, bits, 2); break;
    case 3: row_dots(sums, q, scale, x, columns, group, bits, 3); break;
    default: row_dots(sums, q, scale, x, columns, group, bits, TOKENS);
    }
}

static int multiply_packed(float *y, const float *x, const Linear *w, long tokens, int threads)
{
    const long rows = w->rows, columns = w->columns, group = w->group, groups = columns / group;
    Input *inputs = round_inputs(x, tokens, columns, group, w->bits == 4);
    if (!inputs)
        return -1;
    PARALLEL_FOR
    for (long r = 0; r < rows; r++) {
        const char *row = (const char *)w->q + r * columns * w->bits / 8;
        const f16 *scale = w->scale + r * groups;
        for (long first = 0; first < tokens; first += TOKENS) {
            const int n = tokens - first < TOKENS ? (int)(tokens - first) : TOKENS;
            float sums[TOKENS];
            if (w->bits == 4)
                row_dots_of(sums, row, scale, inputs + first, columns, group, 4, n);
            else
                row_dots_of(sums, row, scale, inputs + first, columns, group, 8, n);
            for (int t = 0; t < n; t++) {
                if (w->zero)
                    sums[t] += zeros_dot(w->zero + r * groups, inputs[first + t].sums, groups);
                y[(first + t) * rows + r] = sums[t] + (w->bias ? one_bf16(w->bias[r]) : 0);
            }
        }
    }
    free(inputs);
    return 0;
}

static int multiply_half(float *y, const float *x, const Linear *w, long tokens, int threads)
{
    const long rows = w->rows, columns = w->columns;
    PARALLEL_FOR
    for (long r = 0; r < rows; r++) {
        const uint16_t *row = (const uint16_t *)w->q + r * columns;
        for (long t = 0; t < tokens; t++) {
            __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                              _mm256_setzero_ps()};
            for (long c = 0; c < columns; c += 32)
                for (int i = 0; i < 4; i++) {
                    const uint16_t *at = row + c + 8 * i;
                    const __m256 weights = w->is_bf16 ? load_bf16(at) : load_f16(at);
                    const __m256 numbers = _mm256_loadu_ps(x + t * columns + c + 8 * i);
                    sums[i] = _mm256_fmadd_ps(weights, numbers, sums[i]);
                }
            const float sum = sum_of(_mm256_add_ps(_mm256_add_ps(sums[0], sums[1]),
                                                   _mm256_add_ps(sums[2], sums[3])));
            y[t * rows + r] = sum + (w->bias ? one_bf16(w->bias[r]) : 0);
        }
    }
    return 0;
}

int multiply(float *y, const float *x, const Linear *w, long tokens, int threads)
{
    return (w->bits == 16 ? multiply_half : multiply_packed)(y, x, w, tokens, threads);
}

/* The same with x and y in bfloat16. */
int linear(bf16 *y, const bf16 *x, const Linear *w, long tokens, int threads)
{
    const long in = tokens * w->columns, out = tokens * w->rows;
    float *wide = malloc((in + out) * sizeof(float));
    if (!wide)
        return -1;
    for (long i = 0; i < in; i++)
        wide[i] = one_bf16(x[i]);
    const int result = multiply(wide + in, wide, w, tokens, threads);
    for (long i = 0; result == 0 && i < out; i++)
        y[i] = to_bf16(wide[in + i]);
    free(wide);
    return result;
}

INLINE __m256i eight_of8(const int8_t *q)
{
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)q));
}

INLINE __m256i eight_of4(const uint8_t *q)
{
    const __m256i shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    int32_t packed;
    memcpy(&packed, q, sizeof packed);
    return _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(packed), shifts),
                            _mm256_set1_epi32(15));
}

/* Rows of a packed weight, from first to before last, in float32 or bfloat16. */
int unpack(void *whole, const Linear *w, long first, long last, int as_bf16, int threads)
{
    const long groups = w->columns / w->group;
    PARALLEL_FOR
    for (long r = first; r < last; r++)
        for (long g = 0; g < groups; g++) {
            const __m256 scale = _mm256_set1_ps(_cvtsh_ss(w->scale[r * groups + g]));
            const __m256 zero = _mm256_set1_ps(w->zero ? _cvtsh_ss(w->zero[r * groups + g]) : 0);
            const long start = r * w->columns + g * w->group, skipped = first * w->columns;
            for (long c = start; c < start + w->group; c += 8) {
                const __m256i number = w->bits == 4 ? eight_of4((const uint8_t *)w->q + c / 2)
                                                    : eight_of8((const int8_t *)w->q + c);
                const __m256 weight = _mm256_fmadd_ps(_mm256_cvtepi32_ps(number), scale, zero);
                if (as_bf16)
                    store_bf16((bf16 *)whole + c - skipped, weight);
                else
                    _mm256_storeu_ps((float *)whole + c - skipped, weight);
            }
        }
    return 0;
}
