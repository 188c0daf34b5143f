/*
 * The kernel's own count of calls, to compare with: opens one counting perf event on a uprobe for each offset of
 * a file, runs a command with them, and prints `offset<TAB>hits` on standard error. The command's first thread alone
 * is watched, or, with `all`, everything on the machine that runs this code: an event that threads inherit would be
 * the third way, but Linux 6.18 reads its path again in the child and lets clone() fail.
 *
 *   uprobes one|all FILE OFFSET[,OFFSET…] COMMAND [ARGUMENT…]
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

enum { REFUSED = 77, MOST = 8192 };

static int open_event(struct perf_event_attr *attr, pid_t pid, int cpu) {
  return (int)syscall(SYS_perf_event_open, attr, pid, cpu, -1, PERF_FLAG_FD_CLOEXEC);
}

int main(int argc, char **argv) {
  if (argc < 5) return 2;
  FILE *type = fopen("/sys/bus/event_source/devices/uprobe/type", "r");
  struct perf_event_attr attr;
  memset(&attr, 0, sizeof attr);
  attr.size = sizeof attr;
  if (!type || fscanf(type, "%u", &attr.type) != 1) return REFUSED;
  fclose(type);
  int all = strcmp(argv[1], "all") == 0;
  int cpus = all ? (int)sysconf(_SC_NPROCESSORS_ONLN) : 1;
  attr.config1 = (uintptr_t)argv[2];
  attr.disabled = !all;
  attr.enable_on_exec = !all;

  int go[2];
  if (pipe(go) != 0) return 2;
  pid_t pid = fork();
  if (pid == 0) {
    char byte;
    close(go[1]);
    if (read(go[0], &byte, 1) != 1) _exit(REFUSED);
    close(go[0]);
    execvp(argv[4], argv + 4);
    _exit(127);
  }
  close(go[0]);
  static int events[MOST];
  static unsigned long long offsets[MOST];
  int n = 0;
  for (char *at = strtok(argv[3], ","); at && (n + 1) * cpus <= MOST; at = strtok(NULL, ","), n++) {
    attr.config2 = offsets[n] = strtoull(at, NULL, 0);
    for (int cpu = 0; cpu < cpus; cpu++) {
      int event = all ? open_event(&attr, -1, cpu) : open_event(&attr, pid, -1);
      if (event < 0) {
        perror("perf_event_open");
        close(go[1]);
        waitpid(pid, NULL, 0);
        return REFUSED;
      }
      events[n * cpus + cpu] = event;
    }
  }
  if (write(go[1], "g", 1) != 1) return 2;
  int status;
  waitpid(pid, &status, 0);
  for (int i = 0; i < n; i++) {
    uint64_t hits = 0;
    for (int cpu = 0; cpu < cpus; cpu++) {
      uint64_t here;
      if (read(events[i * cpus + cpu], &here, sizeof here) != sizeof here) return 2;
      hits += here;
    }
    fprintf(stderr, "%#llx\t%llu\n", offsets[i], (unsigned long long)hits);
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
