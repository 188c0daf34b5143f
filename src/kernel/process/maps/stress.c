/*
 * Runs the map routines from outside node, for hash.stress.test.ts: on many threads with signals at any moment,
 * in processes that are killed at any moment, and with a signal or a death after every single instruction.
 * The offsets of the layout come from layout.ts, as -D definitions.
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
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

typedef uint64_t (*lookup_fn)(void *map, const void *key);
typedef int64_t (*update_fn)(void *map, const void *key, const void *value, uint64_t flags);
typedef int64_t (*delete_fn)(void *map, const void *key);

enum { ANY, NOEXIST, EXIST };

static unsigned char *map;
static lookup_fn lookup;
static update_fn update;
static delete_fn delete;
static uint32_t key_size, value_size, value_offset;

static void fail(const char *what, long number) {
  fprintf(stderr, "%s (%ld)\n", what, number);
  exit(1);
}

static void *map_file(const char *pid, const char *fd, size_t size, int prot) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%s/fd/%s", pid, fd);
  int file = open(path, prot & PROT_WRITE ? O_RDWR : O_RDONLY);
  if (file < 0) fail(path, errno);
  void *at = mmap(NULL, size, prot, MAP_SHARED, file, 0);
  if (at == MAP_FAILED) fail("mmap", errno);
  close(file);
  return at;
}

static uint32_t u32(const void *at) { return *(const volatile uint32_t *)at; }
static uint64_t u64(const void *at) { return *(const volatile uint64_t *)at; }

static uint64_t random_number(uint64_t *state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

/* Key number `k` in key_size bytes: every byte depends on it, and the first four are unique. */
static void make_key(unsigned char *key, uint32_t k) {
  for (uint32_t i = 0; i < key_size; i++) key[i] = (unsigned char)(k >> (8 * (i & 3))) ^ (unsigned char)(i >> 2);
}

/* Threads */

static uint32_t keys;
static long operations;
static uint64_t seed;
static _Atomic long done_threads;
static _Atomic int64_t balance[1 << 16];
static _Atomic long torn, missed_increments, interrupted, errors_busy, errors_full;
static __thread uint64_t signal_random;
static __thread int in_thread;
static int counting;

#define VALUE_WORDS 4

/* Adds one to the key's counter, inserting it first where it is new. */
static void increment(uint64_t *state) {
  unsigned char key[64];
  make_key(key, (uint32_t)(random_number(state) % keys));
  for (;;) {
    _Atomic uint64_t *value = (_Atomic uint64_t *)lookup(map, key);
    if (value) {
      atomic_fetch_add(value, 1);
      return;
    }
    uint64_t first[VALUE_WORDS] = {1};
    int64_t result = update(map, key, first, NOEXIST);
    if (result == 0) return;
    if (result != -EEXIST) {
      missed_increments++;
      return;
    }
  }
}

/* Reads a value of four words that belong together, and says if they do not. */
static void read_value(const unsigned char *key, uint32_t k) {
  const unsigned char *value = (const unsigned char *)lookup(map, key);
  if (!value) return;
  const unsigned char *node = value - value_offset;
  uint64_t words[VALUE_WORDS];
  uint64_t before = u64(node + AT_NODE_NEXT);
  if (before & AT_WORD_MARK || memcmp(node + AT_NODE_KEY, key, key_size) != 0) return;
  for (int i = 0; i < VALUE_WORDS; i++) words[i] = u64(value + 8 * i);
  if (u64(node + AT_NODE_NEXT) != before) return;
  if (words[1] != (words[0] ^ k) || words[2] != ~words[0] || words[3] != words[0] * 3) torn++;
}

static void churn(uint64_t *state) {
  unsigned char key[64];
  uint64_t r = random_number(state);
  uint32_t k = (uint32_t)((r >> 8) % keys);
  make_key(key, k);
  uint64_t value[VALUE_WORDS] = {r, r ^ k, ~r, r * 3};
  int64_t result = 0;
  switch (r & 7) {
    case 0:
    case 1:
      result = update(map, key, value, NOEXIST);
      if (result == 0) balance[k]++;
      else if (result != -EEXIST && result != -E2BIG) fail("update NOEXIST", result);
      break;
    case 2:
    case 3:
    case 4:
      result = update(map, key, value, EXIST);
      if (result != 0 && result != -ENOENT && result != -EBUSY) fail("update EXIST", result);
      break;
    case 5:
      result = delete(map, key);
      if (result == 0) balance[k]--;
      else if (result != -ENOENT) fail("delete", result);
      break;
    default:
      read_value(key, k);
  }
  if (result == -EBUSY) errors_busy++;
  if (result == -E2BIG) errors_full++;
}

static void operate(uint64_t *state) {
  if (counting) increment(state);
  else churn(state);
}

static void on_signal(int number) {
  (void)number;
  if (!in_thread) return;
  interrupted++;
  operate(&signal_random);
}

static void *thread(void *argument) {
  uint64_t state = seed + (uint64_t)argument * 1000003;
  signal_random = ~state;
  in_thread = 1;
  for (long i = 0; i < operations; i++) operate(&state);
  in_thread = 0;
  done_threads++;
  return NULL;
}

static void run_threads(int count) {
  pthread_t threads[64];
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  sigaction(SIGUSR1, &action, NULL);
  for (long i = 0; i < count; i++) pthread_create(&threads[i], NULL, thread, (void *)i);
  while (done_threads < count) {
    for (int i = 0; i < count; i++) pthread_kill(threads[i], SIGUSR1);
    usleep(50);
  }
  for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
  printf("operations %ld\n", count * operations + interrupted);
  printf("interrupted %ld\n", (long)interrupted);
  printf("missed %ld\n", (long)missed_increments);
  printf("torn %ld\n", (long)torn);
  printf("busy %ld\n", (long)errors_busy);
  printf("full %ld\n", (long)errors_full);
  if (!counting)
    for (uint32_t k = 0; k < keys; k++)
      if (balance[k]) printf("balance %u %ld\n", k, (long)balance[k]);
}

/* Processes that are killed anywhere, while others go on */

static void churn_for_ever(uint64_t state) {
  for (;;) churn(&state);
}

/* Kills a child, which must have been running until then. */
static void end(pid_t child) {
  int status;
  kill(child, SIGKILL);
  if (waitpid(child, &status, 0) != child || !WIFSIGNALED(status)) fail("a process ended by itself", status);
}

static void run_killed(int kills) {
  uint64_t state = seed;
  pid_t survivor = fork();
  if (survivor == 0) churn_for_ever(seed + 1);
  for (int i = 0; i < kills; i++) {
    pid_t child = fork();
    if (child == 0) churn_for_ever(random_number(&state) + (uint64_t)i);
    usleep(200 + random_number(&state) % 1500);
    end(child);
  }
  end(survivor);
  printf("kills %d\n", kills + 1);
}

/* One operation, interrupted or abandoned after every instruction of it */

enum operation { LOOKUP, UPDATE_ANY, UPDATE_NOEXIST, UPDATE_EXIST, DELETE, OPERATIONS };
static const char *const names[] = {"lookup", "update any", "update noexist", "update exist", "delete"};

#define STEP_KEYS 3
#define TRAP_FLAG 0x100UL

struct state {
  uint64_t value[STEP_KEYS]; /* 0 is not in the map */
};

struct step {
  enum operation operation;
  int key;
  uint64_t value; /* what an update writes */
};

static uint32_t max_entries;
static unsigned char step_key[STEP_KEYS][64];
static unsigned char *empty;
static size_t map_bytes;

static int64_t perform(const struct step *s) {
  uint64_t value[VALUE_WORDS] = {s->value, s->value, s->value, s->value};
  const unsigned char *key = step_key[s->key];
  switch (s->operation) {
    case LOOKUP: {
      uint64_t at = lookup(map, key);
      return at ? (int64_t)u64((void *)at) : 0;
    }
    case UPDATE_ANY: return update(map, key, value, ANY);
    case UPDATE_NOEXIST: return update(map, key, value, NOEXIST);
    case UPDATE_EXIST: return update(map, key, value, EXIST);
    default: return delete(map, key);
  }
}

static int64_t perform_on_model(struct state *m, const struct step *s) {
  uint64_t *value = &m->value[s->key];
  uint32_t size = 0;
  for (int k = 0; k < STEP_KEYS; k++) size += m->value[k] != 0;
  switch (s->operation) {
    case LOOKUP: return (int64_t)*value;
    case DELETE:
      if (!*value) return -ENOENT;
      *value = 0;
      return 0;
    case UPDATE_NOEXIST:
      if (*value) return -EEXIST;
      break;
    case UPDATE_EXIST:
      if (!*value) return -ENOENT;
      break;
    default:;
  }
  if (!*value && size >= max_entries) return -E2BIG;
  *value = s->value;
  return 0;
}

static struct state read_state(void) {
  struct state got;
  for (int k = 0; k < STEP_KEYS; k++) {
    struct step s = {LOOKUP, k, 0};
    got.value[k] = (uint64_t)perform(&s);
  }
  return got;
}

/* Walks all lists; returns how many nodes are in none of them, and how many are deleted and still linked. */
static long lost_nodes(long *marked) {
  uint64_t nodes = u64(map + AT_HASH_NODES), pool = u64(map + AT_HASH_POOL), size = u32(map + AT_HASH_NODE_SIZE);
  static unsigned char seen[4096];
  memset(seen, 0, sizeof seen);
  uint64_t found = 0;
  for (int list = 0; list < 2 + (int)(u64(map + AT_HASH_BUCKET_MASK) + 1); list++) {
    int is_free = list < 2;
    unsigned char *word = list == 0 ? map + AT_HASH_FREE : list == 1 ? map + AT_HASH_SPARE : map + AT_HASH_BUCKETS + 8 * (list - 2);
    for (;;) {
      uint64_t offset = (u32(word) & ~(uint32_t)AT_WORD_FLAGS) * 2UL;
      if (offset == 0) break;
      if (offset < pool || (offset - pool) % size || (offset - pool) / size >= nodes) fail("a bad link", (long)offset);
      if (seen[(offset - pool) / size]++) fail("a node in two lists", (long)offset);
      found++;
      word = map + offset + (is_free ? AT_NODE_NEXT_FREE : AT_NODE_NEXT);
      if (!is_free && u32(word) & AT_WORD_MARK) ++*marked;
    }
  }
  return (long)(nodes - found);
}

static struct step nested;
static int64_t nested_result;
static volatile long steps_left, steps_taken;
static volatile int reached, abandon;
static sigjmp_buf after_death;

/* A second nested operation, of which only `halt_after` instructions run, as if its thread were stopped there. */
static const struct step *halted;
static volatile long halt_after;
static volatile int in_halted, halted_ended;
static sigjmp_buf after_halt;
static int64_t perform_stepped(const struct step *s);

/* The handler runs without the trap flag; clearing it in the frame ends the stepping. */
static void on_step(int number, siginfo_t *info, void *context) {
  (void)number;
  (void)info;
  ucontext_t *at = context;
  steps_taken++;
  if (in_halted) {
    if (--halt_after <= 0) siglongjmp(after_halt, 1);
    return;
  }
  if (--steps_left > 0) return;
  at->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
  reached = 1;
  if (abandon) siglongjmp(after_death, 1);
  nested_result = perform(&nested);
  if (!halted) return;
  in_halted = 1;
  if (sigsetjmp(after_halt, 1) == 0) {
    perform_stepped(halted);
    halted_ended = 1;
  }
  in_halted = 0;
}

/* perform() with the trap flag on: the handler runs after every instruction, until it has had enough. */
static int64_t perform_stepped(const struct step *s) {
  __asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq" ::: "memory", "cc");
  int64_t result = perform(s);
  __asm__ volatile("pushfq; andq $~0x100, (%%rsp); popfq" ::: "memory", "cc");
  return result;
}

static void start_from(const struct state *start) {
  memcpy(map, empty, map_bytes);
  /* Key 0 comes last, so that it stands behind key 1 in their bucket. */
  for (int k = STEP_KEYS - 1; k >= 0; k--) {
    struct step s = {UPDATE_ANY, k, start->value[k]};
    if (start->value[k] && perform(&s) != 0) fail("preparing", k);
  }
}

/* Key 1 shares the bucket of key 0, key 2 does not. */
static void choose_step_keys(void) {
  uint32_t candidate = 5, bucket = 0;
  for (int k = 0; k < STEP_KEYS; candidate++) {
    make_key(step_key[k], candidate);
    struct step insert = {UPDATE_ANY, k, 1};
    memcpy(map, empty, map_bytes);
    perform(&insert);
    uint32_t at = 0;
    while (u32(map + AT_HASH_BUCKETS + 8 * at) == 0) at++;
    if (k == 0) bucket = at;
    if ((at == bucket) == (k < 2)) k++;
  }
}

static int same_state(const struct state *a, const struct state *b) { return memcmp(a, b, sizeof *a) == 0; }

static void complain(const struct step *outer, const struct state *start, long at, int64_t result, struct state got) {
  fprintf(stderr, "%s key %d = %ld from {%lu %lu %lu}, ", names[outer->operation], outer->key, (long)result,
          start->value[0], start->value[1], start->value[2]);
  if (abandon) fprintf(stderr, "abandoned");
  else fprintf(stderr, "%s key %d = %ld", names[nested.operation], nested.key, (long)nested_result);
  fprintf(stderr, " after %ld instructions, left {%lu %lu %lu}\n", at, got.value[0], got.value[1], got.value[2]);
  exit(1);
}

static long runs;

/* How many instructions an operation takes. */
static long measure(const struct step *s, const struct state *start) {
  long before = steps_taken;
  start_from(start);
  steps_left = LONG_MAX;
  perform_stepped(s);
  return steps_taken - before;
}

/* The result must be that of one operation after the other, in one of the two orders. */
static void interrupt_everywhere(const struct step *outer, const struct state *start, long length, long every) {
  for (long at = 1 + (long)(random_number(&seed) % (uint64_t)every); at <= length; at += every) {
    start_from(start);
    steps_left = at;
    reached = 0;
    int64_t result = perform_stepped(outer);
    if (!reached) fail("an operation became shorter", at);
    runs++;
    long marked = 0, lost = lost_nodes(&marked);
    struct state got = read_state(), one = *start, two = *start;
    int64_t outer_first = perform_on_model(&one, outer), nested_second = perform_on_model(&one, &nested);
    int64_t nested_first = perform_on_model(&two, &nested), outer_second = perform_on_model(&two, outer);
    int ok = (result == outer_first && nested_result == nested_second && same_state(&got, &one)) ||
             (result == outer_second && nested_result == nested_first && same_state(&got, &two));
    if (!ok && nested_result == -E2BIG) {
      /* The interrupted operation may hold the last node: then the nested insert finds the map full. */
      uint32_t size = 1;
      for (int k = 0; k < STEP_KEYS; k++) size += start->value[k] != 0;
      struct state alone = *start;
      ok = size >= max_entries && outer->operation != LOOKUP && result == perform_on_model(&alone, outer) &&
           same_state(&got, &alone);
    }
    if (!ok) complain(outer, start, at, result, got);
    if (lost || marked) complain(outer, start, at, -1000 - 100 * marked - lost, got);
  }
}

/* Whether some order of the three operations explains what they returned and left; the halted one may be left out. */
static int explained(const struct step *outer, int64_t result, const struct state *start, const struct state *got) {
  const struct step *orders[][3] = {{outer, &nested, NULL},   {&nested, outer, NULL},   {outer, &nested, halted},
                                    {&nested, outer, halted}, {&nested, halted, outer}};
  for (size_t i = 0; i < sizeof orders / sizeof *orders; i++) {
    struct state model = *start;
    int ok = 1;
    for (int j = 0; j < 3; j++) {
      const struct step *s = orders[i][j];
      if (!s) continue;
      /* The halted one may hold the last node. */
      if (s == outer && result == -E2BIG) continue;
      int64_t wanted = perform_on_model(&model, s);
      if ((s == outer && wanted != result) || (s == &nested && wanted != nested_result)) ok = 0;
    }
    if (ok && same_state(&model, got)) return 1;
  }
  return 0;
}

/* An operation is interrupted by a whole one and a half: the node that it looks at goes and comes back in other hands. */
static void halt_everywhere(const struct step *outer, const struct state *start, long length, long every) {
  for (long at = 1 + (long)(random_number(&seed) % (uint64_t)every); at <= length; at += every) {
    halted_ended = 0;
    for (long half = 1 + (long)(random_number(&seed) % (uint64_t)every); !halted_ended; half += every) {
      start_from(start);
      steps_left = at;
      halt_after = half;
      reached = 0;
      int64_t result = perform_stepped(outer);
      if (!reached) fail("an operation became shorter", at);
      runs++;
      long marked = 0, lost = lost_nodes(&marked);
      struct state got = read_state();
      if (lost > 1 || !explained(outer, result, start, &got)) {
        fprintf(stderr, "%s key %d halted after %ld instructions: ", names[halted->operation], halted->key, half);
        complain(outer, start, at, result, got);
      }
    }
  }
}

/* The operation happened or it did not; at most one node is lost; and the map goes on working. */
static void abandon_everywhere(const struct step *outer, const struct state *start, long length, long every) {
  static volatile long at;
  for (at = 1 + (long)(random_number(&seed) % (uint64_t)every); at <= length; at += every) {
    start_from(start);
    steps_left = at;
    reached = 0;
    int64_t result = 0;
    if (sigsetjmp(after_death, 1) == 0) {
      result = perform_stepped(outer);
      if (!reached) fail("an operation became shorter", at);
    }
    runs++;
    struct state got = read_state(), applied = *start;
    perform_on_model(&applied, outer);
    if (!same_state(&got, start) && !same_state(&got, &applied)) complain(outer, start, at, result, got);
    for (int k = 0; k < STEP_KEYS; k++) {
      /* Two entries less one lost node: one key at a time must still fit. */
      struct step insert = {UPDATE_ANY, k, 77}, drop = {DELETE, k, 0};
      for (int other = 0; other < STEP_KEYS; other++) {
        struct step clear = {DELETE, other, 0};
        perform(&clear);
      }
      if (perform(&insert) != 0 || perform(&insert) != 0) complain(outer, start, at, -2000, read_state());
      struct state now = read_state();
      if (now.value[k] != 77 || perform(&drop) != 0) complain(outer, start, at, -3000, now);
    }
    long marked = 0, lost = lost_nodes(&marked);
    if (lost > 1) complain(outer, start, at, -1000 - lost, got);
  }
}

static void run_steps(long every) {
  max_entries = u32(map + AT_MAP_MAX_ENTRIES);
  map_bytes = u64(map + AT_HASH_POOL) + u64(map + AT_HASH_NODES) * u32(map + AT_HASH_NODE_SIZE);
  empty = malloc(map_bytes);
  memcpy(empty, map, map_bytes);
  choose_step_keys();
  struct sigaction action = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGTRAP, &action, NULL);

  static const struct state starts[] = {{{0, 0, 0}}, {{11, 0, 0}}, {{0, 12, 0}}, {{11, 12, 0}}, {{0, 12, 13}}};
  for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
    for (enum operation o = 0; o < OPERATIONS; o++) {
      struct step outer = {o, 0, 100};
      long length = measure(&outer, &starts[i]);
      abandon = 0;
      for (enum operation n = 0; n < OPERATIONS; n++) {
        for (int k = 0; k < 2; k++) {
          nested = (struct step){n, k, 200};
          interrupt_everywhere(&outer, &starts[i], length, every);
        }
      }
      abandon = 1;
      abandon_everywhere(&outer, &starts[i], length, every / 4 + 1);
    }
  }

  /* No lookup: what a program reads through an address that it was given earlier may be another key's by then. */
  static const enum operation interrupted_ones[] = {UPDATE_ANY, UPDATE_EXIST, DELETE};
  abandon = 0;
  for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
    if (!starts[i].value[0]) continue;
    for (int o = 0; o < 3; o++) {
      for (int k = 0; k < 2; k++) {
        struct step outer = {interrupted_ones[o], 0, 100}, half = {UPDATE_ANY, k, 300};
        halted = NULL;
        long length = measure(&outer, &starts[i]);
        nested = (struct step){DELETE, 0, 0};
        halted = &half;
        halt_everywhere(&outer, &starts[i], length, every / 3 + 3);
      }
    }
  }
  memcpy(map, empty, map_bytes);
  printf("runs %ld\n", runs);
  printf("steps %ld\n", steps_taken);
}

int main(int argc, char **argv) {
  if (argc < 14) fail("too few arguments", argc);
  unsigned char *data = map_file(argv[1], argv[2], strtoul(argv[3], NULL, 10), PROT_READ | PROT_WRITE);
  map = data + strtoul(argv[4], NULL, 10);
  unsigned char *code = map_file(argv[1], argv[5], strtoul(argv[6], NULL, 10), PROT_READ | PROT_EXEC);
  lookup = (lookup_fn)(code + strtoul(argv[7], NULL, 10));
  update = (update_fn)(code + strtoul(argv[8], NULL, 10));
  delete = (delete_fn)(code + strtoul(argv[9], NULL, 10));
  key_size = u32(map + AT_MAP_KEY_SIZE);
  value_size = u32(map + AT_MAP_VALUE_SIZE);
  value_offset = u32(map + AT_HASH_VALUE_OFFSET);
  const char *mode = argv[10];
  seed = strtoul(argv[11], NULL, 10);
  long count = atol(argv[12]);
  keys = (uint32_t)atol(argv[13]);
  if (keys > sizeof balance / sizeof *balance) fail("too many keys", keys);
  if (argc > 14) operations = atol(argv[14]);
  counting = strcmp(mode, "count") == 0;
  if (counting || strcmp(mode, "churn") == 0) run_threads((int)count);
  else if (strcmp(mode, "kill") == 0) run_killed((int)count);
  else if (strcmp(mode, "step") == 0) run_steps(count);
  else fail("no such mode", 0);
  return 0;
}
