/*
 * Programs that end by an exception: argument `uncaught`, `noexcept`, `thread`, `nothing` (rethrown where there is none),
 * `destructor` or `handler`. Prints `pid P`, waits for a line, and ends as the C++ runtime does.
 */
#include "../called.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>
#include <unistd.h>

extern "C" {
TRACED int bottom(int depth) {
  if (depth == 0) throw std::runtime_error("thrown at the bottom");
  int below = bottom(depth - 1);
  USE(below);
  return below + 1;
}
TRACED int promises(int depth) noexcept { return bottom(depth) + 1; }
TRACED int nothing(int depth) {
  if (depth == 0) throw;
  int below = nothing(depth - 1);
  USE(below);
  return below;
}
}
struct Throws {
  ~Throws() { bottom(3); }
};

int main(int argc, char **argv) {
  const char *how = argc > 1 ? argv[1] : "";
  char c;
  std::printf("pid %d\n", getpid());
  std::fflush(stdout);
  while (read(0, &c, 1) == 1 && c != '\n') {
  }
  if (!std::strcmp(how, "uncaught")) return bottom(10);
  if (!std::strcmp(how, "noexcept")) return promises(10);
  if (!std::strcmp(how, "nothing")) return nothing(10);
  if (!std::strcmp(how, "thread")) {
    std::thread([] { bottom(10); }).join();
    return 1;
  }
  if (!std::strcmp(how, "destructor")) {
    Throws throws;
    return 1;
  }
  if (!std::strcmp(how, "handler")) {
    std::set_terminate([] {
      try {
        std::rethrow_exception(std::current_exception());
      } catch (const std::exception &error) {
        std::printf("the last handler got: %s\n", error.what());
      }
      std::fflush(stdout);
      std::_Exit(3);
    });
    return promises(5);
  }
  return 2;
}
