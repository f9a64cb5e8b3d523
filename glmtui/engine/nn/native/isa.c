/* Which instruction sets the kernels use. */

#define _GNU_SOURCE
#include "isa.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "attention.h"
#include "linear.h"

Isa isa = AVX2;

/* ---- what the processor and the operating system say */

static int has_avx512(void)
{
#if defined(EMULATED)
    return 1;
#elif defined(WITH_AVX512)
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
    return 0;
#endif
}

/* That Linux grants the registers of tiles says that there are some; every processor with tiles has
   AMX-BF16 and AVX512-BF16. */
static int has_amx(void)
{
#if defined(EMULATED)
    return 1;
#elif defined(WITH_AMX)
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 }; /* of arch_prctl(2) */
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return 0;
#endif
}

/* ---- a trial: a product and two attentions */

#define COLUMNS 64
#define ROWS 48
#define TOKENS 40
#define RESULTS (TOKENS * ROWS + (TOKENS + 1) * COLUMNS)
#define SECONDS 10 /* for a trial, which takes about a millisecond */

typedef struct {
    float x[TOKENS * COLUMNS];
    bf16 keys[ROWS * COLUMNS], values[ROWS * COLUMNS];
    float results[RESULTS];
} Trial;

/* Fills the results with the instruction set in use. Returns 0, or -1 where memory is short. */
static int compute(Trial *trial)
{
    const Linear w = {.q = trial->keys, .rows = ROWS, .columns = COLUMNS, .bits = 16, .is_bf16 = 1};
    float *y = trial->results;
    if (multiply_many(y, trial->x, &w, TOKENS, 1))
        return -1;
    y += TOKENS * ROWS;
    for (long tokens = 1; tokens <= TOKENS; tokens += TOKENS - 1, y += COLUMNS) {
        const Attention a = {.y = y, .q = trial->x, .keys = trial->keys, .values = trial->values,
                             .tokens = tokens, .q_stride = COLUMNS, .room = ROWS,
                             .offset = ROWS - tokens, .heads = 2, .kv_heads = 1,
                             .size = COLUMNS / 2};
        float *room = malloc(attention_room(&a, 1) * sizeof(float));
        if (!room)
            return -1;
        attend(&a, room, 1);
        free(room);
    }
    return 0;
}

/* Whether an instruction set gives what AVX2 gives */
static int computes_right(Isa tried)
{
    static Trial known, trial;
    for (long i = 0; i < TOKENS * COLUMNS; i++)
        known.x[i] = (float)(i * 37 % 101 - 50) / 64;
    for (long i = 0; i < ROWS * COLUMNS; i++) {
        known.keys[i] = to_bf16((float)(i * 53 % 97 - 48) / 256);
        known.values[i] = to_bf16((float)(i * 29 % 89 - 44) / 64);
    }
    trial = known;
    isa = AVX2;
    if (compute(&known))
        return 0;
    isa = tried;
    if (compute(&trial))
        return 0;
    for (long i = 0; i < RESULTS; i++)
        if (!(fabsf(known.results[i] - trial.results[i]) < 0.05f)) /* bfloat16 explains 0.02 */
            return 0;
    return 1;
}

/* The child does nothing but compute: other threads of this process may hold locks. */
static int survives(Isa tried)
{
    const pid_t child = fork();
    if (child < 0)
        return 0;
    if (child == 0) {
        for (int number = 1; number < NSIG; number++)
            signal(number, SIG_DFL);
        alarm(SECONDS);
        _exit(!computes_right(tried));
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return 0;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int use_isa(int wanted)
{
    isa = AVX2;
    if (wanted >= AMX && has_avx512() && has_amx() && survives(AMX))
        isa = AMX;
    else if (wanted >= AVX512 && has_avx512() && survives(AVX512))
        isa = AVX512;
    return isa;
}
