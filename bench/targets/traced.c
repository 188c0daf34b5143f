/*
 * The traced program of the benchmark. Arguments are libraries to load. Reads commands from standard input, one a line,
 * and answers each with a line:
 *   pid                          its process id
 *   run WHAT THREADS CALLS       every thread calls WHAT so many times, after an eighth of that to warm up; answers the calls
 *                                made in all, the sum of what they returned, the ns from the first thread's begin to
 *                                the last one's end without the warm-up, and the ns that the threads had a processor in
 *                                that time. WHAT: a function of TRACED; `different`, each
 *                                thread a function of its own; `count`, the bare loop that counts itself; `syscall`
 *   limit on|off                 puts the hand-written hook on `ordinary`, or takes it away
 *   limit-thread on|off          the same, with a counter for each thread and so without a lock
 *   limit-count                  what it has counted since it was put there
 *   limit-thread-count           the same
 *   watch                        a thread that reads the clock without end begins
 *   gap                          the longest time between two of its readings since `watch` or the last `gap`, ns
 *   unwatch                      it ends
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MOST_THREADS 64
#define ALONE __attribute__((noinline, noipa, aligned(64)))
#define BODY(before) \
	{ \
		long one; \
		__asm__ volatile(before "push %%rbp\n\tmov %%rsp, %%rbp\n\tpop %%rbp\n\tmov $1, %k0" : "=a"(one)); \
		return one; \
	}

/* What is traced, and what each returns: 1. A frame and nothing else, as little as a function can be. */
ALONE long ordinary(void) BODY("")
ALONE long other(void) BODY("")
/* With what gcc -fpatchable-function-entry=5 leaves: five nops of one byte. */
ALONE __attribute__((patchable_function_entry(5))) long sled(void) BODY("")
/* With what gcc -pg -mfentry -mnop-mcount leaves: one nop of five bytes, which kernels from 6.18 on optimise uprobes at. */
ALONE long nop5(void) BODY(".byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n\t")

/*
 * The limit: hooks written by hand. They change no register, so they save none. A locked instruction straight behind the
 * call takes a quarter longer than one behind the displaced instructions.
 */
uint64_t limit_count;
__thread uint64_t limit_thread_count;
static _Atomic uint64_t limit_thread_total;
extern char limit_hook[], limit_thread_hook[];
__asm__(
	".pushsection .text\n"
	".balign 64\n"
	"limit_hook:\n"
	"	push %rbp\n"
	"	mov %rsp, %rbp\n"
	"	pop %rbp\n"
	"	lock incq limit_count(%rip)\n"
	"	jmp ordinary + 5\n"
	".balign 64\n"
	"limit_thread_hook:\n"
	"	incq %fs:limit_thread_count@tpoff\n"
	"	push %rbp\n"
	"	mov %rsp, %rbp\n"
	"	pop %rbp\n"
	"	jmp ordinary + 5\n"
	".popsection\n");

static unsigned char displaced[5];

static int hook(const char *target, int on)
{
	unsigned char *at = (unsigned char *)ordinary;
	void *page = (void *)((uintptr_t)at & -4096L);
	if (on) {
		int32_t distance = (int32_t)(target - (char *)at - 5);
		static const unsigned char expected[5] = {0x55, 0x48, 0x89, 0xe5, 0x5d};
		if (memcmp(at, expected, 5) != 0) return 0;
		memcpy(displaced, at, 5);
		if (mprotect(page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC) != 0) return 0;
		at[0] = 0xe9;
		memcpy(at + 1, &distance, 4);
	} else {
		if (mprotect(page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC) != 0) return 0;
		memcpy(at, displaced, 5);
	}
	return mprotect(page, 8192, PROT_READ | PROT_EXEC) == 0;
}

static uint64_t now(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* One thread's part of a run; a cache line pair of its own. */
struct producer {
	pthread_t thread;
	const char *what;
	unsigned number;
	unsigned long calls;
	uint64_t begin, end, processor, made;
	int64_t sum;
} __attribute__((aligned(128)));

static struct producer producers[MOST_THREADS];
static atomic_uint warm, going;

#define CALLS(name, call) \
	static int64_t loop_##name(unsigned long n) \
	{ \
		int64_t sum = 0; \
		for (unsigned long i = 0; i < n; i++) sum += (call); \
		return sum; \
	}
CALLS(ordinary, ordinary())
CALLS(other, other())
CALLS(sled, sled())
CALLS(nop5, nop5())
CALLS(syscall, syscall(SYS_getpgid, 0))

static int64_t loop_count(unsigned long n)
{
	_Atomic uint64_t hits = 0;
	for (unsigned long i = 0; i < n; i++) atomic_fetch_add_explicit(&hits, 1, memory_order_seq_cst);
	return (int64_t)hits;
}

static const struct { const char *name; int64_t (*loop)(unsigned long); } LOOPS[] = {
	{"ordinary", loop_ordinary}, {"other", loop_other}, {"sled", loop_sled}, {"nop5", loop_nop5},
	{"syscall", loop_syscall}, {"count", loop_count},
};

static int64_t (*find_loop(const char *what, unsigned number))(unsigned long)
{
	if (strcmp(what, "different") == 0) what = number % 2 == 0 ? "ordinary" : "other";
	for (size_t i = 0; i < sizeof LOOPS / sizeof LOOPS[0]; i++)
		if (strcmp(LOOPS[i].name, what) == 0) return LOOPS[i].loop;
	return NULL;
}

static void *produce(void *argument)
{
	struct producer *self = argument;
	int64_t (*loop)(unsigned long) = find_loop(self->what, self->number);
	unsigned long warming = self->calls / 8;
	self->sum = loop(warming);
	atomic_fetch_add(&warm, 1);
	while (!atomic_load(&going)) __asm__ volatile("pause");
	self->begin = now(CLOCK_MONOTONIC);
	self->processor = now(CLOCK_THREAD_CPUTIME_ID);
	self->sum += loop(self->calls);
	self->processor = now(CLOCK_THREAD_CPUTIME_ID) - self->processor;
	self->end = now(CLOCK_MONOTONIC);
	self->made = warming + self->calls;
	atomic_fetch_add(&limit_thread_total, limit_thread_count);
	limit_thread_count = 0;
	return NULL;
}

static void run(const char *what, unsigned threads, unsigned long calls)
{
	uint64_t begin = UINT64_MAX, end = 0, processor = 0, made = 0;
	int64_t sum = 0;
	if (threads < 1 || threads > MOST_THREADS || find_loop(what, 0) == NULL) {
		puts("? no such run");
		return;
	}
	atomic_store(&warm, 0);
	atomic_store(&going, threads == 1);
	for (unsigned i = 0; i < threads; i++) {
		producers[i].what = what;
		producers[i].number = i;
		producers[i].calls = calls;
		if (threads == 1) produce(&producers[i]);
		else if (pthread_create(&producers[i].thread, NULL, produce, &producers[i]) != 0) {
			puts("? no thread");
			_exit(1);
		}
	}
	if (threads > 1) {
		while (atomic_load(&warm) < threads) usleep(100);
		atomic_store(&going, 1);
		for (unsigned i = 0; i < threads; i++) pthread_join(producers[i].thread, NULL);
	}
	for (unsigned i = 0; i < threads; i++) {
		if (producers[i].begin < begin) begin = producers[i].begin;
		if (producers[i].end > end) end = producers[i].end;
		processor += producers[i].processor;
		made += producers[i].made;
		sum += producers[i].sum;
	}
	printf("%lu %ld %lu %lu\n", (unsigned long)made, (long)sum, (unsigned long)(end - begin), (unsigned long)processor);
}

static atomic_bool watching;
static _Atomic uint64_t longest_gap;
static pthread_t watcher;

static void *watch(void *unused)
{
	uint64_t last = now(CLOCK_MONOTONIC);
	while (atomic_load(&watching)) {
		uint64_t here = now(CLOCK_MONOTONIC);
		if (here - last > atomic_load(&longest_gap)) atomic_store(&longest_gap, here - last);
		last = here;
	}
	return unused;
}

int main(int argc, char **argv)
{
	char line[128], what[32], option[32];
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int i = 1; i < argc; i++)
		if (!dlopen(argv[i], RTLD_NOW)) {
			fprintf(stderr, "%s\n", dlerror());
			return 1;
		}
	while (fgets(line, sizeof line, stdin)) {
		unsigned threads = 0;
		unsigned long calls = 0;
		int words = sscanf(line, "%31s %31s %u %lu", what, option, &threads, &calls);
		if (words == 1 && strcmp(what, "pid") == 0) printf("%d\n", (int)getpid());
		else if (words == 4 && strcmp(what, "run") == 0) run(option, threads, calls);
		else if (words == 2 && strcmp(what, "limit") == 0) {
			if (option[1] == 'n') limit_count = 0;
			puts(hook(limit_hook, option[1] == 'n') ? "ok" : "? the hook could not be placed");
		} else if (words == 2 && strcmp(what, "limit-thread") == 0) {
			if (option[1] == 'n') atomic_store(&limit_thread_total, 0);
			puts(hook(limit_thread_hook, option[1] == 'n') ? "ok" : "? the hook could not be placed");
		} else if (strcmp(what, "limit-count") == 0)
			printf("%lu\n", (unsigned long)limit_count);
		else if (strcmp(what, "limit-thread-count") == 0)
			printf("%lu\n", (unsigned long)atomic_load(&limit_thread_total));
		else if (strcmp(what, "watch") == 0) {
			atomic_store(&watching, 1);
			atomic_store(&longest_gap, 0);
			puts(pthread_create(&watcher, NULL, watch, NULL) == 0 ? "ok" : "? no thread");
		} else if (strcmp(what, "gap") == 0) printf("%lu\n", (unsigned long)atomic_exchange(&longest_gap, 0));
		else if (strcmp(what, "unwatch") == 0) {
			atomic_store(&watching, 0);
			pthread_join(watcher, NULL);
			puts("ok");
		} else puts("? no such command");
	}
	return 0;
}
