/* 16-bit floats and vector helpers, eight lanes at a time, for AVX2 with FMA and F16C.

   Conversion to bfloat16 rounds to nearest, ties to even. NaN and infinity are preserved. */

#ifndef GLMTUI_SIMD_H
#define GLMTUI_SIMD_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;
typedef uint16_t f16;

#define INLINE static inline __attribute__((always_inline))
/* Before a loop over an array of sums: unrolled, the array stays in registers */
#define UNROLLED _Pragma("GCC unroll 8")
#define PARALLEL_FOR _Pragma("omp parallel for num_threads(threads) schedule(static)")
#define PARALLEL_IF_MANY \
    _Pragma("omp parallel for num_threads(threads) schedule(static) if(tokens > FEW_TOKENS)")

INLINE long min_long(long a, long b)
{
    return a < b ? a : b;
}

INLINE long round_up_8(long count) /* to the next multiple of 8 */
{
    return (count + 7) / 8 * 8;
}

INLINE __m256 load_bf16(const bf16 *from)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(
        _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from)), 16));
}

INLINE __m256 load_f16(const f16 *from)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}

INLINE float bf16_to_float(bf16 number)
{
    const uint32_t bits = (uint32_t)number << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

INLINE bf16 float_to_bf16(float number)
{
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    return (bf16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

INLINE void store_bf16(bf16 *to, __m256 numbers)
{
    const __m256i bits = _mm256_castps_si256(numbers);
    const __m256i last_bit = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), last_bit);
    const __m256i high = _mm256_srli_epi32(sum, 16);
    const __m256i pairs = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0xd8);
    _mm_storeu_si128((__m128i *)to, _mm256_castsi256_si128(pairs));
}

INLINE float horizontal_sum(__m256 numbers)
{
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(numbers), _mm256_extractf128_ps(numbers, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

INLINE float horizontal_max(__m256 numbers)
{
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(numbers), _mm256_extractf128_ps(numbers, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

/* exp with an error of at most 2 units in the last place: 2^n * e^r with |r| <= ln 2 / 2. The
   polynomial is that of expf in the Cephes library. */
INLINE __m256 exp8(__m256 x)
{
    x = _mm256_min_ps(_mm256_set1_ps(88.0f), _mm256_max_ps(_mm256_set1_ps(-87.0f), x));
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)),
                                     _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 y = _mm256_set1_ps(1.9875691500e-4f);
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(1.3981999507e-3f));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(8.3334519073e-3f));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(4.1665795894e-2f));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(1.6666665459e-1f));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(5.0000001201e-1f));
    y = _mm256_fmadd_ps(_mm256_mul_ps(y, r), r, _mm256_add_ps(r, _mm256_set1_ps(1.0f)));
    const __m256i power = _mm256_slli_epi32(
        _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(y, _mm256_castsi256_ps(power));
}

#endif
