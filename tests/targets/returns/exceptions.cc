/*
 * C++ exceptions through traced frames: caught outside of them and inside, rethrown, nested, thrown by destructors that
 * run while another one unwinds, carried by exception_ptr to other threads, thrown across function-try-blocks, past
 * alloca and out of libstdc++; and the forced unwinding of pthread_exit, which runs destructors too.
 */
#define FUNCTIONS(X)                                                                                                  \
  X(thrower) X(catcher) X(rethrower) X(nester) X(outer) X(inner) X(cleaned) X(unwound) X(carried) X(tried) X(library) \
      X(leaves) X(mixer) X(wide)
#include "../rounds.h"
#include <alloca.h>
#include <cxxabi.h>
#include <exception>
#include <pthread.h>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

struct Custom : std::runtime_error {
  int depth;
  explicit Custom(int d) : std::runtime_error("depth " + std::to_string(d)), depth(d) {}
};

extern "C" {
TRACED int cleaned(int x) {
  ENTER(cleaned);
  int y = x * 3 + 1;
  LEAVE(cleaned);
  return y;
}
static int swept;
/* A destructor that an exception runs: it calls traced functions, and throws and catches one of its own. */
TRACED int unwound(int x) {
  ENTER(unwound);
  try {
    if (x % 3 == 0) throw x;
  } catch (int caught) {
    swept += cleaned(caught);
  }
  LEAVE(unwound);
  return cleaned(x);
}
}
struct Guard {
  int x;
  explicit Guard(int n) : x(n) {}
  ~Guard() { swept += unwound(x) + std::uncaught_exceptions(); }
};

extern "C" {
/* Thrown at the bottom; nobody here catches it. */
TRACED int thrower(int depth) {
  ENTER(thrower);
  Guard guard(depth);
  if (depth == 0) throw Custom(7);
  int below = thrower(depth - 1);
  USE(below);
  LEAVE(thrower);
  return below + 1;
}
/* Caught in the traced function itself, which returns. */
TRACED int catcher(int depth) {
  ENTER(catcher);
  int result;
  try {
    result = thrower(depth);
  } catch (const Custom &caught) {
    result = caught.depth + (int)std::string(caught.what()).size();
  }
  LEAVE(catcher);
  return result;
}
/* Every level catches and throws it again; the odd ones a new one out of the handler. */
TRACED int rethrower(int depth) {
  ENTER(rethrower);
  try {
    if (depth == 0) throw Custom(1);
    int below = rethrower(depth - 1);
    USE(below);
    LEAVE(rethrower);
    return below;
  } catch (const Custom &caught) {
    if (depth % 2) throw Custom(caught.depth + 1);
    throw;
  }
}
TRACED int nester(const std::exception &error) {
  ENTER(nester);
  int depth = 1;
  try {
    std::rethrow_if_nested(error);
  } catch (const std::exception &within) {
    depth += nester(within);
  }
  LEAVE(nester);
  return depth;
}
/* A traced function throws, another one in between lets it pass, and a third one catches, again and again. */
TRACED int inner(int x) {
  ENTER(inner);
  if (x % 2) throw x;
  LEAVE(inner);
  return x;
}
TRACED int outer(int x) {
  ENTER(outer);
  Guard guard(x);
  int y = inner(x) + 1;
  USE(y);
  LEAVE(outer);
  return y;
}
TRACED int carried(std::exception_ptr *error) {
  ENTER(carried);
  int depth = 0;
  try {
    std::rethrow_exception(*error);
  } catch (const Custom &caught) {
    depth = caught.depth;
  }
  LEAVE(carried);
  return depth;
}
TRACED int tried(int x) try {
  ENTER(tried);
  int y = outer(x);
  LEAVE(tried);
  return y;
} catch (int caught) {
  LEAVE(tried);
  return -caught;
}
TRACED int library(int which) {
  ENTER(library);
  Guard guard(which);
  int result = 0;
  switch (which % 4) {
  case 0: result = std::vector<int>(3).at(5); break;
  case 1: result = std::stoi("not a number"); break;
  case 2: result = (int)std::string("short").substr(9).size(); break;
  default: result = (int)std::string(std::string().max_size(), 'x').size();
  }
  LEAVE(library);
  return result;
}
TRACED void leaves(int depth) {
  ENTER(leaves);
  Guard guard(depth);
  try {
    if (depth == 0) pthread_exit((void *)77);
    leaves(depth - 1);
  } catch (abi::__forced_unwind &) {
    swept += 1000;
    throw;
  }
  USE(depth);
  LEAVE(leaves);
}
TRACED long mixer(long x) {
  ENTER(mixer);
  long y = x * 31 + 7;
  LEAVE(mixer);
  return y;
}
/* A frame whose size is known at run time only. */
TRACED int wide(int n) {
  ENTER(wide);
  volatile char *room = (volatile char *)alloca(n + 1);
  room[n] = 3;
  int below = thrower(n % 5);
  USE(below);
  LEAVE(wide);
  return below + room[n];
}
}

static long churn(int rounds) {
  long sum = 0;
  for (int i = 0; i < rounds; i++) {
    sum += catcher(i % 20) + mixer(i) % 97 + tried(i);
    try {
      sum += outer(i);
    } catch (int caught) {
      sum += caught * 2;
    }
  }
  return sum;
}

static void one_round(void) {
  swept = 0;
  int sum = 0;
  for (int i = 0; i < 100; i++) {
    try {
      sum += thrower(i % 40);
    } catch (const Custom &caught) {
      sum += caught.depth;
    }
    sum += catcher(i % 30);
    try {
      sum += wide(i * 10);
    } catch (const Custom &caught) {
      sum += caught.depth;
    }
    sum += tried(i);
  }
  printf("caught %d swept %d\n", sum, swept);
  int levels = 0;
  for (int i = 0; i < 30; i++) {
    try {
      rethrower(i);
    } catch (const Custom &caught) {
      levels += caught.depth;
      try {
        try {
          thrower(3);
        } catch (...) {
          std::throw_with_nested(std::logic_error("around"));
        }
      } catch (const std::exception &error) {
        levels += nester(error);
      }
    }
  }
  printf("levels %d\n", levels);
  std::string said;
  for (int i = 0; i < 40; i++) {
    try {
      sum += library(i);
    } catch (const std::exception &error) {
      if (i < 4) said += std::string(error.what()) + ";";
    }
  }
  printf("library %s\n", said.c_str());
  std::exception_ptr error;
  for (int i = 0; i < 10; i++) {
    std::thread throws([&] {
      try {
        thrower(20);
      } catch (...) {
        error = std::current_exception();
      }
    });
    throws.join();
    sum += carried(&error);
  }
  printf("carried %d swept %d\n", sum, swept);
  long left = 0;
  for (int i = 0; i < 5; i++) {
    pthread_t thread;
    void *result;
    pthread_create(&thread, NULL, [](void *depth) -> void * { leaves((int)(long)depth); return NULL; }, (void *)(long)(i * 5));
    pthread_join(thread, &result);
    left += (long)result;
  }
  printf("left %ld swept %d\n", left, swept);
  long sums[4];
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++) threads.emplace_back([&, t] { sums[t] = churn(200); });
  for (auto &thread : threads) thread.join();
  printf("churned %ld %ld %ld %ld\n", sums[0], sums[1], sums[2], sums[3]);
}
