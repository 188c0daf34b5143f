// Threads that call `count_me` so often as asked, and threads that come and go.
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

typedef unsigned long (*routine_type)(void);
volatile routine_type count_me, pid_tgid;
volatile int go;
volatile unsigned long called, wrong_ids;

static void *work(void *arg) {
    prctl(PR_SET_NAME, "worker", 0, 0, 0);
    for (long i = 0; i < (long)arg; i++) {
        count_me();
        __sync_fetch_and_add(&called, 1);
    }
    unsigned long id = pid_tgid();
    if (id != ((unsigned long)getpid() << 32 | (unsigned long)syscall(SYS_gettid))) __sync_fetch_and_add(&wrong_ids, 1);
    return 0;
}

static void on_alarm(int s) {
    (void)s;
    count_me();
    __sync_fetch_and_add(&called, 1);
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 8;
    long calls = argc > 2 ? atol(argv[2]) : 1000;
    int rounds = argc > 3 ? atoi(argv[3]) : 1;
    int forks = argc > 4 ? atoi(argv[4]) : 0;
    printf("pid %d\n", getpid());
    fflush(stdout);
    while (!go) usleep(1000);
    if (argc > 5) {
        struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
        struct itimerval every = {{0, 200}, {0, 200}};
        sigaction(SIGALRM, &action, 0);
        setitimer(ITIMER_REAL, &every, 0);
    }
    for (int i = 0; i < rounds; i++) {
        pthread_t t[256];
        for (int k = 0; k < threads; k++) pthread_create(&t[k], 0, work, (void *)calls);
        for (int k = 0; k < threads; k++) pthread_join(t[k], 0);
    }
    for (int i = 0; i < forks; i++)
        if (fork() == 0) {
            work((void *)calls);
            _exit(wrong_ids != 0);
        }
    int bad = 0, status;
    while (wait(&status) > 0) bad |= status;
    struct itimerval off = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &off, 0);
    printf("called %lu wrong %lu children %d\n", called, wrong_ids, bad);
    fflush(stdout);
    while (go == 1) usleep(1000);
    return 0;
}
