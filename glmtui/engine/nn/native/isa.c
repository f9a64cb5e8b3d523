/* Selection of the instruction set that the kernels use. */

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

/* ---- detection */

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

/* Linux grants the tile registers only if the processor has them. Every processor with tiles also
   has AMX-BF16 and AVX512-BF16. */
static int has_amx(void)
{
#if defined(EMULATED)
    return 1;
#elif defined(WITH_AMX)
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 }; /* see arch_prctl(2) */
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return 0;
#endif
}

/* ---- test run: one matrix product, and attention for one and for many tokens */

#define COLUMNS 64
#define ROWS 48
#define TOKENS 40
#define RESULTS (TOKENS * ROWS + (TOKENS + 1) * COLUMNS)
#define SECONDS 10 /* time limit of a test run, which takes about a millisecond */

typedef struct {
    float x[TOKENS * COLUMNS];
    bf16 keys[ROWS * COLUMNS], values[ROWS * COLUMNS];
    float results[RESULTS];
} Trial;

/* Fills the results with the current instruction set. Returns 0, or -1 if out of memory. */
static int run_trial(Trial *trial)
{
    const Linear w = {.q = trial->keys, .rows = ROWS, .columns = COLUMNS, .bits = 16, .is_bf16 = 1};
    float *y = trial->results;
    if (gemm(y, trial->x, &w, TOKENS, 1))
        return -1;
    y += TOKENS * ROWS;
    for (long tokens = 1; tokens <= TOKENS; tokens += TOKENS - 1, y += COLUMNS) {
        const Attention a = {.y = y, .q = trial->x, .keys = trial->keys, .values = trial->values,
                             .tokens = tokens, .q_stride = COLUMNS, .allocated = ROWS,
                             .offset = ROWS - tokens, .heads = 2, .kv_heads = 1,
                             .head_size = COLUMNS / 2};
        float *workspace = malloc(attention_workspace_size(&a, 1) * sizeof(float));
        if (!workspace)
            return -1;
        attend(&a, workspace, 1);
        free(workspace);
    }
    return 0;
}

/* Whether an instruction set gives the results of AVX2, up to rounding */
static int matches_avx2(Isa candidate)
{
    static Trial expected, trial;
    for (long i = 0; i < TOKENS * COLUMNS; i++)
        expected.x[i] = (float)(i * 37 % 101 - 50) / 64;
    for (long i = 0; i < ROWS * COLUMNS; i++) {
        expected.keys[i] = float_to_bf16((float)(i * 53 % 97 - 48) / 256);
        expected.values[i] = float_to_bf16((float)(i * 29 % 89 - 44) / 64);
    }
    trial = expected;
    isa = AVX2;
    if (run_trial(&expected))
        return 0;
    isa = candidate;
    if (run_trial(&trial))
        return 0;
    for (long i = 0; i < RESULTS; i++)
        /* rounding to bfloat16 explains 0.02; the negation also catches NaN */
        if (!(fabsf(expected.results[i] - trial.results[i]) < 0.05f))
            return 0;
    return 1;
}

/* Runs the test in a child process, which only computes: other threads of this process may hold
   locks at the time of the fork. */
static int passes_in_child(Isa candidate)
{
    const pid_t child = fork();
    if (child < 0)
        return 0;
    if (child == 0) {
        for (int number = 1; number < NSIG; number++)
            signal(number, SIG_DFL);
        alarm(SECONDS);
        _exit(!matches_avx2(candidate));
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
    if (wanted >= AMX && has_avx512() && has_amx() && passes_in_child(AMX))
        isa = AMX;
    else if (wanted >= AVX512 && has_avx512() && passes_in_child(AVX512))
        isa = AVX512;
    return isa;
}
