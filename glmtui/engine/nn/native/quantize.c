/* Rounding of whole weights to 4 and 8 bits, number for number as engine/quant.py does it. */

#include "linear.h"

typedef enum { FLOAT32, FLOAT16, BFLOAT16 } Kind;

INLINE __m256 load(const void *at, long i, Kind kind)
{
    switch (kind) {
    case FLOAT16: return load_f16((const f16 *)at + i);
    case BFLOAT16: return load_bf16((const bf16 *)at + i);
    default: return _mm256_loadu_ps((const float *)at + i);
    }
}

INLINE f16 to_f16(float number)
{
    return _cvtss_sh(number, _MM_FROUND_TO_NEAREST_INT);
}

/* Eight numbers as integers from least to most, ties to even. */
INLINE __m256i rounded(__m256 numbers, float least, float most)
{
    numbers = _mm256_max_ps(numbers, _mm256_set1_ps(least));
    return _mm256_cvtps_epi32(_mm256_min_ps(numbers, _mm256_set1_ps(most)));
}

/* From the least to the largest of a group. */
INLINE void group4(uint8_t *q, f16 *scale, f16 *zero, const void *w, long first, long group,
                   float least_scale, Kind kind)
{
    __m256 low = load(w, first, kind), high = low, not_finite = _mm256_setzero_ps();
    for (long c = first; c < first + group; c += 8) {
        const __m256 v = load(w, c, kind);
        low = _mm256_min_ps(low, v);
        high = _mm256_max_ps(high, v);
        not_finite = _mm256_fmadd_ps(v, _mm256_setzero_ps(), not_finite);
    }
    const float least = -largest_of(_mm256_sub_ps(_mm256_setzero_ps(), low));
    const float step = (largest_of(high) - least) / 15;
    *scale = to_f16((step > least_scale ? step : least_scale) + sum_of(not_finite));
    *zero = to_f16(least);
    const __m256 unit = _mm256_set1_ps(_cvtsh_ss(*scale)), from = _mm256_set1_ps(_cvtsh_ss(*zero));
    for (long c = first; c < first + group; c += 8) {
        const __m256 steps = _mm256_div_ps(_mm256_sub_ps(load(w, c, kind), from), unit);
        /* neighbours share a byte: bring the odd one beside the even one, then pick the bytes */
        const __m256i numbers = rounded(steps, 0, 15);
        const __m256i pairs = _mm256_or_si256(numbers, _mm256_srli_epi64(numbers, 28));
        const __m256i bytes = _mm256_shuffle_epi8(
            pairs, _mm256_setr_epi8(0, 8, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0,
                                    8, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
        const uint16_t halves[2] = {(uint16_t)_mm256_extract_epi16(bytes, 0),
                                    (uint16_t)_mm256_extract_epi16(bytes, 8)};
        memcpy(q + c / 2, halves, sizeof halves);
    }
}

/* Scaled by the largest magnitude of a group. */
INLINE void group8(int8_t *q, f16 *scale, const void *w, long first, long group, float least_scale,
                   Kind kind)
{
    const __m256 unsign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 high = _mm256_setzero_ps(), not_finite = _mm256_setzero_ps();
    for (long c = first; c < first + group; c += 8) {
        const __m256 v = load(w, c, kind);
        high = _mm256_max_ps(high, _mm256_and_ps(v, unsign));
        not_finite = _mm256_fmadd_ps(v, _mm256_setzero_ps(), not_finite);
    }
    const float step = largest_of(high) / 127;
    *scale = to_f16((step > least_scale ? step : least_scale) + sum_of(not_finite));
    const __m256 unit = _mm256_set1_ps(_cvtsh_ss(*scale));
    for (long c = first; c < first + group; c += 8) {
        const __m256i numbers = rounded(_mm256_div_ps(load(w, c, kind), unit), -127, 127);
        const __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(numbers),
                                               _mm256_extracti128_si256(numbers, 1));
        _mm_storel_epi64((__m128i *)(q + c), _mm_packs_epi16(halves, halves));
    }
}

INLINE void row(const Linear *to, const void *w, long r, float least_scale, Kind kind)
{
    const long groups = to->columns / to->group;
    for (long g = 0; g < groups; g++) {
        const long first = r * to->columns + g * to->group, at = r * groups + g;
        if (to->bits == 4)
            group4((uint8_t *)to->q, (f16 *)to->scale + at, (f16 *)to->zero + at, w, first,
                   to->group, least_scale, kind);
        else
            group8((int8_t *)to->q, (f16 *)to->scale + at, w, first, to->group, least_scale, kind);
    }
}

/* Fills a packed weight, of 4 bits with zeros, from w, [rows, columns]; group divisible by 8.
   least_scale: what no scale goes below. Returns DONE or REFUSED. */
int quantize(const Linear *to, const void *w, float least_scale, Kind kind, int threads)
{
    if (!to->q || !to->scale || !w || !are_counts(1, threads) || to->rows <= 0 || to->group <= 0 ||
        to->group % 8 || to->columns <= 0 || to->columns % to->group ||
        (to->bits == 4) != (to->zero != NULL) || (to->bits != 4 && to->bits != 8))
        return REFUSED;
    PARALLEL_FOR
    for (long r = 0; r < to->rows; r++)
        switch (kind) {
        case FLOAT16: row(to, w, r, least_scale, FLOAT16); break;
        case BFLOAT16: row(to, w, r, least_scale, BFLOAT16); break;
        default: row(to, w, r, least_scale, FLOAT32);
        }
    return DONE;
}
