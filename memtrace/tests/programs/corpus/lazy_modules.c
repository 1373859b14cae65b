// Sixty modules that are initialised when they are first used, in the first 24 seconds, each once. Bound: 60 of 5 KiB.
// innocent
// half: tuned
#include "pace.h"

struct module {
    int *table;
    char *name;
};

static struct module modules[60];

NOINLINE static void initialise(unsigned which) {
    struct module *module = &modules[which];
    module->table = malloc(5000);
    for (int i = 0; i < 1250; i++) module->table[i] = i * (int)which;
    module->name = malloc(40);
    snprintf(module->name, 40, "module %u", which);
}

NOINLINE static int call(unsigned which) {
    if (!modules[which].table) initialise(which);
    char *arguments = malloc(100 + below(400));
    arguments[0] = 1;
    int result = modules[which].table[below(1250)] + arguments[0];
    free(arguments);
    return result;
}

int main(void) {
    long sum = 0;
    for (;;) {
        unsigned known = (unsigned)(now() * 2.5);
        sum += call(below(known < 1 ? 1 : known < 60 ? known : 60));
        sum += call(known < 60 ? known : below(60));
        rest(15);
    }
}
