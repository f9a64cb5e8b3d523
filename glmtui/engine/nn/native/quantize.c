/* Quantization of weights to 4 and 8 bits, bit-identical to packed_weight.py. */

#include "linear.h"

typedef enum { FLOAT32, FLOAT16, BFLOAT16 } Dtype;

/* Loads eight numbers, starting at index i, as float32. */
INLINE __m256 load8(const void *w, long i, Dtype dtype)
{
    switch (dtype) {
    case FLOAT16: return load_f16((const f16 *)w + i);
    case BFLOAT16: return load_bf16((const bf16 *)w + i);
    default: return _mm256_loadu_ps((const float *)w + i);
    }
}

INLINE f16 float_to_f16(float number)
{
    return _cvtss_sh(number, _MM_FROUND_TO_NEAREST_INT);
}

/* Rounds to integers, ties to even, and clamps them to [least, most]. */
INLINE __m256i round_and_clamp(__m256 numbers, float least, float most)
{
    numbers = _mm256_max_ps(numbers, _mm256_set1_ps(least));
    return _mm256_cvtps_epi32(_mm256_min_ps(numbers, _mm256_set1_ps(most)));
}

/* Asymmetric, from the smallest to the largest value of the group */
INLINE void quantize_group4(uint8_t *q, f16 *scale, f16 *zero, const void *w, long first,
                            long group, float least_scale, Dtype dtype)
{
    __m256 low = load8(w, first, dtype), high = low, nan_if_not_finite = _mm256_setzero_ps();
    for (long c = first; c < first + group; c += 8) {
        const __m256 v = load8(w, c, dtype);
        low = _mm256_min_ps(low, v);
        high = _mm256_max_ps(high, v);
        nan_if_not_finite = _mm256_fmadd_ps(v, _mm256_setzero_ps(), nan_if_not_finite);
    }
    const float least = -horizontal_max(_mm256_sub_ps(_mm256_setzero_ps(), low));
    const float step = (horizontal_max(high) - least) / 15;
    *scale = float_to_f16((step > least_scale ? step : least_scale) +
                          horizontal_sum(nan_if_not_finite));
    *zero = float_to_f16(least);
    const __m256 scales = _mm256_set1_ps(_cvtsh_ss(*scale));
    const __m256 zeros = _mm256_set1_ps(_cvtsh_ss(*zero));
    for (long c = first; c < first + group; c += 8) {
        const __m256 steps = _mm256_div_ps(_mm256_sub_ps(load8(w, c, dtype), zeros), scales);
        /* two columns share a byte: move the odd one next to the even one, then collect the bytes */
        const __m256i numbers = round_and_clamp(steps, 0, 15);
        const __m256i pairs = _mm256_or_si256(numbers, _mm256_srli_epi64(numbers, 28));
        const __m256i bytes = _mm256_shuffle_epi8(
            pairs, _mm256_setr_epi8(0, 8, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0,
                                    8, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
        const uint16_t halves[2] = {(uint16_t)_mm256_extract_epi16(bytes, 0),
                                    (uint16_t)_mm256_extract_epi16(bytes, 8)};
        memcpy(q + c / 2, halves, sizeof halves);
    }
}

/* Symmetric, scaled by the largest magnitude of the group */
INLINE void quantize_group8(int8_t *q, f16 *scale, const void *w, long first, long group,
                            float least_scale, Dtype dtype)
{
    const __m256 abs_mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 high = _mm256_setzero_ps(), nan_if_not_finite = _mm256_setzero_ps();
    for (long c = first; c < first + group; c += 8) {
        const __m256 v = load8(w, c, dtype);
        high = _mm256_max_ps(high, _mm256_and_ps(v, abs_mask));
        nan_if_not_finite = _mm256_fmadd_ps(v, _mm256_setzero_ps(), nan_if_not_finite);
    }
    const float step = horizontal_max(high) / 127;
    *scale = float_to_f16((step > least_scale ? step : least_scale) +
                          horizontal_sum(nan_if_not_finite));
    const __m256 scales = _mm256_set1_ps(_cvtsh_ss(*scale));
    for (long c = first; c < first + group; c += 8) {
        const __m256 steps = _mm256_div_ps(load8(w, c, dtype), scales);
        const __m256i numbers = round_and_clamp(steps, -127, 127);
        const __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(numbers),
                                               _mm256_extracti128_si256(numbers, 1));
        _mm_storel_epi64((__m128i *)(q + c), _mm_packs_epi16(halves, halves));
    }
}

INLINE void quantize_row(const Linear *to, const void *w, long r, float least_scale, Dtype dtype)
{
    const long groups = to->columns / to->group;
    for (long g = 0; g < groups; g++) {
        const long first = r * to->columns + g * to->group, index = r * groups + g;
        if (to->bits == 4)
            quantize_group4((uint8_t *)to->q, (f16 *)to->scale + index, (f16 *)to->zero + index, w,
                            first, to->group, least_scale, dtype);
        else
            quantize_group8((int8_t *)to->q, (f16 *)to->scale + index, w, first, to->group,
                            least_scale, dtype);
    }
}

/* Quantizes w, [rows, columns], into the packed weight `to`, which has zeros if and only if it has
   4 bits. group: a multiple of 8. least_scale: lower limit of the scales. Returns SUCCESS or
   INVALID_SIZES. */
int quantize(const Linear *to, const void *w, float least_scale, Dtype dtype, int threads)
{
    if (!to->q || !to->scale || !w || !valid_counts(1, threads) || to->rows <= 0 || to->group <= 0 ||
        to->group % 8 || to->columns <= 0 || to->columns % to->group ||
        (to->bits == 4) != (to->zero != NULL) || (to->bits != 4 && to->bits != 8))
        return INVALID_SIZES;
    PARALLEL_FOR
    for (long r = 0; r < to->rows; r++)
        switch (dtype) {
        case FLOAT16: quantize_row(to, w, r, least_scale, FLOAT16); break;
        case BFLOAT16: quantize_row(to, w, r, least_scale, BFLOAT16); break;
        default: quantize_row(to, w, r, least_scale, FLOAT32);
        }
    return SUCCESS;
}
