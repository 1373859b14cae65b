// Allocates once for each line of stdin in each of its functions: an exported one, one of this file alone, and functions whose
// names are types, operators or prefixes to demanglers. Says "ready", then "done" for each line.

#include <stdio.h>
#include <stdlib.h>

#define ONCE __attribute__((noinline, noclone))

static void *volatile kept;

ONCE void *exported(int bytes) {
    kept = malloc(bytes);
    return kept;
}

ONCE static void of_this_file(void) {
    exported(1000);
    __asm__ volatile("" ::: "memory");
}

#define NAMED(name) \
    ONCE void name(int bytes) { kept = malloc(bytes); }

NAMED(f)
NAMED(x)
NAMED(Pc)
NAMED(St)
NAMED(dl)
NAMED(nw)
NAMED(_R)
NAMED(_ZN3foo)

int main(void) {
    char line[64];
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        of_this_file();
        f(11);
        x(12);
        Pc(13);
        St(14);
        dl(15);
        nw(16);
        _R(17);
        _ZN3foo(18);
        puts("done");
        fflush(stdout);
    }
    return 0;
}
