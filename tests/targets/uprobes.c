/*
 * The kernel's own count of calls, to compare with: opens one counting perf event on a uprobe for each offset of
 * a file, runs a command with them (its threads and children too), and prints `offset<TAB>hits` on standard error.
 *
 *   uprobes FILE OFFSET[,OFFSET…] COMMAND [ARGUMENT…]
 *
 * Exit status 77 where the kernel does not allow it; else the command's.
 */
#define _GNU_SOURCE
#include <linux/perf_event.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { REFUSED = 77, MOST = 4096 };

int main(int argc, char **argv) {
  if (argc < 4) return 2;
  FILE *type = fopen("/sys/bus/event_source/devices/uprobe/type", "r");
  struct perf_event_attr attr;
  memset(&attr, 0, sizeof attr);
  attr.size = sizeof attr;
  if (!type || fscanf(type, "%u", &attr.type) != 1) return REFUSED;
  fclose(type);
  attr.config1 = (uintptr_t)argv[1];
  attr.disabled = 1;
  attr.enable_on_exec = 1;
  attr.inherit = 1;

  int go[2];
  if (pipe(go) != 0) return 2;
  pid_t pid = fork();
  if (pid == 0) {
    char byte;
    close(go[1]);
    if (read(go[0], &byte, 1) != 1) _exit(REFUSED);
    close(go[0]);
    execvp(argv[3], argv + 3);
    _exit(127);
  }
  close(go[0]);
  static int events[MOST];
  static unsigned long long offsets[MOST];
  int n = 0;
  for (char *at = strtok(argv[2], ","); at && n < MOST; at = strtok(NULL, ","), n++) {
    attr.config2 = offsets[n] = strtoull(at, NULL, 0);
    events[n] = (int)syscall(SYS_perf_event_open, &attr, pid, -1, -1, PERF_FLAG_FD_CLOEXEC);
    if (events[n] < 0) {
      perror("perf_event_open");
      close(go[1]);
      waitpid(pid, NULL, 0);
      return REFUSED;
    }
  }
  if (write(go[1], "g", 1) != 1) return 2;
  int status;
  waitpid(pid, &status, 0);
  for (int i = 0; i < n; i++) {
    uint64_t hits = 0;
    if (read(events[i], &hits, sizeof hits) != sizeof hits) return 2;
    fprintf(stderr, "%#llx\t%llu\n", offsets[i], (unsigned long long)hits);
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
