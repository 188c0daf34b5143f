/*
 * C++20 coroutines: generators that call traced functions, are resumed and destroyed by them, wait for one another by
 * symmetric transfer (a tail call from one's frame to another's), and throw through those that wait.
 */
#define FUNCTIONS(X) X(plain) X(drains) X(step) X(fails) X(counted) X(sums) X(abandons)
#include "../rounds.h"
#include <coroutine>
#include <exception>
#include <utility>

extern "C" {
TRACED unsigned long plain(unsigned long x) {
  ENTER(plain);
  unsigned long y = x * 7 + 1;
  LEAVE(plain);
  return y;
}
TRACED unsigned long fails(unsigned long x) {
  ENTER(fails);
  if (x % 3 == 2) throw x;
  LEAVE(fails);
  return x;
}
}

struct Generator {
  struct promise_type {
    unsigned long value = 0;
    std::exception_ptr error;
    Generator get_return_object() { return Generator(std::coroutine_handle<promise_type>::from_promise(*this)); }
    std::suspend_always initial_suspend() noexcept { return {}; }
    std::suspend_always final_suspend() noexcept { return {}; }
    std::suspend_always yield_value(unsigned long x) { value = x; return {}; }
    void return_void() {}
    void unhandled_exception() { error = std::current_exception(); }
  };
  std::coroutine_handle<promise_type> handle;
  explicit Generator(std::coroutine_handle<promise_type> h) : handle(h) {}
  Generator(Generator &&from) : handle(std::exchange(from.handle, nullptr)) {}
  ~Generator() { if (handle) handle.destroy(); }
};

struct Task {
  struct promise_type {
    unsigned long value = 0;
    std::exception_ptr error;
    std::coroutine_handle<> waiting;
    Task get_return_object() { return Task(std::coroutine_handle<promise_type>::from_promise(*this)); }
    std::suspend_always initial_suspend() noexcept { return {}; }
    struct Last {
      bool await_ready() noexcept { return false; }
      std::coroutine_handle<> await_suspend(std::coroutine_handle<promise_type> me) noexcept {
        return me.promise().waiting ? me.promise().waiting : std::noop_coroutine();
      }
      void await_resume() noexcept {}
    };
    Last final_suspend() noexcept { return {}; }
    void return_value(unsigned long x) { value = x; }
    void unhandled_exception() { error = std::current_exception(); }
  };
  std::coroutine_handle<promise_type> handle;
  explicit Task(std::coroutine_handle<promise_type> h) : handle(h) {}
  Task(Task &&from) : handle(std::exchange(from.handle, nullptr)) {}
  ~Task() { if (handle) handle.destroy(); }
  bool await_ready() { return false; }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<> who) { handle.promise().waiting = who; return handle; }
  unsigned long await_resume() {
    if (handle.promise().error) std::rethrow_exception(handle.promise().error);
    return handle.promise().value;
  }
};

/* The function that makes the coroutine is a traced one itself. */
extern "C" TRACED Generator *counted(int n);
static Generator numbers(int n) {
  for (int i = 0; i < n; i++) {
    unsigned long x = plain(i);
    co_yield x;
    x = fails(i % 50);
    co_yield x;
  }
}
static Task work(int depth) {
  if (depth == 0) co_return plain(3);
  unsigned long below = co_await work(depth - 1);
  if (depth == 9) below += fails(below - below % 3 + 2);
  co_return plain(below) + depth;
}

extern "C" {
TRACED Generator *counted(int n) {
  ENTER(counted);
  Generator *made = new Generator(numbers(n));
  LEAVE(counted);
  return made;
}
TRACED bool step(Generator *generator) {
  ENTER(step);
  generator->handle.resume();
  bool more = !generator->handle.done();
  LEAVE(step);
  return more;
}
TRACED unsigned long drains(Generator *generator) {
  ENTER(drains);
  unsigned long sum = 0;
  while (step(generator)) sum = sum * 3 + generator->handle.promise().value;
  if (generator->handle.promise().error) sum++;
  LEAVE(drains);
  return sum;
}
/* Destroyed where it stands. */
TRACED unsigned long abandons(int n) {
  ENTER(abandons);
  Generator *generator = counted(50);
  unsigned long sum = 0;
  for (int i = 0; i < n && step(generator); i++) sum += generator->handle.promise().value;
  delete generator;
  LEAVE(abandons);
  return sum;
}
TRACED unsigned long sums(int depth) {
  ENTER(sums);
  Task task = work(depth);
  unsigned long result = 0;
  task.handle.resume();
  try {
    result = task.await_resume();
  } catch (unsigned long caught) {
    result = caught;
  }
  LEAVE(sums);
  return result;
}
}

static void one_round(void) {
  unsigned long sum = 0;
  for (int i = 0; i < 20; i++) {
    Generator *generator = counted(i);
    sum = sum * 5 + drains(generator);
    delete generator;
    sum += abandons(i);
    sum += sums(i);
  }
  printf("coroutines %lu\n", sum);
}
