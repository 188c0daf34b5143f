/*
 * Runs the routines of maps other than the hash map (stress.c has that) from outside node, for maps.stress.test.ts: on
 * many threads with signals at any moment, in processes that are killed at any moment, and, for queues and stacks, with
 * another operation or a death after every single instruction.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

/* The slot comes sixth, where the sixth argument is: in r9. */
typedef int64_t (*routine)(void *map, const void *a, const void *b, uint64_t c, uint64_t d, uint64_t slot);

enum { ANY, NOEXIST, EXIST };
#define WORDS 4
#define MAX_THREADS 64

static unsigned char *map;
static size_t map_bytes;
/* lookup, update, delete; of queues and stacks peek, push, pop; of stack traces `update` stores. */
static routine lookup, update, delete;
static uint32_t keys, key_size;
static int threads;
static long operations;
static uint64_t seed;
static const char *type;
static _Atomic long done_threads, interrupted, torn, refused, pushed, popped, disordered, added;
static _Atomic uint64_t pushed_sum, popped_sum;
static __thread uint64_t signal_random, thread_number;
static __thread int in_thread;
static int signals;

static void fail(const char *what, long number) {
  fprintf(stderr, "%s (%ld)\n", what, number);
  exit(1);
}

static unsigned char *map_file(const char *pid, const char *fd, size_t size, int prot) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%s/fd/%s", pid, fd);
  int file = open(path, prot & PROT_WRITE ? O_RDWR : O_RDONLY);
  if (file < 0) fail(path, errno);
  void *at = mmap(NULL, size, prot, MAP_SHARED, file, 0);
  if (at == MAP_FAILED) fail("mmap", errno);
  close(file);
  return at;
}

static uint64_t random_number(uint64_t *state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

static int is(const char *what) { return strcmp(type, what) == 0; }

/* Four words that belong together. */
static void make_value(uint64_t *value, uint64_t stamp, uint64_t n) {
  value[0] = stamp;
  value[1] = stamp ^ n;
  value[2] = ~stamp;
  value[3] = stamp * 3;
}

static void check_value(const uint64_t *value, uint64_t n) {
  if (value[1] != (value[0] ^ n) || value[2] != ~value[0] || value[3] != value[0] * 3) torn++;
}

/* Queues and stacks: what was pushed comes out once, whole, and from a queue in each pusher's order. */

#define PUSHERS (2 * MAX_THREADS)
static __thread uint64_t sequence[2], last_seen[PUSHERS];

static void queue_operation(uint64_t *state, int nested) {
  uint64_t value[WORDS] = {0}, pusher = thread_number * 2 + (uint64_t)nested, r = random_number(state);
  if (r & 1) {
    uint64_t stamp = (pusher << 40) | ++sequence[nested];
    make_value(value, stamp, 7);
    int64_t result = update(map, value, (void *)ANY, 0, 0, 0);
    if (result == 0) {
      pushed++;
      pushed_sum += stamp;
    } else if (result == -E2BIG) refused++;
    else fail("push", result);
    return;
  }
  if (r & 2) {
    int64_t result = lookup(map, value, 0, 0, 0, 0);
    if (result == 0) check_value(value, 7);
    else if (result != -ENOENT) fail("peek", result);
    return;
  }
  int64_t result = delete(map, value, 0, 0, 0, 0);
  if (result == -ENOENT) return;
  if (result != 0) fail("pop", result);
  check_value(value, 7);
  popped++;
  popped_sum += value[0];
  uint64_t from = value[0] >> 40, number = value[0] & 0xffffffffffUL;
  if (from >= PUSHERS) fail("a value that nobody pushed", (long)from);
  /* A handler may pop between this thread's pop and this line: only its own pops are in an order that it knows. */
  if (is("queue") && !nested && operations < 0) {
    if (number <= last_seen[from]) disordered++;
    last_seen[from] = number;
  }
}

/* Hash tables of other kinds: lookups find whole values of the key's. */

static void make_key(unsigned char *key, uint32_t k) {
  memset(key, 0, key_size);
  if (is("lpm")) {
    /* Prefixes of 24 and 32 bits, of which the longer ones are in the shorter ones. */
    uint32_t length = k & 1 ? 32 : 24;
    unsigned char address[4] = {10, 0, (unsigned char)(k >> 1), k & 1};
    memcpy(key, &length, 4);
    memcpy(key + 4, address, 4);
  } else {
    memcpy(key, &k, 4);
  }
}

static void table_operation(uint64_t *state) {
  unsigned char key[64];
  uint64_t value[WORDS], r = random_number(state);
  uint32_t k = (uint32_t)((r >> 8) % keys);
  make_key(key, k);
  make_value(value, r, is("lpm") ? k / 2 : k);
  int64_t result = 0;
  switch (r & 7) {
    case 0:
    case 1:
    case 2:
    case 3: result = update(map, key, value, r & 1 ? ANY : NOEXIST, 0, 0); break;
    case 4: result = delete(map, key, 0, 0, 0, 0); break;
    default: lookup(map, key, 0, 0, 0, 0);
  }
  if (result == -ENOMEM || result == -E2BIG || result == -ENOSPC || result == -EBUSY) refused++;
  else if (result != 0 && result != -ENOENT && result != -EEXIST) fail("a hash table", result);
}

/* Per-CPU tables: each thread adds to its own values, of keys that come and stay. */

static void percpu_operation(uint64_t *state) {
  unsigned char key[64];
  uint64_t one[WORDS] = {1}, r = random_number(state);
  make_key(key, (uint32_t)(r % keys));
  for (;;) {
    uint64_t *value = (uint64_t *)lookup(map, key, 0, 0, 0, thread_number);
    if (value) {
      ++*value;
      added++;
      return;
    }
    int64_t result = update(map, key, one, NOEXIST, 0, thread_number);
    if (result == 0) {
      added++;
      return;
    }
    if (result != -EEXIST) fail("a per-CPU table", result);
  }
}

/* Stack traces: an id leads to a stack whose addresses follow from the first. */

static void trace_operation(uint64_t *state) {
  uint64_t r = random_number(state), first = 0x1000 + r % keys, count = 1 + first % 9, ips[16];
  for (uint64_t i = 0; i < count; i++) ips[i] = first + i * 0x100000;
  int64_t id = update(map, ips, (void *)count, r & 0x10000 ? 1 << 10 : 0, 0, 0);
  if (id == -EEXIST || id == -ENOMEM) refused++;
  else if (id < 0) fail("a stack trace", id);
}

static void bloom_operation(uint64_t *state) {
  uint64_t value = random_number(state) % keys;
  if (update(map, &value, 0, 0, 0, 0) != 0) fail("bloom push", 0);
  if (lookup(map, &value, 0, 0, 0, 0) != 0) torn++;
}

static void operate(uint64_t *state, int nested) {
  if (is("queue") || is("stack")) queue_operation(state, nested);
  else if (is("percpu")) percpu_operation(state);
  else if (is("trace")) trace_operation(state);
  else if (is("bloom")) bloom_operation(state);
  else table_operation(state);
}

static void on_signal(int number) {
  (void)number;
  if (!in_thread) return;
  interrupted++;
  operate(&signal_random, 1);
}

static void *thread(void *argument) {
  thread_number = (uint64_t)argument;
  uint64_t state = seed + thread_number * 1000003;
  signal_random = ~state;
  in_thread = 1;
  /* A busy machine may deliver the signals late: go on until there were some. */
  for (long i = 0; i < labs(operations) || (signals && interrupted < 50); i++) operate(&state, 0);
  in_thread = 0;
  done_threads++;
  return NULL;
}

/* Without signals where a value has one writer (the guard sees to that), and where `operations` is negative. */
static void run_threads(void) {
  pthread_t started[MAX_THREADS];
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  sigaction(SIGUSR1, &action, NULL);
  signals = !is("percpu") && operations > 0;
  for (long i = 0; i < threads; i++) pthread_create(&started[i], NULL, thread, (void *)i);
  while (done_threads < threads) {
    for (int i = 0; signals && i < threads; i++) pthread_kill(started[i], SIGUSR1);
    usleep(50);
  }
  for (int i = 0; i < threads; i++) pthread_join(started[i], NULL);
  printf("interrupted %ld\ntorn %ld\nrefused %ld\n", (long)interrupted, (long)torn, (long)refused);
  printf("pushed %ld\npopped %ld\nsum %ld\ndisordered %ld\nadded %ld\n", (long)pushed, (long)popped,
         (long)((pushed_sum - popped_sum) & 0xffffffffffUL), (long)disordered, (long)added);
}

static void run_killed(int kills) {
  uint64_t state = seed;
  for (int i = 0; i < kills; i++) {
    pid_t child = fork();
    if (child == 0) {
      uint64_t own = seed + (uint64_t)i * 77;
      for (;;) operate(&own, 0);
    }
    int status;
    usleep(200 + random_number(&state) % 1500);
    kill(child, SIGKILL);
    if (waitpid(child, &status, 0) != child || !WIFSIGNALED(status)) fail("a process ended by itself", status);
  }
  printf("kills %d\n", kills);
}

/* One operation of a queue or stack, with another one or a death after every instruction of it */

enum operation { PUSH, PUSH_EXIST, POP, PEEK, OPERATIONS };
static const char *const names[] = {"push", "push exist", "pop", "peek"};
#define MOST 3

struct contents {
  int count;
  uint64_t value[MOST + 2]; /* the oldest first */
};

struct result {
  int64_t error;
  uint64_t value;
};

static unsigned char *empty;
static int max_entries;
static volatile long steps_left, steps_taken;
static volatile int reached, abandon;
static sigjmp_buf after_death;
static enum operation nested_operation;
static struct result nested_result;

static struct result perform(enum operation o, uint64_t stamp) {
  uint64_t value[WORDS] = {0};
  struct result result = {0, 0};
  make_value(value, stamp, 7);
  if (o == PUSH || o == PUSH_EXIST) {
    result.error = update(map, value, (void *)(uintptr_t)(o == PUSH_EXIST ? EXIST : ANY), 0, 0, 0);
    return result;
  }
  result.error = (o == POP ? delete : lookup)(map, value, 0, 0, 0, 0);
  result.value = value[0];
  if (result.error == 0) check_value(value, 7);
  return result;
}

static struct result perform_on_model(struct contents *c, enum operation o, uint64_t stamp) {
  struct result result = {0, 0};
  if (o == PUSH || o == PUSH_EXIST) {
    if (c->count == max_entries) {
      if (o == PUSH) return (struct result){-E2BIG, 0};
      memmove(c->value, c->value + 1, sizeof *c->value * (size_t)--c->count);
    }
    c->value[c->count++] = stamp;
    return result;
  }
  if (c->count == 0) return (struct result){-ENOENT, 0};
  result.value = is("queue") ? c->value[0] : c->value[c->count - 1];
  if (o == PEEK) return result;
  c->count--;
  if (is("queue")) memmove(c->value, c->value + 1, sizeof *c->value * (size_t)c->count);
  return result;
}

static void on_step(int number, siginfo_t *info, void *context) {
  (void)number;
  (void)info;
  steps_taken++;
  if (--steps_left > 0) return;
  ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] &= ~0x100UL;
  reached = 1;
  if (abandon) siglongjmp(after_death, 1);
  nested_result = perform(nested_operation, 200);
}

static struct result perform_stepped(enum operation o, uint64_t stamp) {
  __asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq" ::: "memory", "cc");
  struct result result = perform(o, stamp);
  __asm__ volatile("pushfq; andq $~0x100, (%%rsp); popfq" ::: "memory", "cc");
  return result;
}

static void start_from(int count) {
  memcpy(map, empty, map_bytes);
  for (int i = 0; i < count; i++)
    if (perform(PUSH, 10 + (uint64_t)i).error != 0) fail("preparing", i);
}

static struct contents drain(void) {
  struct contents c = {0, {0}};
  for (;;) {
    struct result r = perform(POP, 0);
    if (r.error != 0) break;
    if (c.count > MOST) fail("more than fits", c.count);
    c.value[c.count++] = r.value;
  }
  if (!is("queue"))
    for (int i = 0; i < c.count / 2; i++) {
      uint64_t other = c.value[i];
      c.value[i] = c.value[c.count - 1 - i];
      c.value[c.count - 1 - i] = other;
    }
  return c;
}

static int same(const struct contents *a, const struct contents *b) {
  return a->count == b->count && memcmp(a->value, b->value, sizeof *a->value * (size_t)a->count) == 0;
}

static int same_result(struct result a, struct result b) {
  return a.error == b.error && (a.error != 0 || a.value == b.value);
}

enum order { NESTED_FIRST, OUTER_FIRST, BETWEEN, ORDERS };

/*
 * Whether an order of the two explains what was seen. BETWEEN: a push that drops the oldest first is two operations.
 * `held`: one node may be in the hands of the one under way.
 */
static int explained(int count, enum operation outer, struct result result, struct contents got, enum order order, int held) {
  struct contents c = {0, {0}};
  for (int i = 0; i < count; i++) c.value[c.count++] = 10 + (uint64_t)i;
  int most = max_entries;
  struct result o, n;
  if (order == BETWEEN) {
    if (outer != PUSH_EXIST || count < max_entries) return 0;
    memmove(c.value, c.value + 1, sizeof *c.value * (size_t)--c.count);
    max_entries -= held;
    n = perform_on_model(&c, nested_operation, 200);
    max_entries = most;
    o = perform_on_model(&c, outer, 100);
  } else if (order == OUTER_FIRST) {
    o = perform_on_model(&c, outer, 100);
    max_entries -= held;
    n = perform_on_model(&c, nested_operation, 200);
  } else {
    max_entries -= held;
    n = perform_on_model(&c, nested_operation, 200);
    max_entries = most;
    o = perform_on_model(&c, outer, 100);
  }
  max_entries = most;
  return same_result(o, result) && same_result(n, nested_result) && same(&c, &got);
}

static void step_one(enum operation outer, int count, long every) {
  abandon = 0;
  start_from(count);
  steps_left = LONG_MAX;
  long before = steps_taken;
  perform_stepped(outer, 100);
  long length = steps_taken - before;
  static volatile long at;
  for (at = 1 + (long)(random_number(&seed) % (uint64_t)every); at <= length; at += every) {
    start_from(count);
    steps_left = at;
    reached = 0;
    struct result result = perform_stepped(outer, 100);
    if (!reached) fail("an operation became shorter", at);
    refused++;
    struct contents got = drain();
    int ok = 0;
    for (int i = 0; i < 2 * ORDERS && !ok; i++) ok = explained(count, outer, result, got, i >> 1, i & 1);
    if (ok && !torn) continue;
    fprintf(stderr, "%s = %ld (%lu) from %d, %s = %ld (%lu) after %ld instructions, left %d:", names[outer],
            (long)result.error, result.value, count, names[nested_operation], (long)nested_result.error,
            nested_result.value, at, got.count);
    for (int i = 0; i < got.count; i++) fprintf(stderr, " %lu", got.value[i]);
    fail("", torn);
  }
}

/* It happened or it did not, one node at most is lost, and the rest goes on. */
static void abandon_one(enum operation outer, int count, long every) {
  abandon = 1;
  static volatile long at;
  for (at = 1 + (long)(random_number(&seed) % (uint64_t)every);; at += every) {
    start_from(count);
    steps_left = at;
    reached = 0;
    if (sigsetjmp(after_death, 1) == 0) {
      perform_stepped(outer, 100);
      if (!reached) return;
    }
    refused++;
    struct contents before = {0, {0}}, got = drain();
    for (int i = 0; i < count; i++) before.value[before.count++] = 10 + (uint64_t)i;
    struct contents after = before, dropped = before;
    perform_on_model(&after, outer, 100);
    /* A push that drops the oldest may die in between. */
    if (outer == PUSH_EXIST && count == max_entries) {
      memmove(dropped.value, dropped.value + 1, sizeof *dropped.value * (size_t)--dropped.count);
    }
    if (!same(&got, &before) && !same(&got, &after) && !same(&got, &dropped)) fail(names[outer], at);
    for (int round = 0; round < 3; round++) {
      for (int i = 0; i < max_entries - 1; i++)
        if (perform(PUSH, 50 + (uint64_t)i).error != 0) fail("a push after a death", at);
      if (drain().count != max_entries - 1) fail("pops after a death", at);
    }
  }
}

static void run_steps(long every) {
  max_entries = (int)keys;
  if (max_entries > MOST) fail("too many entries", max_entries);
  empty = malloc(map_bytes);
  memcpy(empty, map, map_bytes);
  struct sigaction action = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGTRAP, &action, NULL);
  for (int count = 0; count <= max_entries; count++)
    for (enum operation outer = 0; outer < OPERATIONS; outer++) {
      for (nested_operation = 0; nested_operation < OPERATIONS; nested_operation++) step_one(outer, count, every);
      abandon_one(outer, count, every);
    }
  memcpy(map, empty, map_bytes);
  printf("runs %ld\ntorn %ld\n", (long)refused, (long)torn);
}

int main(int argc, char **argv) {
  if (argc < 18) fail("too few arguments", argc);
  map = map_file(argv[1], argv[2], strtoul(argv[3], NULL, 10), PROT_READ | PROT_WRITE) + strtoul(argv[4], NULL, 10);
  map_bytes = strtoul(argv[5], NULL, 10);
  unsigned char *code = map_file(argv[1], argv[6], strtoul(argv[7], NULL, 10), PROT_READ | PROT_EXEC);
  lookup = (routine)(code + strtoul(argv[8], NULL, 10));
  update = (routine)(code + strtoul(argv[9], NULL, 10));
  delete = (routine)(code + strtoul(argv[10], NULL, 10));
  type = argv[11];
  seed = strtoul(argv[13], NULL, 10);
  threads = atoi(argv[14]);
  keys = (uint32_t)atol(argv[15]);
  key_size = (uint32_t)atol(argv[16]);
  operations = atol(argv[17]);
  const char *mode = argv[12];
  if (threads > MAX_THREADS || key_size > 64) fail("too many", threads);
  if (strcmp(mode, "threads") == 0) run_threads();
  else if (strcmp(mode, "kill") == 0) run_killed((int)operations);
  else if (strcmp(mode, "step") == 0) run_steps(operations);
  else fail("no such mode", 0);
  return 0;
}
