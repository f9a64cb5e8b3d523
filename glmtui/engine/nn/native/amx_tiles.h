/* AMX: products of bfloat16 tiles with float32 sums.

   A tile has 16 rows of 64 bytes. TILE_DOT adds the product of an A tile and a B tile to a tile of
   sums. sums: float32 [16, 16]. A: bfloat16 [16 rows, 32 deep]. B: bfloat16 [16 pairs, 16 columns,
   2]: two consecutive elements of a column are adjacent (the VNNI layout). Tiles are numbered 0 to
   7, and the numbers must be constants. Each thread calls configure_tiles before it uses a tile. */

#ifndef GLMTUI_AMX_TILES_H
#define GLMTUI_AMX_TILES_H

#include "simd512.h"

#define TILE_SIDE 16      /* rows of a tile, and columns of a tile of sums */
#define TILE_DEPTH 32     /* columns of an A tile: the inner dimension of one TILE_DOT */
#define TILE_ELEMENTS 512 /* bfloat16 elements of a tile */

/* GCC does not know that a tile load reads memory. The barrier completes earlier writes before it.
   */
#define TILE_LOAD(tile, from, stride) \
    do { \
        __asm__ volatile("" ::: "memory"); \
        _tile_loadd(tile, from, stride); \
    } while (0)
#define TILE_STORE(tile, to, stride) _tile_stored(tile, to, stride)
#define TILE_DOT(sums, a, b) _tile_dpbf16ps(sums, a, b)
#define TILE_ZERO(tile) _tile_zero(tile)

INLINE void configure_tiles(void)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } __attribute__((aligned(64))) shape = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shape.bytes[i] = 2 * TILE_DEPTH;
        shape.rows[i] = TILE_SIDE;
    }
    __asm__ volatile("" ::: "memory");
    _tile_loadconfig(&shape);
}

INLINE void release_tiles(void)
{
    _tile_release();
}

/* Rounds two vectors to bfloat16 and interleaves them: one pair in each 32-bit lane */
INLINE __m512i pack_bf16_pairs(__m512 first, __m512 second)
{
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(first));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(second));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

/* Rounds `count` numbers to bfloat16. count: a multiple of 16. */
INLINE void round_to_bf16(bf16 *to, const float *from, long count)
{
    for (long c = 0; c < count; c += 16)
        _mm256_storeu_si256((__m256i *)(to + c),
                            (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from + c)));
}

/* Adds the products of 16 or 32 rows (`rows32`) with 32 columns to the sums in tiles 0 to 3. rows:
   [16 or 32, depth], `stride` elements apart. columns: depth / TILE_DEPTH B tiles for the first 16
   columns, `next` elements apart; those for the other 16 columns start `other` elements later. */
INLINE void dot_tiles(const bf16 *rows, long stride, const bf16 *columns, long next, long other,
                      long depth, const int rows32)
{
    for (long c = 0; c < depth; c += TILE_DEPTH, columns += next) {
        TILE_LOAD(4, rows + c, 2 * stride);
        TILE_LOAD(6, columns, 2 * TILE_DEPTH);
        TILE_LOAD(7, columns + other, 2 * TILE_DEPTH);
        TILE_DOT(0, 4, 6);
        TILE_DOT(1, 4, 7);
        if (rows32) {
            TILE_LOAD(5, rows + TILE_SIDE * stride + c, 2 * stride);
            TILE_DOT(2, 5, 6);
            TILE_DOT(3, 5, 7);
        }
    }
}

INLINE void store_tiles(float *to, long stride, const int rows32)
{
    TILE_STORE(0, to, 4 * stride);
    TILE_STORE(1, to + TILE_SIDE, 4 * stride);
    if (rows32) {
        TILE_STORE(2, to + TILE_SIDE * stride, 4 * stride);
        TILE_STORE(3, to + TILE_SIDE * stride + TILE_SIDE, 4 * stride);
    }
}

INLINE void zero_tiles(void)
{
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
}

INLINE long round_up_to(long unit, long count) /* to the next multiple of unit */
{
    return (count + unit - 1) / unit * unit;
}

#endif
