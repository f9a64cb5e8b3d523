/* AMX: products of tiles of bfloat16, added up in float32.

   A tile has 16 rows of 64 bytes. TILE_DOT adds to a tile of sums, float32 [16 rows, 16 columns], the
   product of a tile of rows, bfloat16 [16 rows, 32 deep], with one of columns, bfloat16
   [16 pairs, 16 columns, 2]: of each column two numbers that follow each other lie together. Tiles are
   numbered 0 to 7, by constants. A thread sets them up before it uses any. */

#ifndef GLMTUI_TILES_H
#define GLMTUI_TILES_H

#include "numbers512.h"

#define SIDE 16  /* rows of a tile, and columns of a tile of sums */
#define DEEP 32  /* columns of a tile of rows */
#define TILE 512 /* numbers of bfloat16 in a tile */

/* GCC does not know that loading a tile reads memory. The barrier makes earlier writes visible to it. */
#define TILE_LOAD(tile, at, stride) \
    do { \
        __asm__ volatile("" ::: "memory"); \
        _tile_loadd(tile, at, stride); \
    } while (0)
#define TILE_STORE(tile, at, stride) _tile_stored(tile, at, stride)
#define TILE_DOT(sums, rows, columns) _tile_dpbf16ps(sums, rows, columns)
#define TILE_ZERO(tile) _tile_zero(tile)

INLINE void set_up_tiles(void)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } __attribute__((aligned(64))) shape = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shape.bytes[i] = 2 * DEEP;
        shape.rows[i] = SIDE;
    }
    __asm__ volatile("" ::: "memory");
    _tile_loadconfig(&shape);
}

INLINE void give_up_tiles(void)
{
    _tile_release();
}

/* Packs two vectors into pairs of bfloat16, one pair in each lane of 32 bits */
INLINE __m512i pairs_of(__m512 first, __m512 second)
{
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(first));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(second));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

/* Rounds to bfloat16. count: divisible by 16. */
INLINE void round_row(bf16 *to, const float *from, long count)
{
    for (long c = 0; c < count; c += 16)
        _mm256_storeu_si256((__m256i *)(to + c),
                            (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from + c)));
}

/* The sums of 16 or 32 rows (`tall`) with 32 columns, in tiles 0 to 3, to which they add.
   rows: [16 or 32, deep], stride numbers apart. columns: [deep / DEEP] tiles, and those of the other
   16 columns `other` numbers further on; `next` numbers from one tile to that below it. */
INLINE void dot_tiles(const bf16 *rows, long stride, const bf16 *columns, long next, long other,
                      long deep, const int tall)
{
    for (long c = 0; c < deep; c += DEEP, columns += next) {
        TILE_LOAD(4, rows + c, 2 * stride);
        TILE_LOAD(6, columns, 2 * DEEP);
        TILE_LOAD(7, columns + other, 2 * DEEP);
        TILE_DOT(0, 4, 6);
        TILE_DOT(1, 4, 7);
        if (tall) {
            TILE_LOAD(5, rows + SIDE * stride + c, 2 * stride);
            TILE_DOT(2, 5, 6);
            TILE_DOT(3, 5, 7);
        }
    }
}

INLINE void store_tiles(float *to, long stride, const int tall)
{
    TILE_STORE(0, to, 4 * stride);
    TILE_STORE(1, to + SIDE, 4 * stride);
    if (tall) {
        TILE_STORE(2, to + SIDE * stride, 4 * stride);
        TILE_STORE(3, to + SIDE * stride + SIDE, 4 * stride);
    }
}

INLINE void zero_tiles(void)
{
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
}

INLINE long multiple_of(long unit, long count) /* count, rounded up to a multiple of unit */
{
    return (count + unit - 1) / unit * unit;
}

#endif
