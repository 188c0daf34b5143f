/*
 * What the target programs share: functions that the compiler must keep, in the shape written, and counters that
 * a test compares with what multitrace counted.
 */
#ifndef CALLED_H
#define CALLED_H

/* Kept as one function of its own: not inlined, not cloned, not merged with a twin, not removed. */
#if defined(__clang__)
#define TRACED __attribute__((noinline, used))
#else
#define TRACED __attribute__((noinline, noclone, no_icf, used))
#endif

/* Uses a call's result, so that a call to itself stays a call and is not made into a loop. */
#define USE(result) __asm__ volatile("" : "+r"(result))

#endif
