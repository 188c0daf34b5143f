/*
 * Loads a library, calls it, unloads it and loads it again. Prints `name<TAB>calls` for the library's functions.
 *
 *   host PLUGIN [times]
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

unsigned long plugin_calls[4];

int main(int argc, char **argv) {
  int times = argc > 2 ? atoi(argv[2]) : 3;
  int x = 0;
  for (int i = 0; i < times; i++) {
    void *library = dlopen(argv[1], RTLD_NOW);
    if (!library) {
      fprintf(stderr, "%s\n", dlerror());
      return 3;
    }
    int (*work)(int) = (int (*)(int))dlsym(library, "plugin_work");
    for (int k = 0; k < 100; k++) x = work(x);
    if (dlclose(library) != 0) return 4;
  }
  printf("x %d\n", x);
  printf("plugin_prepare\t%lu\nplugin_step\t%lu\nplugin_work\t%lu\nplugin_finish\t%lu\n", plugin_calls[0],
         plugin_calls[1], plugin_calls[2], plugin_calls[3]);
  return 0;
}
