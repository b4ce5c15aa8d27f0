// FOR_ANY_CPU before a function: it is compiled for several processors, and the loader picks one.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_ANY_CPU __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_ANY_CPU
#endif
