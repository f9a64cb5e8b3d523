/* Template of a function of type AttendChunk (attention_parts.h), the same for every instruction
   set. Before including it, define ATTEND_CHUNK (the name of the function), QUERIES_PER_KEY
   (queries that share one load of a key, at least 3), compute_scores, softmax_unnormalized and
   accumulate_values. */

/* ATTEND_CHUNK for n queries. n: a compile-time constant. */
INLINE void attend_queries(float *parts, const float *q, const bf16 *keys, const bf16 *values,
                           long count, long size, const int n)
{
    float scores[QUERIES_PER_KEY * CHUNK];
    compute_scores(scores, q, keys, count, size, n);
    for (int j = 0; j < n; j++) {
        float *max_score = parts + j * part_stride(size) + size, *total = max_score + 1;
        *total = softmax_unnormalized(scores + j * CHUNK, 1 / sqrtf((float)size), count, max_score);
    }
    accumulate_values(parts, scores, values, count, size, n);
}

void ATTEND_CHUNK(float *parts, const float *q, const bf16 *keys, const bf16 *values, long count,
                  long size, long queries)
{
    for (long j = 0; j < queries; j += QUERIES_PER_KEY) {
        float *to = parts + j * part_stride(size);
        const float *from = q + j * size;
        switch (min_long(queries - j, QUERIES_PER_KEY)) {
        case 1: attend_queries(to, from, keys, values, count, size, 1); break;
        case 2: attend_queries(to, from, keys, values, count, size, 2); break;
        case 3: attend_queries(to, from, keys, values, count, size, 3); break;
        default: attend_queries(to, from, keys, values, count, size, QUERIES_PER_KEY);
        }
    }
}
