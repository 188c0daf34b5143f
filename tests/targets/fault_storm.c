// Threads that call `routine` with bad and good addresses, as code of ours would be called, and check what it says.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

typedef long (*probe_read)(void *to, unsigned size, const void *from);
volatile probe_read routine;
volatile probe_read routine_str;
volatile int go;
volatile unsigned long rounds;
static volatile int stop;
static long failed;

static char *none, *past_end, *moving;

static void wrong(const char *what, long i) {
    if (__sync_fetch_and_add(&failed, 1) < 5) fprintf(stderr, "wrong: %s, round %ld\n", what, i);
}

static void *storm(void *arg) {
    long limit = (long)arg;
    for (long i = 0; i < limit && !stop; i++) {
        char to[32];
        memset(to, 'x', sizeof to);
        const void *bad[] = {0, (void *)1, (void *)0xdead000000000000, none, past_end};
        const void *from = bad[i % 5];
        long r = routine(to, 1 + i % 24, from);
        if (r != -EFAULT) wrong("result of a bad address", i);
        for (int k = 0; k < 1 + i % 24; k++) if (to[k] != 0) wrong("not zeroed", i);
        if (to[1 + i % 24] != 'x') wrong("too much zeroed", i);
        if (routine(to, 6, "hello") != 0 || strcmp(to, "hello")) wrong("a good address", i);
        if (i % 7 == 0 && routine_str(to, 32, none - 4) != -EFAULT) wrong("a string into nothing", i);
        if (i % 7 == 1 && (routine_str(to, 32, none - 16) != 9 || strcmp(to, "12345678"))) wrong("a string at the end", i);
        r = routine(to, 8, moving);
        if (r != 0 && r != -EFAULT) wrong("a moving address", i);
        __sync_fetch_and_add(&rounds, 1);
    }
    return 0;
}

static void *mover(void *arg) {
    (void)arg;
    while (!stop) {
        munmap(moving, 4096);
        mmap(moving, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        usleep(50);
    }
    return 0;
}

static void *nothing(void *arg) { return arg; }

static volatile sig_atomic_t own_faults;
static char *volatile own_page;
static void on_segv(int s, siginfo_t *info, void *context) {
    (void)s; (void)context;
    if (info->si_addr != own_page) { write(2, "wrong: own fault elsewhere\n", 27); _exit(9); }
    own_faults++;
    mprotect(own_page, 4096, PROT_READ | PROT_WRITE);
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 4;
    long limit = argc > 2 ? atol(argv[2]) : 1000;
    const char *mode = argc > 3 ? argv[3] : "";
    char *base = mmap(0, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(base + 4096 - 16, "12345678", 9);
    memset(base + 4096 - 7, 'y', 7);
    none = base + 4096;
    mprotect(none, 4096, PROT_NONE);
    moving = base + 2 * 4096;
    char name[] = "/tmp/fault-storm-XXXXXX";
    int fd = mkstemp(name);
    unlink(name);
    ftruncate(fd, 4096);
    past_end = (char *)mmap(0, 8192, PROT_READ, MAP_SHARED, fd, 0) + 4096;
    own_page = mmap(0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (strchr(mode, 'h')) {
        struct sigaction action = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_ONSTACK};
        stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536};
        sigaltstack(&stack, 0);
        sigaction(SIGSEGV, &action, 0);
    }
    if (strchr(mode, 'b')) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGSEGV);
        sigaddset(&set, SIGBUS);
        pthread_sigmask(SIG_BLOCK, &set, 0);
    }
    printf("pid %d\n", getpid());
    fflush(stdout);
    while (!go) usleep(1000);
    pthread_t t[64], m;
    pthread_create(&m, 0, mover, 0);
    for (int i = 0; i < threads; i++) pthread_create(&t[i], 0, storm, (void *)limit);
    for (int i = 0; i < 200 && strchr(mode, 'c'); i++) {
        pthread_t short_one;
        pthread_create(&short_one, 0, nothing, 0);
        pthread_join(short_one, 0);
        if (i % 20 == 0) {
            pid_t child = i % 40 ? fork() : vfork();
            if (child == 0) {
                if (i % 40) _exit(3);
                execl("/bin/true", "true", (char *)0);
                _exit(1);
            }
            int status = 0;
            if (waitpid(child, &status, 0) != child || WEXITSTATUS(status) != (i % 40 ? 3 : 0)) wrong("a child", i);
        }
        if (i % 50 == 1 && system("exit 7") != 7 << 8) wrong("system()", i);
    }
    for (int i = 0; i < 100 && strchr(mode, 'h'); i++) {
        mprotect(own_page, 4096, PROT_NONE);
        *own_page = 1;
        if (own_faults != i + 1) wrong("own fault", i);
    }
    for (int i = 0; i < threads; i++) pthread_join(t[i], 0);
    stop = 1;
    pthread_join(m, 0);
    if (strchr(mode, 'x')) *(volatile int *)8 = 1;
    if (strchr(mode, 'e')) execl("/bin/echo", "echo", "execed", (char *)0);
    printf("done %ld\n", failed);
    return failed ? 1 : 0;
}
