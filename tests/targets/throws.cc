/*
 * C++ exceptions across many frames of traced functions: thrown, caught, rethrown, carried to another thread,
 * thrown out of libstdc++, with destructors on the way. Prints what happened, the same in every run, and
 * `name<TAB>calls` lines.
 */
#include "called.h"
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

static unsigned long calls_descend, calls_rethrow, calls_nested, calls_standard, calls_quiet, destroyed;

struct Guard {
  unsigned long *cell;
  explicit Guard(unsigned long *to) : cell(to) {}
  TRACED ~Guard() { ++*cell; }
};
struct Custom : std::runtime_error {
  int depth;
  Custom(int d) : std::runtime_error("depth " + std::to_string(d)), depth(d) {}
};

extern "C" {
TRACED int descend(int depth) {
  calls_descend++;
  Guard guard(&destroyed);
  if (depth == 0) throw Custom(7);
  int below = descend(depth - 1);
  USE(below);
  return below + 1;
}
TRACED int rethrow(int depth) {
  calls_rethrow++;
  Guard guard(&destroyed);
  try {
    if (depth == 0) throw std::out_of_range("bottom");
    int below = rethrow(depth - 1);
    USE(below);
    return below;
  } catch (const std::out_of_range &) {
    if (depth % 2) throw;
    std::throw_with_nested(std::out_of_range("level " + std::to_string(depth)));
  }
}
TRACED int nested(const std::exception &error) {
  calls_nested++;
  int depth = 1;
  try {
    std::rethrow_if_nested(error);
  } catch (const std::exception &inner) {
    depth += nested(inner);
  }
  return depth;
}
/* Exceptions that start in libstdc++ and cross into this program. */
TRACED int standard(int which) {
  calls_standard++;
  Guard guard(&destroyed);
  switch (which % 6) {
  case 0: return std::vector<int>(3).at(5);
  case 1: return std::stoi("not a number");
  case 2: return (int)std::string("short").substr(9).size();
  case 3: return std::function<int()>()();
  case 4: return dynamic_cast<const Custom &>(static_cast<const std::exception &>(std::logic_error(""))).depth;
  default: return (int)std::vector<int>().max_size() + (new std::string(std::string().max_size(), 'x'))->size();
  }
}
TRACED int quiet(int x) noexcept { calls_quiet++; return x + 1; }
}

int main() {
  long sum = 0;
  for (int i = 0; i < 500; i++) {
    try {
      sum += descend(i % 60);
    } catch (const Custom &caught) {
      sum += caught.depth + quiet((int)std::string(caught.what()).size());
    }
  }
  std::printf("descend %ld\n", sum);
  int levels = 0;
  for (int i = 0; i < 40; i++) {
    try {
      rethrow(i);
    } catch (const std::exception &error) {
      levels += nested(error);
    }
  }
  std::printf("rethrow %d\n", levels);
  std::string said;
  for (int i = 0; i < 60; i++) {
    try {
      sum += standard(i);
    } catch (const std::exception &error) {
      if (i < 6) said += std::string(error.what()) + ";";
      sum += quiet(i);
    }
  }
  std::printf("standard %ld %s\n", sum, said.c_str());
  std::exception_ptr carried;
  for (int i = 0; i < 20; i++) {
    std::thread thrower([&] {
      try {
        descend(20);
      } catch (...) {
        carried = std::current_exception();
      }
    });
    thrower.join();
    try {
      std::rethrow_exception(carried);
    } catch (const Custom &caught) {
      sum += caught.depth;
    }
  }
  std::printf("threads %ld\n", sum);
  std::printf("descend\t%lu\nrethrow\t%lu\nnested\t%lu\nstandard\t%lu\nquiet\t%lu\n", calls_descend, calls_rethrow,
              calls_nested, calls_standard, calls_quiet);
  std::printf("destroyed %lu\n", destroyed);
  return 0;
}
