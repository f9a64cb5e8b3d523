/* The instruction set that the kernels use. Each one includes those listed before it. */

#ifndef GLMTUI_ISA_H
#define GLMTUI_ISA_H

typedef enum {
    AVX2,   /* with FMA and F16C: the minimum for the library */
    AVX512, /* F, BW, DQ and VL */
    AMX,    /* AMX-TILE and AMX-BF16, with AVX512-BF16 */
} Isa;

/* The last result of use_isa; AVX2 before the first call. Do not change it while a kernel runs. */
extern Isa isa;

/* Constant 0 if the library was compiled without that part, so that its symbols are never
   referenced */
#ifdef WITH_AVX512
#define USES_AVX512 (isa >= AVX512)
#else
#define USES_AVX512 0
#endif
#ifdef WITH_AMX
#define USES_AMX (isa >= AMX)
#else
#define USES_AMX 0
#endif

/* Selects the highest instruction set up to `wanted` that was compiled, that the processor has,
   that the operating system permits, and that passes a test run. The test runs in a child process,
   because some virtual machines list instructions and then kill the process that executes them.
   Returns the selected instruction set. */
int use_isa(int wanted);

#endif
