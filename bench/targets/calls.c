/*
 * The traced program of the benchmark. Reads commands from standard input, one a line, answers each with a line:
 *   pid             its process id
 *   moved N         calls the function `moved` N times; answers ns per call
 *   sled N          the same for `sled`, which the compiler gave a nop sled
 *   loop N          the same loop without a call
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Empty but for what keeps a function from being empty: a frame, as most have. */
__attribute__((noinline, noipa)) void moved(void) { __asm__ volatile("push %rbp\n\tmov %rsp,%rbp\n\tnop\n\tpop %rbp"); }
__attribute__((noinline, noipa, patchable_function_entry(5))) void sled(void) { __asm__ volatile("" ::: "memory"); }

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

int main(void)
{
	char line[128], what[32];
	setvbuf(stdout, NULL, _IONBF, 0);
	while (fgets(line, sizeof line, stdin)) {
		unsigned long n = 0;
		if (sscanf(line, "%31s %lu", what, &n) < 1) continue;
		if (strcmp(what, "pid") == 0) {
			printf("%d\n", (int)getpid());
			continue;
		}
		double from = now();
		if (strcmp(what, "moved") == 0)
			for (unsigned long i = 0; i < n; i++) moved();
		else if (strcmp(what, "sled") == 0)
			for (unsigned long i = 0; i < n; i++) sled();
		else
			for (unsigned long i = 0; i < n; i++) __asm__ volatile("" ::: "memory");
		printf("%.4f\n", (now() - from) / n);
	}
	return 0;
}
