// Waits in system calls that answer EINTR to a ptrace stop where the program sees it: each must time out in its time
// or be woken, never be interrupted. Prints how often it saw EINTR.
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/sem.h>
#include <time.h>
#include <unistd.h>

static int interrupted;

static void *wait_for_signal(void *unused)
{
	sigset_t set;
	struct timespec limit = { 0, 30000000 };
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	for (int i = 0; i < 30; i++)
		if (sigtimedwait(&set, NULL, &limit) < 0 && errno == EINTR)
			__atomic_add_fetch(&interrupted, 1, __ATOMIC_RELAXED);
	return unused;
}

int main(void)
{
	sigset_t set;
	pthread_t thread;
	struct epoll_event event;
	int epoll = epoll_create1(0);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	pthread_create(&thread, NULL, wait_for_signal, NULL);
	for (int i = 0; i < 30; i++)
		if (epoll_wait(epoll, &event, 1, 30) < 0 && errno == EINTR)
			__atomic_add_fetch(&interrupted, 1, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	printf("interrupted\t%d\n", interrupted);
	return 0;
}
