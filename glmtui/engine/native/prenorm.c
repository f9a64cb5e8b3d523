/* A step of the pre-norm decoder (models/prenorm.py) over a few tokens, from embedding to logits.

   Computed in float32 but for keys and values, which are kept in bfloat16. A token's result is the
   same to the last bit, whatever is computed beside it. Sizes are divisible by 32. */

#include <math.h>
#include <stdlib.h>

#include "linear.h"

#define MOST_SIZE 256 /* of a head */

typedef struct {
    const float *attention_norm, *mlp_norm; /* [hidden] */
    Linear qkv, out, gate_up, down;
} Layer;

typedef struct {
    const Layer *layers;
    const float *norm; /* [hidden] */
    Linear head;
    int64_t depth, hidden, inner, heads, kv_heads, size;
    float eps;
    int32_t halves; /* a head turns pairs (i, i + size / 2), else (2i, 2i + 1) */
} Decoder;

/* What a step needs room for, per token. */
typedef struct {
    float *x, *normed, *qkv, *attended, *gate_up, *inner;
    float *scores; /* [heads, context] */
} Buffers;

/* y = x / sqrt(mean(x^2) + eps) * weight */
static void rms_norm(float *y, const float *x, const float *weight, float eps, long tokens,
                     long size)
{
    for (long t = 0; t < tokens; t++, x += size, y += size) {
        __m256 squares = _mm256_setzero_ps();
        for (long c = 0; c < size; c += 8)
            squares = _mm256_fmadd_ps(_mm256_loadu_ps(x + c), _mm256_loadu_ps(x + c), squares);
        const __m256 inverse = _mm256_set1_ps(1 / sqrtf(sum_of(squares) / size + eps));
        for (long c = 0; c < size; c += 8) {
            const __m256 normed = _mm256_mul_ps(_mm256_loadu_ps(x + c), inverse);
            _mm256_storeu_ps(y + c, _mm256_mul_ps(normed, _mm256_loadu_ps(weight + c)));
        }
    }
}

/* y = silu(gate) * up, x holding size gates and then size ups per token */
static void swiglu(float *y, const float *x, long tokens, long size)
{
    const __m256 one = _mm256_set1_ps(1);
    for (long t = 0; t < tokens; t++, x += 2 * size, y += size)
        for (long c = 0; c < size; c += 8) {
            const __m256 gate = _mm256_loadu_ps(x + c);
            const __m256 below = exp_of(_mm256_sub_ps(_mm256_setzero_ps(), gate));
            const __m256 silu = _mm256_div_ps(gate, _mm256_add_ps(one, below));
            _mm256_storeu_ps(y + c, _mm256_mul_ps(silu, _mm256_loadu_ps(x + size + c)));
        }
}

static void add(float *x, const float *y, long count)
{
    for (long c = 0; c < count; c++)
        x[c] += y[c];
}

/* The i-th number of a head, turned; its partner stands half a head away or beside it. */
INLINE float turned(const float *x, const bf16 *cos, const bf16 *sin, long i, long size, int halves)
{
    const long partner = halves ? (i < size / 2 ? i + size / 2 : i - size / 2) : i ^ 1;
    return x[i] * one_bf16(cos[i]) + x[partner] * one_bf16(sin[i]);
}

/* y = softmax(q k^T / sqrt(size)) v for one head; scores: room for length numbers, filled to 8 */
static void attend(float *y, const float *q, const bf16 *keys, const bf16 *values, long length,
                   long size, float *scores)
{
    const float shrink = 1 / sqrtf((float)size);
    float largest = -INFINITY;
    for (long i = 0; i < length; i++) {
        __m256 sum = _mm256_setzero_ps();
        for (long c = 0; c < size; c += 8)
            sum = _mm256_fmadd_ps(_mm256_loadu_ps(q + c), load_bf16(keys + i * size + c), sum);
        scores[i] = sum_of(sum) * shrink;
        largest = scores[i] > largest ? scores[i] : largest;
    }
    for (long i = length; i % 8; i++)
        scores[i] = -INFINITY;
    __m256 total = _mm256_setzero_ps();
    for (long i = 0; i < length; i += 8) {
        const __m256 below = _mm256_sub_ps(_mm256_loadu_ps(scores + i), _mm256_set1_ps(largest));
        /* exp_of hides NaN, which 0 * below does not; what is far below counts for nothing */
        const __m256 seen = _mm256_cmp_ps(below, _mm256_set1_ps(-87), _CMP_NLT_UQ);
        const __m256 weight = _mm256_fmadd_ps(below, _mm256_setzero_ps(), exp_of(below));
        _mm256_storeu_ps(scores + i, _mm256_and_ps(weight, seen));
        total = _mm256_add_ps(total, _mm256_and_ps(weight, seen));
    }
    const __m256 inverse = _mm256_set1_ps(1 / sum_of(total));
    for (long c = 0; c < size; c += 32) { /* as many sums as there are registers for */
        __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                          _mm256_setzero_ps()};
        for (long i = 0; i < length; i++)
            for (int k = 0; k < 4; k++)
                sums[k] = _mm256_fmadd_ps(_mm256_set1_ps(scores[i]),
                                          load_bf16(values + i * size + c + 8 * k), sums[k]);
        for (int k = 0; k < 4; k++)
            _mm256_storeu_ps(y + c + 8 * k, _mm256_mul_ps(sums[k], inverse));
    }
}

/* Turns the heads in place, adds keys and values to the cache, and attends: each token to itself
   and all before it. keys, values: [kv_heads, room, size], written from offset on. */
static void attention(const Decoder *d, const Buffers *b, const bf16 *cos, const bf16 *sin,
                      bf16 *keys, bf16 *values, long tokens, long room, long offset, int threads)
{
    const long size = d->size, heads = d->heads, kv_heads = d->kv_heads;
    const long fused = (heads + 2 * kv_heads) * size, most = (offset + tokens + 7) / 8 * 8;
    for (long t = 0; t < tokens; t++)
        for (long h = 0; h < kv_heads; h++) {
            const float *key = b->qkv + t * fused + (heads + h) * size;
            const long to = (h * room + offset + t) * size;
            for (long i = 0; i < size; i++) {
                keys[to + i] = to_bf16(turned(key, cos + t * size, sin + t * size, i, size,
                                              d->halves));
                values[to + i] = to_bf16(key[kv_heads * size + i]);
            }
        }
    PARALLEL_FOR
    for (long h = 0; h < heads; h++) {
        const long head = h / (heads / kv_heads) * room * size;
        for (long t = 0; t < tokens; t++) {
            float q[MOST_SIZE];
            for (long i = 0; i < size; i++)
                q[i] = turned(b->qkv + t * fused + h * size, cos + t * size, sin + t * size, i,
                              size, d->halves);
            attend(b->attended + (t * heads + h) * size, q, keys + head, values + head,
                   offset + t + 1, size, b->scores + h * most);
        }
    }
}

static int run_layer(const Decoder *d, const Layer *layer, const Buffers *b, const bf16 *cos,
                     const bf16 *sin, bf16 *keys, bf16 *values, long tokens, long room, long offset,
                     int threads)
{
    rms_norm(b->normed, b->x, layer->attention_norm, d->eps, tokens, d->hidden);
    if (multiply(b->qkv, b->normed, &layer->qkv, tokens, threads))
        return -1;
    attention(d, b, cos, sin, keys, values, tokens, room, offset, threads);
    if (multiply(b->normed, b->attended, &layer->out, tokens, threads))
        return -1;
    add(b->x, b->normed, tokens * d->hidden);
    rms_norm(b->normed, b->x, layer->mlp_norm, d->eps, tokens, d->hidden);
    if (multiply(b->gate_up, b->normed, &layer->gate_up, tokens, threads))
        return -1;
    swiglu(b->inner, b->gate_up, tokens, d->inner);
    if (multiply(b->normed, b->inner, &layer->down, tokens, threads))
        return -1;
    add(b->x, b->normed, tokens * d->hidden);
    return 0;
}

/* logits: [tokens, vocab], or [1, vocab] of the last token. x: [tokens, hidden], embedded.
   cos, sin: [tokens, size]. keys, values: one of [kv_heads, room, size] per layer, of which
   `offset` tokens are filled. 0, or -1 where memory is short. */
int prenorm_step(float *logits, const bf16 *x, const Decoder *d, const bf16 *cos, const bf16 *sin,
                 bf16 *const *keys, bf16 *const *values, long tokens, long room, long offset,
                 int last_only, int threads)
{
    const long fused = (d->heads + 2 * d->kv_heads) * d->size, attended = d->heads * d->size;
    const long each = 2 * d->hidden + fused + attended + 3 * d->inner;
    const long most = (offset + tokens + 7) / 8 * 8;
    float *room_for_all = malloc((tokens * each + d->heads * most) * sizeof(float));
    if (!room_for_all)
        return -1;
    Buffers b = {.x = room_for_all};
    b.normed = b.x + tokens * d->hidden;
    b.qkv = b.normed + tokens * d->hidden;
    b.attended = b.qkv + tokens * fused;
    b.gate_up = b.attended + tokens * attended;
    b.inner = b.gate_up + tokens * 2 * d->inner;
    b.scores = b.inner + tokens * d->inner;
    for (long i = 0; i < tokens * d->hidden; i++)
        b.x[i] = one_bf16(x[i]);
    int result = 0;
    for (long l = 0; l < d->depth && result == 0; l++)
        result = run_layer(d, d->layers + l, &b, cos, sin, keys[l], values[l], tokens, room, offset,
                           threads);
    if (result == 0) {
        const long first = last_only ? tokens - 1 : 0;
        rms_norm(b.normed, b.x + first * d->hidden, d->norm, d->eps, tokens - first, d->hidden);
        result = multiply(logits, b.normed, &d->head, tokens - first, threads);
    }
    free(room_for_all);
    return result;
}
