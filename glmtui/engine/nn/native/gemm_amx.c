/* Products of many tokens with a weight, which is unpacked to bfloat16, with AMX tiles. */

#include <omp.h>
#include <stdlib.h>

#include "linear.h"
#include "amx_tiles.h"

#define BAND_ROWS 32      /* rows of the weight that are unpacked at a time */
#define BAND_COLUMNS 4096 /* columns of a band that are unpacked at a time: 256 KB, less than L2 */

/* ---- unpacking: 16 rows become B tiles (see amx_tiles.h), one for every 32 columns */

typedef struct {
    const char *q;   /* address of the first weight of the first row */
    __m512i offsets; /* from there to each of the 16 rows, in bytes */
} TileRows;

/* Loads the 32 bits at byte offset `bytes` of each row. */
INLINE __m512i gather_words(TileRows rows, long bytes)
{
    return _mm512_i32gather_epi32(rows.offsets, (const int *)(rows.q + bytes), 1);
}

INLINE __m512 gather16_f16(const f16 *from, long stride, long last)
{
    f16 gathered[TILE_SIDE];
    for (long i = 0; i < TILE_SIDE; i++)
        gathered[i] = from[min_long(i, last) * stride];
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)gathered));
}

/* The number at index `place` of each row's 32-bit word. bits: 4 or 8, a compile-time constant. */
INLINE __m512 extract_number(__m512i words, const int place, const int bits)
{
    const __m512i high = _mm512_slli_epi32(words, 32 - bits * (place + 1));
    return _mm512_cvtepi32_ps(bits == 4 ? _mm512_srli_epi32(high, 28)
                                        : _mm512_srai_epi32(high, 24));
}

/* Unpacks one tile of weights of 4 or 8 bits. */
INLINE void unpack_tile(bf16 *tile, TileRows rows, __m512 scale, __m512 zero, const int bits)
{
    for (int word = 0; word < bits; word++) { /* TILE_DEPTH numbers fill `bits` words */
        const __m512i packed = gather_words(rows, 4 * word);
        UNROLLED
        for (int i = 0; i < 32 / bits; i += 2, tile += 2 * TILE_SIDE) {
            const __m512 first = _mm512_fmadd_ps(extract_number(packed, i, bits), scale, zero);
            const __m512 second = _mm512_fmadd_ps(extract_number(packed, i + 1, bits), scale, zero);
            _mm512_storeu_si512((void *)tile, pack_bf16_pairs(first, second));
        }
    }
}

/* Rearranges one tile of 16-bit weights. */
INLINE void unpack_tile_16bit(bf16 *tile, TileRows rows, const int is_bf16)
{
    for (int word = 0; word < TILE_SIDE; word++, tile += 2 * TILE_SIDE) {
        __m512i two = gather_words(rows, 4 * word);
        if (!is_bf16)
            two = pack_bf16_pairs(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(two)),
                                  _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(two, 16))));
        _mm512_storeu_si512((void *)tile, two);
    }
}

/* Unpacks `depth` columns of 16 rows, starting at `row`. Rows beyond the last one repeat it. Writes
   every second tile, because the tiles of the two halves of a band alternate. */
static void unpack_tiles(bf16 *tiles, const Linear *w, long row, long first, long depth)
{
    const long last = w->rows - 1 - row, stride = w->columns * w->bits / 8;
    const long groups = w->bits == 16 ? 0 : w->columns / w->group;
    int32_t offsets[TILE_SIDE];
    for (long i = 0; i < TILE_SIDE; i++)
        offsets[i] = (int32_t)(min_long(i, last) * stride);
    TileRows rows = {(const char *)w->q + row * stride, _mm512_loadu_si512((const void *)offsets)};
    __m512 scale = _mm512_setzero_ps(), zero = scale;
    for (long c = first; c < first + depth; c += TILE_DEPTH, tiles += 2 * TILE_ELEMENTS) {
        const TileRows here = {rows.q + c * w->bits / 8, rows.offsets};
        if (w->bits == 16) {
            unpack_tile_16bit(tiles, here, w->is_bf16);
            continue;
        }
        if (c == first || c % w->group == 0) {
            const long g = row * groups + c / w->group;
            scale = gather16_f16(w->scale + g, groups, last);
            zero = w->zero ? gather16_f16(w->zero + g, groups, last) : zero;
        }
        if (w->bits == 4)
            unpack_tile(tiles, here, scale, zero, 4);
        else
            unpack_tile(tiles, here, scale, zero, 8);
    }
}

/* ---- products */

/* y[t] = start + x[t] tiles^T, or y[t] += x[t] tiles^T if start is NULL. y: [16 or 32, BAND_ROWS].
   x: [16 or 32, columns]. tiles: two for every TILE_DEPTH columns. start: [BAND_ROWS]. */
INLINE void multiply_tiles(float *y, long y_stride, const bf16 *x, long x_stride, const bf16 *tiles,
                           long depth, const float *start, const int rows32)
{
    const float *from = start ? start : y;
    const long stride = start ? 0 : y_stride;
    TILE_LOAD(0, from, 4 * stride);
    TILE_LOAD(1, from + TILE_SIDE, 4 * stride);
    if (rows32) {
        TILE_LOAD(2, from + TILE_SIDE * stride, 4 * stride);
        TILE_LOAD(3, from + TILE_SIDE * stride + TILE_SIDE, 4 * stride);
    }
    dot_tiles(x, x_stride, tiles, 2 * TILE_ELEMENTS, TILE_ELEMENTS, depth, rows32);
    store_tiles(y, y_stride, rows32);
}

/* multiply_tiles for fewer than 32 tokens or fewer than BAND_ROWS rows (`width`) */
static void multiply_edge(float *y, long y_stride, const bf16 *x, long x_stride, const bf16 *tiles,
                          long depth, const float *start, long tokens, long width)
{
    float padded_y[2 * TILE_SIDE * BAND_ROWS] = {0};
    for (long t = 0; !start && t < tokens; t++)
        memcpy(padded_y + t * BAND_ROWS, y + t * y_stride, width * sizeof *y);
    if (tokens > TILE_SIDE)
        multiply_tiles(padded_y, BAND_ROWS, x, x_stride, tiles, depth, start, 1);
    else
        multiply_tiles(padded_y, BAND_ROWS, x, x_stride, tiles, depth, start, 0);
    for (long t = 0; t < tokens; t++)
        memcpy(y + t * y_stride, padded_y + t * BAND_ROWS, width * sizeof *y);
}

/* The products with one band of rows. x: [tokens rounded up to a multiple of TILE_SIDE, columns],
   zeros at the end. tiles: scratch memory for one band. */
static void multiply_band(float *y, const bf16 *x, const Linear *w, long tokens, long row,
                          bf16 *tiles)
{
    const long width = min_long(w->rows - row, BAND_ROWS);
    float bias[BAND_ROWS] = {0};
    for (long r = 0; w->bias && r < width; r++)
        bias[r] = bf16_to_float(w->bias[row + r]);
    for (long first = 0; first < w->columns; first += BAND_COLUMNS) {
        const long depth = min_long(w->columns - first, BAND_COLUMNS);
        unpack_tiles(tiles, w, row, first, depth);
        unpack_tiles(tiles + TILE_ELEMENTS, w, min_long(row + TILE_SIDE, w->rows - 1), first, depth);
        for (long t = 0; t < tokens; t += 2 * TILE_SIDE) {
            float *to = y + t * w->rows + row;
            const bf16 *from = x + t * w->columns + first;
            const float *start = first ? NULL : bias;
            const long n = min_long(tokens - t, 2 * TILE_SIDE);
            if (width == BAND_ROWS && n == 2 * TILE_SIDE)
                multiply_tiles(to, w->rows, from, w->columns, tiles, depth, start, 1);
            else
                multiply_edge(to, w->rows, from, w->columns, tiles, depth, start, n, width);
        }
    }
}

int gemm_amx(float *y, const float *x, const Linear *w, long tokens, int threads)
{
    const long columns = w->columns, rows = round_up_to(TILE_SIDE, tokens);
    const long band_size = BAND_ROWS * min_long(columns, BAND_COLUMNS);
    const long bands = (w->rows + BAND_ROWS - 1) / BAND_ROWS;
    bf16 *rounded = aligned_alloc(64, (rows * columns + threads * band_size) * sizeof *rounded);
    if (!rounded)
        return NO_MEMORY;
    bf16 *tiles = rounded + rows * columns;
    memset(rounded + tokens * columns, 0, (rows - tokens) * columns * sizeof *rounded);
#pragma omp parallel num_threads(threads)
    {
        configure_tiles();
#pragma omp for schedule(static)
        for (long t = 0; t < tokens; t++)
            round_to_bf16(rounded + t * columns, x + t * columns, columns);
#pragma omp for schedule(static)
        for (long band = 0; band < bands; band++)
            multiply_band(y, rounded, w, tokens, band * BAND_ROWS,
                          tiles + omp_get_thread_num() * band_size);
        release_tiles();
    }
    free(rounded);
    return SUCCESS;
}
