/* One step of the pre-norm decoder (models/gqa_decoder.py), from embedding to logits.

   Computes in float32; keys and values are stored in bfloat16. With up to FEW_TOKENS tokens, a
   token's result is bit-identical whatever other tokens are in the step. Sizes are multiples
   of 32. */

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
    int64_t depth, hidden, inner, heads, kv_heads, head_size;
    float eps;
    int32_t rotate_halves; /* rotary pairs are (i, i + head_size / 2), otherwise (2i, 2i + 1) */
} Decoder;

typedef struct {
    const bf16 *cos, *sin; /* [tokens, head_size] */
    int64_t tokens;
    int64_t allocated; /* tokens that the cache has memory for */
    int64_t offset;    /* tokens in the cache before this step */
    int32_t threads;
} Step;

/* Intermediate results: each has one row per token, except the workspace of the attention. */
typedef struct {
    float *x, *normed, *qkv, *attention, *gate_up, *inner;
    float *workspace; /* [attention_workspace_size] */
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
        const __m256 inverse = _mm256_set1_ps(1 / sqrtf(horizontal_sum(squares) / size + eps));
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
            const __m256 below = exp8(_mm256_sub_ps(_mm256_setzero_ps(), gate));
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

/* Rotary embedding of one head: x = x * cos + partner * sin. The signs are in sin. */
static void rotate_head(float *x, const bf16 *cos, const bf16 *sin, long size, int rotate_halves)
{
    for (long i = 0; i < size / 2; i++) {
        const long first = rotate_halves ? i : 2 * i;
        const long second = rotate_halves ? i + size / 2 : 2 * i + 1;
        const float a = x[first], b = x[second];
        x[first] = a * bf16_to_float(cos[first]) + b * bf16_to_float(sin[first]);
        x[second] = b * bf16_to_float(cos[second]) + a * bf16_to_float(sin[second]);
    }
}

/* Rotates queries and keys in place and writes keys and values to the cache, starting at the
   offset. keys, values: [kv_heads, allocated, head_size]. */
static void rotate_and_cache(const Decoder *d, const Step *s, float *qkv, bf16 *keys, bf16 *values)
{
    const long size = d->head_size, heads = d->heads, kv_heads = d->kv_heads, tokens = s->tokens;
    const int threads = s->threads;
    PARALLEL_IF_MANY
    for (long t = 0; t < tokens; t++) {
        float *head = qkv + t * (heads + 2 * kv_heads) * size;
        for (long h = 0; h < heads + kv_heads; h++)
            rotate_head(head + h * size, s->cos + t * size, s->sin + t * size, size,
                        d->rotate_halves);
        for (long h = 0; h < kv_heads; h++) {
            const float *key = head + (heads + h) * size, *value = key + kv_heads * size;
            const long to = (h * s->allocated + s->offset + t) * size;
            for (long i = 0; i < size; i += 8) {
                store_bf16(keys + to + i, _mm256_loadu_ps(key + i));
                store_bf16(values + to + i, _mm256_loadu_ps(value + i));
            }
        }
    }
}

/* Runs one layer. Attention output and MLP are computed only for tokens from `first` on. */
static int run_layer(const Decoder *d, const Layer *layer, const Step *s, const Buffers *b,
                     bf16 *keys, bf16 *values, long first)
{
    const long fused = (d->heads + 2 * d->kv_heads) * d->head_size, tokens = s->tokens - first;
    float *x = b->x + first * d->hidden;
    rms_norm(b->normed, b->x, layer->attention_norm, d->eps, s->tokens, d->hidden, s->threads);
    if (multiply(b->qkv, b->normed, &layer->qkv, s->tokens, s->threads))
        return NO_MEMORY;
    rotate_and_cache(d, s, b->qkv, keys, values);
    const Attention a = {.y = b->attention, .q = b->qkv + first * fused, .keys = keys,
                         .values = values, .tokens = tokens, .q_stride = fused,
                         .allocated = s->allocated, .offset = s->offset + first,
                         .heads = d->heads, .kv_heads = d->kv_heads, .head_size = d->head_size};
    attend(&a, b->workspace, s->threads);
    if (multiply(b->normed, b->attention, &layer->out, tokens, s->threads))
        return NO_MEMORY;
    add(x, b->normed, tokens, d->hidden, s->threads);
    rms_norm(b->normed, x, layer->mlp_norm, d->eps, tokens, d->hidden, s->threads);
    if (multiply(b->gate_up, b->normed, &layer->gate_up, tokens, s->threads))
        return NO_MEMORY;
    swiglu(b->inner, b->gate_up, tokens, d->inner, s->threads);
    if (multiply(b->normed, b->inner, &layer->down, tokens, s->threads))
        return NO_MEMORY;
    add(x, b->normed, tokens, d->hidden, s->threads);
    return SUCCESS;
}

static int valid_layer(const Decoder *d, const Layer *l)
{
    const long fused = (d->heads + 2 * d->kv_heads) * d->head_size;
    return l->attention_norm && l->mlp_norm && valid_linear(&l->qkv) && l->qkv.rows == fused &&
           l->qkv.columns == d->hidden && valid_linear(&l->out) && l->out.rows == d->hidden &&
           l->out.columns == d->heads * d->head_size && valid_linear(&l->gate_up) &&
           l->gate_up.rows == 2 * d->inner && l->gate_up.columns == d->hidden &&
           valid_linear(&l->down) && l->down.rows == d->hidden && l->down.columns == d->inner;
}

/* Whether all sizes are in range and fit together */
static int valid_decoder(const Decoder *d)
{
    const long max_heads = 1L << 20; /* no product of sizes overflows a long */
    int fits = d->heads > 0 && d->heads <= max_heads && d->kv_heads > 0 && d->head_size > 0 &&
               d->head_size <= MAX_HEAD_SIZE && d->head_size % 32 == 0 &&
               d->heads % d->kv_heads == 0 && d->norm &&
               valid_linear(&d->embedding) && d->embedding.columns == d->hidden &&
               valid_linear(&d->head) && d->head.columns == d->hidden;
    for (long l = 0; fits && l < d->depth; l++)
        fits = valid_layer(d, d->layers + l);
    return fits;
}

static int valid_step(const Decoder *d, const Step *s, const int64_t *ids)
{
    int fits = valid_counts(s->tokens, s->threads) && s->offset >= 0 && s->offset <= s->allocated &&
               s->tokens <= s->allocated - s->offset;
    for (long t = 0; fits && t < s->tokens; t++)
        fits = ids[t] >= 0 && ids[t] < d->embedding.rows;
    return fits;
}

/* logits: [tokens, vocab], or [1, vocab] of the last token if last_only. ids: [tokens]. keys,
   values: one pointer per layer, to [kv_heads, allocated, head_size]. Returns SUCCESS, NO_MEMORY or
   INVALID_SIZES; ids outside the vocabulary are invalid. */
int decoder_step(float *logits, const int64_t *ids, const Decoder *d, const Step *s,
                 bf16 *const *keys, bf16 *const *values, int last_only)
{
    if (!valid_decoder(d) || !valid_step(d, s, ids))
        return INVALID_SIZES;
    const long tokens = s->tokens, first = last_only ? tokens - 1 : 0;
    const long fused = (d->heads + 2 * d->kv_heads) * d->head_size;
    const long attention = d->heads * d->head_size;
    const long per_token = 2 * d->hidden + fused + attention + 3 * d->inner;
    const Attention a = {.tokens = tokens, .offset = s->offset, .heads = d->heads,
                         .kv_heads = d->kv_heads, .head_size = d->head_size};
    const long workspace = attention_workspace_size(&a, s->threads);
    float *memory = malloc((tokens * per_token + workspace) * sizeof(float));
    if (!memory)
        return NO_MEMORY;
    Buffers b = {.x = memory};
    b.normed = b.x + tokens * d->hidden;
    b.qkv = b.normed + tokens * d->hidden;
    b.attention = b.qkv + tokens * fused;
    b.gate_up = b.attention + tokens * attention;
    b.inner = b.gate_up + tokens * 2 * d->inner;
    b.workspace = b.inner + tokens * d->inner;
    embed(b.x, ids, &d->embedding, tokens);
    int result = SUCCESS;
    for (long l = 0; l < d->depth && result == SUCCESS; l++)
        result = run_layer(d, d->layers + l, s, &b, keys[l], values[l],
                           l == d->depth - 1 ? first : 0);
    if (result == SUCCESS) {
        rms_norm(b.normed, b.x + first * d->hidden, d->norm, d->eps, tokens - first, d->hidden,
                 s->threads);
        result = multiply(logits, b.normed, &d->head, tokens - first, s->threads);
    }
    free(memory);
    return result;
}
