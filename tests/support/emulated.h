/* The AVX-512 and AMX intrinsics that the kernels use, in plain C, as Intel's manual defines them.
   For machines without these instructions. Included before everything else.

   Stricter than the hardware: aborts if tiles are used without being configured, or are configured
   with another shape than the one that the kernels use. */

#ifndef GLMTUI_EMULATED_H
#define GLMTUI_EMULATED_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef union {
    __m512 ps;
    __m512i si;
    float f[16];
    int32_t i[16];
    uint32_t u[16];
} Lanes;

typedef union {
    __m256i si;
    uint16_t u[16];
} Halves;

#define EMULATE static inline __attribute__((always_inline, unused))
#define EACH for (int lane = 0; lane < 16; lane++)

static inline uint16_t emulated_bf16(float number) /* rounds to nearest even; denormals become 0 */
{
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    if (isnan(number))
        return (uint16_t)(bits >> 16 | 0x40);
    if ((bits & 0x7f800000) == 0)
        return (uint16_t)(bits >> 16 & 0x8000);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float emulated_wide(uint16_t number)
{
    const uint32_t bits = (uint32_t)number << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

/* ---- AVX-512 */

#define UNARY(name, in, out, from, to, expression) \
    EMULATE out emulated_##name(in a_) \
    { \
        Lanes a, y; \
        a.from = a_; \
        EACH { expression; } \
        return y.to; \
    }
#define BINARY(name, type, member, expression) \
    EMULATE type emulated_##name(type a_, type b_) \
    { \
        Lanes a, b, y; \
        a.member = a_; \
        b.member = b_; \
        EACH { expression; } \
        return y.member; \
    }
#define TERNARY(name, expression) \
    EMULATE __m512 emulated_##name(__m512 a_, __m512 b_, __m512 c_) \
    { \
        Lanes a, b, c, y; \
        a.ps = a_; \
        b.ps = b_; \
        c.ps = c_; \
        EACH { expression; } \
        return y.ps; \
    }

BINARY(add, __m512, ps, y.f[lane] = a.f[lane] + b.f[lane])
BINARY(sub, __m512, ps, y.f[lane] = a.f[lane] - b.f[lane])
BINARY(mul, __m512, ps, y.f[lane] = a.f[lane] * b.f[lane])
BINARY(max, __m512, ps, y.f[lane] = a.f[lane] > b.f[lane] ? a.f[lane] : b.f[lane])
BINARY(scalef, __m512, ps, y.f[lane] = ldexpf(a.f[lane], isnan(b.f[lane]) ? 0 : (int)b.f[lane]);
       if (isnan(b.f[lane])) y.f[lane] = NAN)
BINARY(or, __m512i, si, y.u[lane] = a.u[lane] | b.u[lane])
TERNARY(fmadd, y.f[lane] = fmaf(a.f[lane], b.f[lane], c.f[lane]))
TERNARY(fnmadd, y.f[lane] = fmaf(-a.f[lane], b.f[lane], c.f[lane]))
UNARY(roundscale, __m512, __m512, ps, ps, y.f[lane] = rintf(a.f[lane]))
UNARY(cvtepi32, __m512i, __m512, si, ps, y.f[lane] = (float)a.i[lane])

EMULATE __m512 emulated_set1(float number)
{
    Lanes y;
    EACH y.f[lane] = number;
    return y.ps;
}

EMULATE __m512 emulated_load(const void *at)
{
    Lanes y;
    memcpy(&y, at, sizeof y);
    return y.ps;
}

EMULATE __m512i emulated_load_si(const void *at)
{
    Lanes y;
    memcpy(&y, at, sizeof y);
    return y.si;
}

EMULATE void emulated_store(void *at, __m512 a)
{
    memcpy(at, &a, sizeof a);
}

EMULATE void emulated_store_si(void *at, __m512i a)
{
    memcpy(at, &a, sizeof a);
}

EMULATE __m512i emulated_shift(__m512i a_, int count, int kind)
{
    Lanes a, y;
    a.si = a_;
    EACH switch (kind) {
    case 0: y.u[lane] = count > 31 ? 0 : a.u[lane] << count; break;
    case 1: y.u[lane] = count > 31 ? 0 : a.u[lane] >> count; break;
    default: y.i[lane] = a.i[lane] >> (count > 31 ? 31 : count);
    }
    return y.si;
}

EMULATE __m512i emulated_widen(__m256i a_)
{
    Halves a = {a_};
    Lanes y;
    EACH y.u[lane] = a.u[lane];
    return y.si;
}

EMULATE __m256i emulated_narrow(__m512i a_)
{
    Lanes a;
    Halves y;
    a.si = a_;
    EACH y.u[lane] = (uint16_t)a.u[lane];
    return y.si;
}

EMULATE __m512 emulated_from_f16(__m256i a_)
{
    Halves a = {a_};
    Lanes y;
    EACH y.f[lane] = _cvtsh_ss(a.u[lane]);
    return y.ps;
}

EMULATE __m256i emulated_to_bf16(__m512 a_)
{
    Lanes a;
    Halves y;
    a.ps = a_;
    EACH y.u[lane] = emulated_bf16(a.f[lane]);
    return y.si;
}

EMULATE float emulated_reduce(__m512 a_, int largest)
{
    Lanes a;
    a.ps = a_;
    for (int half = 8; half; half /= 2)
        for (int lane = 0; lane < half; lane++) {
            const float b = a.f[lane + half];
            a.f[lane] = !largest ? a.f[lane] + b : a.f[lane] > b ? a.f[lane] : b;
        }
    return a.f[0];
}

EMULATE __m512i emulated_gather(__m512i index_, const void *base, int scale)
{
    Lanes index, y;
    index.si = index_;
    EACH memcpy(y.i + lane, (const char *)base + (int64_t)index.i[lane] * scale, 4);
    return y.si;
}

#define _mm512_add_ps emulated_add
#define _mm512_sub_ps emulated_sub
#define _mm512_mul_ps emulated_mul
#define _mm512_max_ps emulated_max
#define _mm512_scalef_ps emulated_scalef
#define _mm512_or_si512 emulated_or
#define _mm512_fmadd_ps emulated_fmadd
#define _mm512_fnmadd_ps emulated_fnmadd
#undef _mm512_roundscale_ps
#define _mm512_roundscale_ps(a, to_nearest) emulated_roundscale(a)
#define _mm512_cvtepi32_ps emulated_cvtepi32
#define _mm512_set1_ps emulated_set1
#define _mm512_setzero_ps() emulated_set1(0)
#define _mm512_loadu_ps emulated_load
#define _mm512_storeu_ps emulated_store
#define _mm512_loadu_si512 emulated_load_si
#define _mm512_storeu_si512 emulated_store_si
#define _mm512_setzero_si512() ((__m512i)emulated_set1(0))
#define _mm512_castsi512_ps(a) ((__m512)(a))
#undef _mm512_slli_epi32
#define _mm512_slli_epi32(a, count) emulated_shift(a, count, 0)
#undef _mm512_srli_epi32
#define _mm512_srli_epi32(a, count) emulated_shift(a, count, 1)
#undef _mm512_srai_epi32
#define _mm512_srai_epi32(a, count) emulated_shift(a, count, 2)
#define _mm512_cvtepu16_epi32 emulated_widen
#define _mm512_cvtepi32_epi16 emulated_narrow
#define _mm512_cvtph_ps emulated_from_f16
#define _mm512_cvtneps_pbh emulated_to_bf16
#define _mm512_reduce_add_ps(a) emulated_reduce(a, 0)
#define _mm512_reduce_max_ps(a) emulated_reduce(a, 1)
#undef _mm512_i32gather_epi32
#define _mm512_i32gather_epi32 emulated_gather

/* ---- AMX */

static __thread struct {
    int ready;
    uint8_t numbers[8][16][64];
} emulated_tiles;

static inline void emulated_require(int condition, const char *rule)
{
    if (!condition) {
        fprintf(stderr, "AMX: %s\n", rule);
        abort();
    }
}

static inline void emulated_loadconfig(const void *config)
{
    uint8_t bytes[64];
    emulated_require((uintptr_t)config % 64 == 0, "the configuration must be aligned to 64 bytes");
    memcpy(bytes, config, sizeof bytes);
    emulated_require(bytes[0] == 1 && bytes[1] == 0, "palette must be 1, start row 0");
    for (int i = 2; i < 16; i++)
        emulated_require(bytes[i] == 0, "reserved bytes must be 0");
    for (int tile = 0; tile < 8; tile++) {
        emulated_require(bytes[16 + 2 * tile] == 64 && bytes[17 + 2 * tile] == 0,
                         "rows must have 64 bytes");
        emulated_require(bytes[48 + tile] == 16, "tiles must have 16 rows");
    }
    memset(&emulated_tiles, 0, sizeof emulated_tiles);
    emulated_tiles.ready = 1;
}

static inline void emulated_release(void)
{
    emulated_require(emulated_tiles.ready, "tiles released, but not configured");
    emulated_tiles.ready = 0;
}

static inline void emulated_tile_zero(int tile)
{
    emulated_require(emulated_tiles.ready, "tile used, but not configured");
    memset(emulated_tiles.numbers[tile], 0, sizeof emulated_tiles.numbers[tile]);
}

static inline void emulated_tile_load(int tile, const void *at, long stride)
{
    emulated_require(emulated_tiles.ready, "tile used, but not configured");
    for (int row = 0; row < 16; row++)
        memcpy(emulated_tiles.numbers[tile][row], (const char *)at + row * stride, 64);
}

static inline void emulated_tile_store(int tile, void *at, long stride)
{
    emulated_require(emulated_tiles.ready, "tile used, but not configured");
    for (int row = 0; row < 16; row++)
        memcpy((char *)at + row * stride, emulated_tiles.numbers[tile][row], 64);
}

static inline void emulated_tile_dot(int sums, int a, int b)
{
    float y[16][16];
    uint16_t rows[16][32], columns[16][32];
    emulated_require(emulated_tiles.ready, "tile used, but not configured");
    emulated_require(sums != a && a != b && sums != b, "the three tiles must be different");
    memcpy(y, emulated_tiles.numbers[sums], sizeof y);
    memcpy(rows, emulated_tiles.numbers[a], sizeof rows);
    memcpy(columns, emulated_tiles.numbers[b], sizeof columns);
    for (int row = 0; row < 16; row++)
        for (int pair = 0; pair < 16; pair++)
            for (int column = 0; column < 16; column++)
                for (int i = 0; i < 2; i++)
                    y[row][column] += emulated_wide(rows[row][2 * pair + i]) *
                                      emulated_wide(columns[pair][2 * column + i]);
    memcpy(emulated_tiles.numbers[sums], y, sizeof y);
}

#undef _tile_loadconfig
#define _tile_loadconfig emulated_loadconfig
#undef _tile_release
#define _tile_release emulated_release
#undef _tile_zero
#define _tile_zero emulated_tile_zero
#undef _tile_loadd
#define _tile_loadd emulated_tile_load
#undef _tile_stored
#define _tile_stored emulated_tile_store
#undef _tile_dpbf16ps
#define _tile_dpbf16ps emulated_tile_dot

#endif
