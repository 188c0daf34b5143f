/*
 * Loads the libraries that it is given and spins in two threads; answers each line of standard input with a line.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

static void *spin(void *unused)
{
	for (;;) __asm__ volatile("pause");
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
