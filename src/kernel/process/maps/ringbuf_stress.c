/*
 * Writes records into a ring buffer of another process with its own machine code, on several threads and in signal
 * handlers that interrupt them anywhere: for ringbuf.stress.test.ts and the benchmark. Offsets of the layout come from
 * ringbuf_layout.ts, as -D definitions.
 *
 * Every record is { u32 writer; u32 length; u64 number; pattern }: numbers of a writer count up by one. A thread is one
 * writer, the handlers that interrupt it another for each depth: a handler is interrupted by the next signal.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

typedef void *(*reserve_fn)(void *ring, uint64_t size, uint64_t flags);
typedef int64_t (*finish_fn)(void *sample, uint64_t flags);
typedef int64_t (*output_fn)(void *ring, const void *data, uint64_t size, uint64_t flags);

static unsigned char *ring;
static uint64_t ring_size;
static reserve_fn reserve;
static finish_fn submit, discard;
static output_fn output;

static int threads, throttle, fixed_size, use_output;
static long records;
static uint64_t seed;
static _Atomic long running;
static _Atomic uint64_t failed, discarded, handled, nested;

struct record {
  uint32_t writer, length;
  uint64_t number;
  unsigned char pattern[];
};

struct writer {
  uint32_t id;
  uint64_t next;
  uint64_t random;
};

/* Handlers that are nested deeper write nothing. */
enum { DEEPEST = 3, WRITERS = 1 + DEEPEST };

static __thread struct writer mine, handlers[DEEPEST];
static __thread volatile int started, depth;

static void fail(const char *what, long number) {
  fprintf(stderr, "%s (%ld)\n", what, number);
  exit(1);
}

static uint64_t random_number(uint64_t *state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

static uint64_t field(int offset) { return atomic_load((_Atomic uint64_t *)(ring + offset)); }

static void fill(struct record *r, const struct writer *w, uint32_t length) {
  if (fixed_size) { /* The benchmark: the number only, as a program that has little to say. */
    memset(r, 0, length);
    *(uint64_t *)r = w->next;
    return;
  }
  r->writer = w->id;
  r->length = length;
  r->number = w->next;
  unsigned char c = (unsigned char)(w->id * 31 + w->next);
  for (uint32_t i = sizeof *r; i < length; i++) r->pattern[i - sizeof *r] = c++;
}

/* Appends one record, or counts that there was no room. */
static void append(struct writer *w) {
  uint64_t r = random_number(&w->random);
  uint32_t length = fixed_size ? (uint32_t)fixed_size : (uint32_t)(sizeof(struct record) + r % 100);
  if (use_output == 1 || (use_output == 2 && (r >> 32) % 2)) {
    union {
      struct record record;
      unsigned char bytes[512];
    } u;
    fill(&u.record, w, length);
    if (output(ring, &u, length, 0) != 0) failed++;
    else w->next++;
    return;
  }
  struct record *sample = reserve(ring, length, 0);
  if (!sample) {
    failed++;
    return;
  }
  fill(sample, w, length);
  if (!fixed_size && (r >> 40) % 16 == 0) {
    discard(sample, 0);
    discarded++;
    return;
  }
  submit(sample, 0);
  w->next++;
}

static void on_signal(int number) {
  (void)number;
  if (!started || depth == DEEPEST) return;
  int saved = errno, mine_is = depth++;
  for (int i = 0; i < 3; i++) append(&handlers[mine_is]);
  depth--;
  handled++;
  if (mine_is > 0) nested++;
  errno = saved;
}

static void *run_thread(void *argument) {
  long id = (long)argument;
  mine = (struct writer){(uint32_t)(WRITERS * id), 0, seed + (uint64_t)id};
  for (int i = 0; i < DEEPEST; i++)
    handlers[i] = (struct writer){(uint32_t)(WRITERS * id + 1 + i), 0, ~seed + (uint64_t)(id * DEEPEST + i)};
  started = 1;
  for (long i = 0; i < records; i++) {
    /* The benchmark looks rarely: half of the ring is room for that. */
    while (throttle && (!fixed_size || i % 256 == 0) && field(AT_PRODUCER) - field(AT_CONSUMER) > ring_size / 2) sched_yield();
    append(&mine);
  }
  started = 0;
  running--;
  char line[400];
  int n = snprintf(line, sizeof line, "written %u %lu\n", mine.id, (unsigned long)mine.next);
  for (int i = 0; i < DEEPEST; i++)
    n += snprintf(line + n, sizeof line - (size_t)n, "written %u %lu\n", handlers[i].id,
                  (unsigned long)handlers[i].next);
  if (write(1, line, (size_t)n) != n) fail("write", errno);
  return NULL;
}

/* Steps: something happens behind every single instruction of an append. */

enum { OUTER, NESTED, ABANDONED, AFTER };

static unsigned char *code;
static size_t code_size;
static struct writer writers[4];
static volatile long steps, stop_at;
static volatile int reached, abandon;
static sigjmp_buf after_death;

static void on_step(int number, siginfo_t *info, void *context) {
  (void)number, (void)info;
  greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
  unsigned char *rip = (unsigned char *)r[REG_RIP];
  if (rip < code || rip >= code + code_size || ++steps != stop_at) return;
  r[REG_EFL] &= ~0x100L;
  reached = 1;
  if (abandon) siglongjmp(after_death, 1);
  append(&writers[NESTED]);
}

static void append_stepped(struct writer *w) {
  union {
    struct record record;
    unsigned char bytes[64];
  } u;
  fill(&u.record, w, 24);
  steps = reached = 0;
  __asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq" ::: "memory", "cc");
  int64_t result = output(ring, &u, 24, 0);
  __asm__ volatile("pushfq; andq $~0x100, (%%rsp); popfq" ::: "memory", "cc");
  if (result != 0) failed++;
  else w->next++;
}

static void run_steps(void) {
  struct sigaction action = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGTRAP, &action, NULL);
  for (uint32_t i = 0; i < 4; i++) writers[i] = (struct writer){i, 0, seed + i};
  use_output = 1;
  for (stop_at = 1, reached = 1; reached; stop_at++) {
    abandon = 0;
    append_stepped(&writers[OUTER]);
    if (!reached) break;
    /* Every attempt has a number of its own, whether it succeeds or not. */
    abandon = 1;
    writers[ABANDONED].next = (uint64_t)stop_at;
    if (sigsetjmp(after_death, 1) == 0) append_stepped(&writers[ABANDONED]);
    abandon = 0;
    append(&writers[AFTER]);
  }
  for (uint32_t i = 0; i < 4; i++) printf("written %u %lu\n", i, (unsigned long)writers[i].next);
  printf("failed %lu\nsteps %ld\n", (unsigned long)failed, stop_at - 1);
}

static int open_of(const char *pid, const char *fd, int flags) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%s/fd/%s", pid, fd);
  int file = open(path, flags);
  if (file < 0) fail(path, errno);
  return file;
}

int main(int argc, char **argv) {
  if (argc < 18) fail("too few arguments", argc);
  const char *pid = argv[1];
  unsigned char *block = mmap(NULL, strtoul(argv[3], NULL, 10), PROT_READ | PROT_WRITE, MAP_SHARED,
                              open_of(pid, argv[2], O_RDWR), 0);
  ring = block + strtoul(argv[4], NULL, 10);
  ring_size = strtoul(argv[6], NULL, 10);
  int file = open_of(pid, argv[5], O_RDWR);
  unsigned char *data = mmap(NULL, 2 * ring_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (int i = 0; i < 2; i++)
    if (mmap(data + (uint64_t)i * ring_size, ring_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) ==
        MAP_FAILED)
      fail("mmap", errno);
  code_size = strtoul(argv[8], NULL, 10);
  code =
      mmap(NULL, code_size, PROT_READ | PROT_EXEC, MAP_SHARED, open_of(pid, argv[7], O_RDONLY), 0);
  if (block == MAP_FAILED || code == MAP_FAILED) fail("mmap", errno);
  /* Only programs use this address, and they are here. */
  memcpy(ring + AT_DATA, &data, sizeof data);
  output = (output_fn)(code + atol(argv[9]));
  reserve = (reserve_fn)(code + atol(argv[10]));
  submit = (finish_fn)(code + atol(argv[11]));
  discard = (finish_fn)(code + atol(argv[12]));
  threads = atoi(argv[13]);
  records = atol(argv[14]);
  seed = strtoul(argv[15], NULL, 10);
  int flags = atoi(argv[16]);
  throttle = flags & 1;
  int signals = flags & 2;
  use_output = (flags >> 2) & 3;
  fixed_size = atoi(argv[17]);
  if (flags & 16) {
    run_steps();
    return 0;
  }

  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART | SA_NODEFER};
  sigaction(SIGUSR1, &action, NULL);
  running = threads;
  pthread_t ids[64];
  struct timespec from, to;
  clock_gettime(CLOCK_MONOTONIC, &from);
  for (long i = 0; i < threads; i++) pthread_create(&ids[i], NULL, run_thread, (void *)i);
  while (signals && running > 0) {
    for (int i = 0; i < threads; i++) pthread_kill(ids[i], SIGUSR1);
    struct timespec pause = {0, 100000};
    nanosleep(&pause, NULL);
  }
  for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL);
  clock_gettime(CLOCK_MONOTONIC, &to);
  printf("failed %lu\ndiscarded %lu\nhandled %lu\nnested %lu\n", (unsigned long)failed, (unsigned long)discarded,
         (unsigned long)handled, (unsigned long)nested);
  printf("ns %ld\n", (to.tv_sec - from.tv_sec) * 1000000000L + to.tv_nsec - from.tv_nsec);
  return 0;
}
