/* ATTEND_CHUNK, of the type AttendChunk (attention.h): the same for every instruction set. Whoever
   includes this defines that name, QUERIES (how many queries a key is read for at a time, at least 3),
   score_keys, weigh_scores and mix_values. */

/* ATTEND_CHUNK for n queries; n is a constant wherever this is inlined */
INLINE void attend_queries(float *parts, const float *q, const bf16 *keys, const bf16 *values,
                           long count, long size, const int n)
{
    float scores[QUERIES * CHUNK];
    score_keys(scores, q, keys, count, size, n);
    for (int j = 0; j < n; j++) {
        float *end = parts + j * part_size(size) + size;
        end[1] = weigh_scores(scores + j * CHUNK, 1 / sqrtf((float)size), count, end);
    }
    mix_values(parts, scores, values, count, size, n);
}

void ATTEND_CHUNK(float *parts, const float *q, const bf16 *keys, const bf16 *values, long count,
                  long size, long queries)
{
    for (long j = 0; j < queries; j += QUERIES) {
        float *to = parts + j * part_size(size);
        const float *from = q + j * size;
        switch (lesser(queries - j, QUERIES)) {
        case 1: attend_queries(to, from, keys, values, count, size, 1); break;
        case 2: attend_queries(to, from, keys, values, count, size, 2); break;
        case 3: attend_queries(to, from, keys, values, count, size, 3); break;
        default: attend_queries(to, from, keys, values, count, size, QUERIES);
        }
    }
}
