/*
 * Loads the libraries that it is given and works and sleeps in a second thread; answers each line of standard input with
 * a line.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

static void *spin(void *unused)
{
	for (;;) {
		for (int i = 0; i < 1000; i++) __asm__ volatile("pause");
		usleep(100);
	}
	return unused;
}

int main(int argc, char **argv)
{
	char line[128];
	pthread_t thread;
	for (int i = 1; i < argc; i++)
		if (!dlopen(argv[i], RTLD_NOW)) return 1;
	pthread_create(&thread, NULL, spin, NULL);
	setvbuf(stdout, NULL, _IONBF, 0);
	while (fgets(line, sizeof line, stdin)) puts("ready");
	return 0;
}
