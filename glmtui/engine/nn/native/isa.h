/* Which instruction sets the kernels use; each includes those before it. */

#ifndef GLMTUI_ISA_H
#define GLMTUI_ISA_H

typedef enum {
    AVX2,   /* with FMA and F16C: what all of the library is compiled for */
    AVX512, /* F, BW, DQ and VL */
    AMX,    /* tiles of bfloat16, and AVX512-BF16 */
} Isa;

/* What use_isa granted last; AVX2 before the first call. Not to be changed while a kernel runs. */
extern Isa isa;

/* Constant 0 where the library was compiled without that part, so that nothing refers to it */
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

/* Selects the highest instruction set up to `wanted` that was compiled, that the processor has, that
   the operating system permits, and that computes correctly. A child process tries it first, since
   some virtual machines list instructions and kill a process that executes them. Returns the
   selected instruction set. */
int use_isa(int wanted);

#endif
