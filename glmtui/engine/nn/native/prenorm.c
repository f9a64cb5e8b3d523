/* A step of the pre-norm decoder (models/prenorm.py), from embedding to logits.

   Computed in float32 but for keys and values, which are kept in bfloat16. Where tokens are few, a
   token's result is the same to the last bit, whatever is computed beside it. Sizes are divisible
   by 32. */

#include <math.h>
#include <stdlib.h>

#include "attention.h"
#include "linear.h"

typedef struct {
    const float *attention_norm, *mlp_norm; /* [hidden] */
    Linear qkv, out, gate_up, down;
} Layer;

typedef struct {
    const Layer *layers;
    const float *norm; /* [hidden] */
    Linear embedding, head;
    int64_t depth, hidden, inner, heads, kv_heads, size;
    float eps;
    int32_t halves; /* a head turns pairs (i, i + size / 2), else (2i, 2i + 1) */
} Decoder;

typedef struct {
    const bf16 *cos, *sin;        /* [tokens, size] */
    int64_t tokens, room, offset; /* of a cache with `room` tokens `offset` are filled */
    int32_t threads;
} Step;

/* What a step needs room for, per token. */
typedef struct {
    float *x, *normed, *qkv, *attended, *gate_up, *inner;
    float *scores; /* [attention_room] */
} Buffers;

/* y = x / sqrt(mean(x^2) + eps) * weight */
static void rms_norm(float *y, const float *x, const float *weight, float eps, long tokens,
                     long size, int threads)
{
    PARALLEL_IF_MANY
    for (long t = 0; t < tokens; t++) {
        const float *from = x + t * size;
        __m256 squares = _mm256_setzero_ps();
        for (long c = 0; c < size; c += 8)
            squares = _mm256_fmadd_ps(_mm256_loadu_ps(from + c), _mm256_loadu_ps(from + c), squares);
        const __m256 inverse = _mm256_set1_ps(1 / sqrtf(sum_of(squares) / size + eps));
        for (long c = 0; c < size; c += 8) {
            const __m256 normed = _mm256_mul_ps(_mm256_loadu_ps(from + c), inverse);
            _mm256_storeu_ps(y + t * size + c, _mm256_mul_ps(normed, _mm256_loadu_ps(weight + c)));
        }
    }
}

/* y = silu(gate) * up, x holding size gates and then size ups per token */
static void swiglu(float *y, const float *x, long tokens, long size, int threads)
{
    const __m256 one = _mm256_set1_ps(1);
    PARALLEL_IF_MANY
    for (long t = 0; t < tokens; t++)
        for (long c = 0; c < size; c += 8) {
            const __m256 gate = _mm256_loadu_ps(x + 2 * t * size + c);
            const __m256 up = _mm256_loadu_ps(x + (2 * t + 1) * size + c);
            const __m256 below = exp_of(_mm256_sub_ps(_mm256_setzero_ps(), gate));
            const __m256 silu = _mm256_div_ps(gate, _mm256_add_ps(one, below));
            _mm256_storeu_ps(y + t * size + c, _mm256_mul_ps(silu, up));
        }
}

static void add(float *x, const float *y, long tokens, long size, int threads)
{
    PARALLEL_IF_MANY
    for (long t = 0; t < tokens; t++)
        for (long c = t * size; c < (t + 1) * size; c++)
            x[c] += y[c];
}

/* Turns a head: x = x * cos + partner * sin; the partner of a number stands half a head away or
   beside it. */
static void turn(float *x, const bf16 *cos, const bf16 *sin, long size, int halves)
{
    for (long i = 0; i < size / 2; i++) {
        const long first = halves ? i : 2 * i, second = halves ? i + size / 2 : 2 * i + 1;
        const float a = x[first], b = x[second];
        x[first] = a * one_bf16(cos[first]) + b * one_bf16(sin[first]);
        x[second] = b * one_bf16(cos[second]) + a * one_bf16(sin[second]);
    }
}

/* Turns the heads in place and adds keys and values to the cache. keys, values:
   [kv_heads, room, size], written from offset on. */
static void turn_and_keep(const Decoder *d, const Step *s, float *qkv, bf16 *keys, bf16 *values)
{
    const long size = d->size, heads = d->heads, kv_heads = d->kv_heads, tokens = s->tokens;
    const int threads = s->threads;
    PARALLEL_IF_MANY
    for (long t = 0; t < tokens; t++) {
        float *head = qkv + t * (heads + 2 * kv_heads) * size;
        for (long h = 0; h < heads + kv_heads; h++)
            turn(head + h * size, s->cos + t * size, s->sin + t * size, size, d->halves);
        for (long h = 0; h < kv_heads; h++) {
            const float *key = head + (heads + h) * size, *value = key + kv_heads * size;
            const long to = (h * s->room + s->offset + t) * size;
            for (long i = 0; i < size; i += 8) {
                store_bf16(keys + to + i, _mm256_loadu_ps(key + i));
                store_bf16(values + to + i, _mm256_loadu_ps(value + i));
            }
        }
    }
}

/* A layer; what comes out is of the tokens from `first` on. */
static int run_layer(const Decoder *d, const Layer *layer, const Step *s, const Buffers *b,
                     bf16 *keys, bf16 *values, long first)
{
    const long fused = (d->heads + 2 * d->kv_heads) * d->size, tokens = s->tokens - first;
    float *x = b->x + first * d->hidden;
    rms_norm(b->normed, b->x, layer->attention_norm, d->eps, s->tokens, d->hidden, s->threads);
    if (multiply(b->qkv, b->normed, &layer->qkv, s->tokens, s->threads))
        return NO_MEMORY;
    turn_and_keep(d, s, b->qkv, keys, values);
    const Attention a = {.y = b->attended, .q = b->qkv + first * fused, .keys = keys,
                         .values = values, .tokens = tokens, .q_stride = fused, .room = s->room,
                         .offset = s->offset + first, .heads = d->heads, .kv_heads = d->kv_heads,
                         .size = d->size};
    attend(&a, b->scores, s->threads);
    if (multiply(b->normed, b->attended, &layer->out, tokens, s->threads))
        return NO_MEMORY;
    add(x, b->normed, tokens, d->hidden, s->threads);
    rms_norm(b->normed, x, layer->mlp_norm, d->eps, tokens, d->hidden, s->threads);
    if (multiply(b->gate_up, b->normed, &layer->gate_up, tokens, s->threads))
        return NO_MEMORY;
    swiglu(b->inner, b->gate_up, tokens, d->inner, s->threads);
    if (multiply(b->normed, b->inner, &layer->down, tokens, s->threads))
        return NO_MEMORY;
    add(x, b->normed, tokens, d->hidden, s->threads);
    return DONE;
}

static int is_layer(const Decoder *d, const Layer *l)
{
    const long fused = (d->heads + 2 * d->kv_heads) * d->size;
    return l->attention_norm && l->mlp_norm && is_linear(&l->qkv) && l->qkv.rows == fused &&
           l->qkv.columns == d->hidden && is_linear(&l->out) && l->out.rows == d->hidden &&
           l->out.columns == d->heads * d->size && is_linear(&l->gate_up) &&
           l->gate_up.rows == 2 * d->inner && l->gate_up.columns == d->hidden &&
           is_linear(&l->down) && l->down.rows == d->hidden && l->down.columns == d->inner;
}

/* Whether all fits together */
static int is_decoder(const Decoder *d)
{
    const long most = 1L << 20; /* heads, and numbers of each */
    int fits = d->heads > 0 && d->heads <= most && d->kv_heads > 0 && d->size > 0 &&
               d->size <= LARGEST_HEAD && d->size % 32 == 0 && d->heads % d->kv_heads == 0 && d->norm &&
               is_linear(&d->embedding) && d->embedding.columns == d->hidden &&
               is_linear(&d->head) && d->head.columns == d->hidden;
    for (long l = 0; fits && l < d->depth; l++)
        fits = is_layer(d, d->layers + l);
    return fits;
}

static int is_step(const Decoder *d, const Step *s, const int64_t *ids)
{
    int fits = are_counts(s->tokens, s->threads) && s->offset >= 0 && s->offset <= s->room &&
               s->tokens <= s->room - s->offset;
    for (long t = 0; fits && t < s->tokens; t++)
        fits = ids[t] >= 0 && ids[t] < d->embedding.rows;
    return fits;
}

/* logits: [tokens, vocab], or [1, vocab] of the last token. ids: [tokens], of the vocabulary.
   keys, values: one of [kv_heads, room, size] per layer. Returns DONE, NO_MEMORY or REFUSED. */
int prenorm_step(float *logits, const int64_t *ids, const Decoder *d, const Step *s,
                 bf16 *const *keys, bf16 *const *values, int last_only)
{
    if (!is_decoder(d) || !is_step(d, s, ids))
        return REFUSED;
    const long tokens = s->tokens, first = last_only ? tokens - 1 : 0;
    const long fused = (d->heads + 2 * d->kv_heads) * d->size, attended = d->heads * d->size;
    const long each = 2 * d->hidden + fused + attended + 3 * d->inner;
    const Attention all = {.tokens = tokens, .offset = s->offset, .heads = d->heads,
                           .kv_heads = d->kv_heads, .size = d->size};
    const long scores = attention_room(&all, s->threads);
    float *room_for_all = malloc((tokens * each + scores) * sizeof(float));
    if (!room_for_all)
        return NO_MEMORY;
    Buffers b = {.x = room_for_all};
    b.normed = b.x + tokens * d->hidden;
    b.qkv = b.normed + tokens * d->hidden;
    b.attended = b.qkv + tokens * fused;
    b.gate_up = b.attended + tokens * attended;
    b.inner = b.gate_up + tokens * 2 * d->inner;
    b.scores = b.inner + tokens * d->inner;
    embed(b.x, ids, &d->embedding, tokens);
    int result = DONE;
    for (long l = 0; l < d->depth && result == DONE; l++)
        result = run_layer(d, d->layers + l, s, &b, keys[l], values[l],
                           l == d->depth - 1 ? first : 0);
    if (result == DONE) {
        rms_norm(b.normed, b.x + first * d->hidden, d->norm, d->eps, tokens - first, d->hidden,
                 s->threads);
        result = multiply(logits, b.normed, &d->head, tokens - first, s->threads);
    }
    free(room_for_all);
    return result;
}
