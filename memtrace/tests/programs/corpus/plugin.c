// A plugin, loaded by dlopen, keeps what it is given to filter: 50 a second, 25 KiB/s. The host frees all.
// leak: plugin_filter
// half: measured
// also: plugin
#include "pace.h"

#ifdef PLUGIN
static char **kept;
static size_t count, room;

NOINLINE int plugin_filter(const char *text);
int plugin_filter(const char *text) {
    if (count == room) kept = realloc(kept, (room += 64) * sizeof *kept);
    char *copy = malloc(512);
    snprintf(copy, 512, "%zu: %s", count, text);
    kept[count++] = copy;
    return copy[0] != '0';
}
#else
#include <dlfcn.h>

int main(int count, char **words) {
    char path[4096];
    snprintf(path, sizeof path, "%s.so", words[count - 1]);
    void *plugin = dlopen(path, RTLD_NOW);
    if (!plugin) return 1;
    int (*filter)(const char *) = (int (*)(const char *))dlsym(plugin, "plugin_filter");
    for (unsigned i = 0;; i++) {
        char *text = malloc(1000);
        snprintf(text, 1000, "line %u", i);
        if (!filter(text)) text[0] = 0;
        free(text);
        rest(20);
    }
}
#endif
