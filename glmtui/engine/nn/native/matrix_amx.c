/* Products of many tokens with a weight, which is unpacked to bfloat16, by tiles of AMX. */

#include <omp.h>
#include <stdlib.h>

#include "linear.h"
#include "tiles.h"

#define BAND 32    /* rows of the weight that are unpacked at a time */
#define DEPTH 4096 /* columns of a band that are unpacked at a time: 256 KB fit into the L2 cache */

/* ---- unpacking: 16 rows become tiles of columns, a tile for 32 numbers of each row */

typedef struct {
    const char *q;    /* of the first row, where its first number is */
    __m512i distance; /* from there to each row, in bytes */
} Rows;

/* The 32 bits of each row that lie `bytes` on */
INLINE __m512i words(Rows rows, long bytes)
{
    return _mm512_i32gather_epi32(rows.distance, (const int *)(rows.q + bytes), 1);
}

INLINE __m512 sixteen_halves(const f16 *at, long stride, long last)
{
    f16 some[SIDE];
    for (long i = 0; i < SIDE; i++)
        some[i] = at[lesser(i, last) * stride];
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)some));
}

/* A number of 4 or 8 bits, known when this is compiled, of each row */
INLINE __m512 number_at(__m512i words, const int place, const int bits)
{
    const __m512i high = _mm512_slli_epi32(words, 32 - bits * (place + 1));
    return _mm512_cvtepi32_ps(bits == 4 ? _mm512_srli_epi32(high, 28)
                                        : _mm512_srai_epi32(high, 24));
}

/* A tile of packed weights */
INLINE void unpack_tile(bf16 *tile, Rows rows, __m512 scale, __m512 zero, const int bits)
{
    for (int word = 0; word < bits; word++) { /* DEEP numbers of a row are `bits` words */
        const __m512i packed = words(rows, 4 * word);
        UNROLLED
        for (int i = 0; i < 32 / bits; i += 2, tile += 2 * SIDE) {
            const __m512 first = _mm512_fmadd_ps(number_at(packed, i, bits), scale, zero);
            const __m512 second = _mm512_fmadd_ps(number_at(packed, i + 1, bits), scale, zero);
            _mm512_storeu_si512((void *)tile, pairs_of(first, second));
        }
    }
}

/* A tile of weights of 16 bits */
INLINE void copy_tile(bf16 *tile, Rows rows, const int is_bf16)
{
    for (int word = 0; word < SIDE; word++, tile += 2 * SIDE) {
        __m512i two = words(rows, 4 * word);
        if (!is_bf16)
            two = pairs_of(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(two)),
                           _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(two, 16))));
        _mm512_storeu_si512((void *)tile, two);
    }
}

/* Unpacks `depth` columns of 16 rows from `row` on. Beyond the last row, the last one is repeated.
   Every other tile is written: those in between belong to the other 16 rows of a band. */
static void unpack_tiles(bf16 *tiles, const Linear *w, long row, long first, long depth)
{
    const long last = w->rows - 1 - row, stride = w->columns * w->bits / 8;
    const long groups = w->bits == 16 ? 0 : w->columns / w->group;
    int32_t distance[SIDE];
    for (long i = 0; i < SIDE; i++)
        distance[i] = (int32_t)(lesser(i, last) * stride);
    Rows rows = {(const char *)w->q + row * stride, _mm512_loadu_si512((const void *)distance)};
    __m512 scale = _mm512_setzero_ps(), zero = scale;
    for (long c = first; c < first + depth; c += DEEP, tiles += 2 * TILE) {
        const Rows here = {rows.q + c * w->bits / 8, rows.distance};
        if (w->bits == 16) {
            copy_tile(tiles, here, w->is_bf16);
            continue;
        }
        if (c == first || c % w->group == 0) {
            const long g = row * groups + c / w->group;
            scale = sixteen_halves(w->scale + g, groups, last);
            zero = w->zero ? sixteen_halves(w->zero + g, groups, last) : zero;
        }
        if (w->bits == 4)
            unpack_tile(tiles, here, scale, zero, 4);
        else
            unpack_tile(tiles, here, scale, zero, 8);
    }
}

/* ---- products */

/* y[t] = start + x[t] tiles^T, or y[t] + x[t] tiles^T where start is NULL. y: [16 or 32, BAND].
   x: [16 or 32, columns]. tiles: two for each DEEP columns. start: [BAND]. */
INLINE void multiply_tiles(float *y, long y_stride, const bf16 *x, long x_stride, const bf16 *tiles,
                           long depth, const float *start, const int tall)
{
    const float *from = start ? start : y;
    const long stride = start ? 0 : y_stride;
    TILE_LOAD(0, from, 4 * stride);
    TILE_LOAD(1, from + SIDE, 4 * stride);
    if (tall) {
        TILE_LOAD(2, from + SIDE * stride, 4 * stride);
        TILE_LOAD(3, from + SIDE * stride + SIDE, 4 * stride);
    }
    dot_tiles(x, x_stride, tiles, 2 * TILE, TILE, depth, tall);
    store_tiles(y, y_stride, tall);
}

/* The same where there are fewer tokens or rows than the tiles have room for */
static void multiply_edge(float *y, long y_stride, const bf16 *x, long x_stride, const bf16 *tiles,
                          long depth, const float *start, long tokens, long width)
{
    float whole[2 * SIDE * BAND] = {0};
    for (long t = 0; !start && t < tokens; t++)
        memcpy(whole + t * BAND, y + t * y_stride, width * sizeof *y);
    if (tokens > SIDE)
        multiply_tiles(whole, BAND, x, x_stride, tiles, depth, start, 1);
    else
        multiply_tiles(whole, BAND, x, x_stride, tiles, depth, start, 0);
    for (long t = 0; t < tokens; t++)
        memcpy(y + t * y_stride, whole + t * BAND, width * sizeof *y);
}

/* The products with a band of rows. x: [tokens, and zeros up to a multiple of SIDE, columns].
   tiles: room for a band. */
static void multiply_band(float *y, const bf16 *x, const Linear *w, long tokens, long row,
                          bf16 *tiles)
{
    const long width = lesser(w->rows - row, BAND);
    float bias[BAND] = {0};
    for (long r = 0; w->bias && r < width; r++)
        bias[r] = one_bf16(w->bias[row + r]);
    for (long first = 0; first < w->columns; first += DEPTH) {
        const long depth = lesser(w->columns - first, DEPTH);
        unpack_tiles(tiles, w, row, first, depth);
        unpack_tiles(tiles + TILE, w, lesser(row + SIDE, w->rows - 1), first, depth);
        for (long t = 0; t < tokens; t += 2 * SIDE) {
            float *to = y + t * w->rows + row;
            const bf16 *from = x + t * w->columns + first;
            const float *start = first ? NULL : bias;
            const long n = lesser(tokens - t, 2 * SIDE);
            if (width == BAND && n == 2 * SIDE)
                multiply_tiles(to, w->rows, from, w->columns, tiles, depth, start, 1);
            else
                multiply_edge(to, w->rows, from, w->columns, tiles, depth, start, n, width);
        }
    }
}

int multiply_amx(float *y, const float *x, const Linear *w, long tokens, int threads)
{
    const long columns = w->columns, rows = multiple_of(SIDE, tokens);
    const long each = BAND * lesser(columns, DEPTH), bands = (w->rows + BAND - 1) / BAND;
    bf16 *rounded = aligned_alloc(64, (rows * columns + threads * each) * sizeof *rounded);
    if (!rounded)
        return NO_MEMORY;
    bf16 *tiles = rounded + rows * columns;
    memset(rounded + tokens * columns, 0, (rows - tokens) * columns * sizeof *rounded);
#pragma omp parallel num_threads(threads)
    {
        set_up_tiles();
#pragma omp for schedule(static)
        for (long t = 0; t < tokens; t++)
            round_row(rounded + t * columns, x + t * columns, columns);
#pragma omp for schedule(static)
        for (long band = 0; band < bands; band++)
            multiply_band(y, rounded, w, tokens, band * BAND, tiles + omp_get_thread_num() * each);
        give_up_tiles();
    }
    free(rounded);
    return DONE;
}
