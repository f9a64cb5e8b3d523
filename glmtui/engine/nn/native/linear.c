/* Products of a few tokens with weights of 4, 8 and 16 bits, and weights unpacked.

   For weights of 4 and 8 bits the activations are rounded to integers of 16 bits with a scale per
   BLOCK, closer than bfloat16 is, and multiplied as integers: two products and their sum per
   instruction and lane. A token's result is the same to the last bit, whatever is computed beside
   it. NaN and infinity come out as NaN.

   Matrices are row-major. */

#include <stdlib.h>

#include "linear.h"

#define BLOCK 64 /* columns that share a scale of the activations */
#define TOKENS 4 /* that a row is unpacked for at a time */
#define AHEAD 2048 /* bytes of a weight that are fetched before they are needed */

/* ---- activations as integers */

typedef struct {
    int16_t *q;   /* [columns] */
    float *scale; /* [columns / BLOCK] */
    float *sums;  /* [groups, and zeros up to a multiple of 8], of the numbers as they were */
} Input;

/* Where column c of a block stands: of 4 bits every fourth column is beside it, as unpacking yields
   them. Where groups are small, a product adds the first 32 columns up in the lower half of its sums
   and the others in the upper: with 4 bits it does so anyway, with 8 bits eight of the first 32 and
   eight of the others stand in turn. */
INLINE int place_of(int c, const int bits, const int small)
{
    if (bits == 4)
        return c % 4 * 16 + c / 4;
    return small ? c % 32 / 8 * 16 + c / 32 * 8 + c % 8 : c;
}

INLINE void place(int16_t *q, const int32_t *natural, const int bits, const int small)
{
    for (int c = 0; c < BLOCK; c++)
        q[place_of(c, bits, small)] = (int16_t)natural[c];
}

/* Rounds one token. */
static void round_input(const float *x, long columns, long group, int bits, Input into)
{
    const __m256 unsign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    memset(into.sums, 0, padded(columns / group) * sizeof(float));
    for (long g = 0; g < columns / group; g++) {
        __m256 sum = _mm256_setzero_ps();
        for (long c = g * group; c < (g + 1) * group; c += 8)
            sum = _mm256_add_ps(sum, _mm256_loadu_ps(x + c));
        into.sums[g] = sum_of(sum);
    }
    for (long b = 0; b < columns / BLOCK; b++, x += BLOCK) {
        __m256 most = _mm256_setzero_ps(), not_finite = _mm256_setzero_ps();
        for (int c = 0; c < BLOCK; c += 8) {
            const __m256 v = _mm256_loadu_ps(x + c);
            most = _mm256_max_ps(_mm256_and_ps(v, unsign), most);
            not_finite = _mm256_fmadd_ps(v, _mm256_setzero_ps(), not_finite);
        }
        const float largest = largest_of(most);
        const __m256 up = _mm256_set1_ps(largest > 0 ? 32767 / largest : 0);
        int32_t natural[BLOCK];
        for (int c = 0; c < BLOCK; c += 8) {
            const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + c), up);
            _mm256_storeu_si256((__m256i *)(natural + c), _mm256_cvtps_epi32(scaled));
        }
        int16_t *q = into.q + b * BLOCK;
        if (bits == 4)
            place(q, natural, 4, 0);
        else if (group < BLOCK)
            place(q, natural, 8, 1);
        else
            place(q, natural, 8, 0);
        into.scale[b] = largest / 32767 + sum_of(not_finite);
    }
}

/* Rounds tokens, all in one allocation that begins with what is returned; NULL: no memory. */
static Input *round_inputs(const float *x, long tokens, long columns, long group, int bits)
{
    const long q = columns * sizeof(int16_t), scale = padded(columns / BLOCK) * sizeof(float);
    const long sums = padded(columns / group) * sizeof(float);
    const long each = (q + scale + sums + 63) / 64 * 64;
    const long head = (tokens * sizeof(Input) + 63) / 64 * 64;
    Input *inputs = aligned_alloc(64, head + tokens * each);
    for (long t = 0; inputs && t < tokens; t++) {
        char *at = (char *)inputs + head + t * each;
        inputs[t] = (Input){(int16_t *)at, (float *)(at + q), (float *)(at + q + scale)};
        round_input(x + t * columns, columns, group, bits, inputs[t]);
    }
    return inputs;
}

/* ---- products */

/* The first 64 weights of 4 bits, 16 bits each */
INLINE void spread4(const uint8_t *q, __m256i w[4])
{
    const __m256i four = _mm256_set1_epi16(15), packed = _mm256_loadu_si256((const __m256i *)q);
    w[0] = _mm256_and_si256(packed, four);
    w[1] = _mm256_and_si256(_mm256_srli_epi16(packed, 4), four);
    w[2] = _mm256_and_si256(_mm256_srli_epi16(packed, 8), four);
    w[3] = _mm256_srli_epi16(packed, 12);
}

/* The first 64 weights of 8 bits, 16 bits each */
INLINE void spread8(const int8_t *q, __m256i w[4], const int small)
{
    for (int i = 0; i < 4; i++) {
        if (!small) {
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

/* Two groups' scales for the sums of a block */
INLINE __m256 two_scales(const f16 *scale)
{
    int32_t two;
    memcpy(&two, scale, sizeof two);
    const __m256 both = _mm256_castps128_ps256(_mm_cvtph_ps(_mm_cvtsi32_si128(two)));
    return _mm256_permutevar8x32_ps(both, _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
}

INLINE __m256 up_to_eight(const f16 *at, long count)
{
    if (count >= 8)
        return load_f16(at);
    f16 some[8] = {0};
    memcpy(some, at, count * sizeof(f16));
    return load_f16(some);
}

/* The products of row r with n tokens, sums[t]; n, bits and whether groups are small are known
   when this is compiled. */
INLINE void row_dots(float *sums, const Linear *w, long r, const Input *x, const int bits,
                     const int small, const int n)
{
    const long groups = w->columns / w->group, blocks = small ? 1 : w->group / BLOCK;
    const char *q = (const char *)w->q + r * w->columns * bits / 8;
    const f16 *scale = w->scale + r * groups;
    __m256 sum[TOKENS], part[TOKENS];
    __m256i v[4];
    for (int t = 0; t < n; t++)
        sum[t] = _mm256_setzero_ps();
    for (long g = 0; w->zero && g < groups; g += 8) {
        const __m256 zeros = up_to_eight(w->zero + r * groups + g, groups - g);
        for (int t = 0; t < n; t++)
            sum[t] = _mm256_fmadd_ps(zeros, _mm256_loadu_ps(x[t].sums + g), sum[t]);
    }
    for (long first = 0; first < w->columns / BLOCK; first += blocks) {
        for (int t = 0; t < n; t++)
            part[t] = _mm256_setzero_ps();
        for (long b = first; b < first + blocks; b++) {
            _mm_prefetch(q + b * BLOCK * bits / 8 + AHEAD, _MM_HINT_T0);
            if (bits == 4)
                spread4((const uint8_t *)q + b * BLOCK / 2, v);
            else
                spread8((const int8_t *)q + b * BLOCK, v, small);
            for (int t = 0; t < n; t++) {
                const __m256 unit = _mm256_set1_ps(x[t].scale[b]);
                part[t] = _mm256_fmadd_ps(dot(v, x[t].q + b * BLOCK), unit, part[t]);
            }
        }
        const __m256 scales = small ? two_scales(scale + 2 * first)
                                    : _mm256_set1_ps(_cvtsh_ss(scale[first / blocks]));
        for (int t = 0; t < n; t++)
            sum[t] = _mm256_fmadd_ps(part[t], scales, sum[t]);
    }
    for (int t = 0; t < n; t++)
        sums[t] = sum_of(sum[t]);
}

/* The same with all that known later. */
INLINE void row_dots_of(float *sums, const Linear *w, long r, const Input *x, const int bits,
                        const int small, int n)
{
    switch (n) {
    case 1: row_dots(sums, w, r, x, bits, small, 1); break;
    case 2: row_dots(sums, w, r, x, bits, small, 2); break;
    case 3: row_dots(sums, w, r, x, bits, small, 3); break;
    default: row_dots(sums, w, r, x, bits, small, TOKENS);
    }
}

static int multiply_packed(float *y, const float *x, const Linear *w, long tokens, int threads)
{
    const int small = w->group < BLOCK;
    Input *inputs = round_inputs(x, tokens, w->columns, w->group, w->bits);
    if (!inputs)
        return NO_MEMORY;
    PARALLEL_FOR
    for (long r = 0; r < w->rows; r++)
        for (long first = 0; first < tokens; first += TOKENS) {
            const int n = tokens - first < TOKENS ? (int)(tokens - first) : TOKENS;
            float sums[TOKENS];
            if (w->bits == 4 && small)
                row_dots_of(sums, w, r, inputs + first, 4, 1, n);
            else if (w->bits == 4)
                row_dots_of(sums, w, r, inputs + first, 4, 0, n);
            else if (small)
                row_dots_of(sums, w, r, inputs + first, 8, 1, n);
            else
                row_dots_of(sums, w, r, inputs + first, 8, 0, n);
            for (int t = 0; t < n; t++)
                y[(first + t) * w->rows + r] = sums[t] + (w->bias ? one_bf16(w->bias[r]) : 0);
        }
    free(inputs);
    return DONE;
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
            for (long c = 0; c < columns; c += 32) {
                _mm_prefetch((const char *)(row + c) + AHEAD, _MM_HINT_T0);
                for (int i = 0; i < 4; i++) {
                    const uint16_t *at = row + c + 8 * i;
                    const __m256 weights = w->is_bf16 ? load_bf16(at) : load_f16(at);
                    const __m256 numbers = _mm256_loadu_ps(x + t * columns + c + 8 * i);
                    sums[i] = _mm256_fmadd_ps(weights, numbers, sums[i]);
                }
            }
            const float sum = sum_of(_mm256_add_ps(_mm256_add_ps(sums[0], sums[1]),
                                                   _mm256_add_ps(sums[2], sums[3])));
            y[t * rows + r] = sum + (w->bias ? one_bf16(w->bias[r]) : 0);
        }
    }
    return DONE;
}

int multiply(float *y, const float *x, const Linear *w, long tokens, int threads)
{
    if (tokens <= FEW)
        return (w->bits == 16 ? multiply_half : multiply_packed)(y, x, w, tokens, threads);
    return multiply_many(y, x, w, tokens, threads);
}

int is_linear(const Linear *w)
{
    const long most = 1L << 40; /* so that no product of sizes overflows */
    if (!w->q || w->rows <= 0 || w->columns <= 0 || w->rows > most / w->columns)
        return 0;
    if (w->bits == 16)
        return w->columns % 32 == 0;
    if (!w->scale || (w->bits != 4 && w->bits != 8) || w->columns % BLOCK || w->group <= 0)
        return 0;
    return (w->group == 32 || w->group % BLOCK == 0) && w->columns % w->group == 0;
}

/* The same with x and y in bfloat16. */
int linear(bf16 *y, const bf16 *x, const Linear *w, long tokens, int threads)
{
    if (!is_linear(w) || !are_counts(tokens, threads))
        return REFUSED;
    const long in = tokens * w->columns, out = tokens * w->rows;
    float *wide = malloc((in + out) * sizeof(float));
    if (!wide)
        return NO_MEMORY;
    PARALLEL_IF_MANY
    for (long i = 0; i < in; i++)
        wide[i] = one_bf16(x[i]);
    const int result = multiply(wide + in, wide, w, tokens, threads);
    if (result == 0) {
        PARALLEL_IF_MANY
        for (long i = 0; i < out; i++)
            y[i] = to_bf16(wide[in + i]);
    }
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

/* A row of a packed weight in float32 or bfloat16, known when this is compiled */
INLINE void unpack_row(void *row, const Linear *w, long r, const int as_bf16)
{
    const long groups = w->columns / w->group;
    for (long g = 0; g < groups; g++) {
        const __m256 scale = _mm256_set1_ps(_cvtsh_ss(w->scale[r * groups + g]));
        const __m256 zero = _mm256_set1_ps(w->zero ? _cvtsh_ss(w->zero[r * groups + g]) : 0);
        for (long c = g * w->group; c < (g + 1) * w->group; c += 8) {
            const long at = r * w->columns + c;
            const __m256i number = w->bits == 4 ? eight_of4((const uint8_t *)w->q + at / 2)
                                                : eight_of8((const int8_t *)w->q + at);
            const __m256 weight = _mm256_fmadd_ps(_mm256_cvtepi32_ps(number), scale, zero);
            if (as_bf16)
                store_bf16((bf16 *)row + c, weight);
            else
                _mm256_storeu_ps((float *)row + c, weight);
        }
    }
}

/* Rows of a packed weight, from first to before last, in float32 or bfloat16. */
int unpack(void *whole, const Linear *w, long first, long last, int as_bf16, int threads)
{
    if (!is_linear(w) || w->bits == 16 || first < 0 || last > w->rows || !are_counts(1, threads))
        return REFUSED;
    PARALLEL_FOR
    for (long r = first; r < last; r++)
        if (as_bf16)
            unpack_row((bf16 *)whole + (r - first) * w->columns, w, r, 1);
        else
            unpack_row((float *)whole + (r - first) * w->columns, w, r, 0);
    return DONE;
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
