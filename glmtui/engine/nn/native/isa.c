/* The instruction set that the kernels use. */

#include "isa.h"

Isa isa = AVX2;
