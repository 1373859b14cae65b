// A process that forks children one after the other, each of which lives for milliseconds: it frees all that it has from its
// parent, allocates a little at the site `work`, frees every third block of that, and ends. As a server's do that forks for
// each connection, and whose libraries clean up at exit.
//
// usage: brood INHERITED OWN CHILDREN   prints "ready" and begins when a line comes on standard input. Each child prints one
//                                       JSON object about itself: {"pid":…,"inherited":…,"work":{…}}; the parent at last
//                                       "done". It stays until standard input ends.
//        brood INHERITED OWN            the same without end, until a further line comes; children print nothing.
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "counts.h"

static void *(*volatile call_malloc)(size_t) = malloc;
static void (*volatile call_free)(void *) = free;

__attribute__((noipa)) static void *work(size_t size) { return call_malloc(size); }

static void live(void **inherited, size_t inherited_count, size_t own, int tells) {
    struct counts counts = {0};
    for (size_t i = 0; i < inherited_count; i++)
        call_free(inherited[i]);
    for (size_t i = 0; i < own; i++) {
        size_t size = (getpid() * 31 + i * 7) % 2000 + 1;
        void *block = work(size);
        counts.alloc_bytes += size, counts.alloc_objects++;
        if (i % 3 == 0) {
            call_free(block);
            counts.freed_bytes += size, counts.freed_objects++;
        }
    }
    if (!tells)
        return;
    char text[512];
    int length = snprintf(text, sizeof text, "{\"pid\":%d,\"inherited\":%zu,", getpid(), inherited_count);
    length += print_counts(text + length, sizeof text - length, "work", &counts);
    length += snprintf(text + length, sizeof text - length, "}\n");
    if (write(1, text, length) != length)
        _exit(3);
}

int main(int count, char **arguments) {
    char line[100];
    size_t inherited_count = strtoul(arguments[1], NULL, 10), own = strtoul(arguments[2], NULL, 10);
    int children = count > 3 ? atoi(arguments[3]) : 0;
    void **inherited = calloc(inherited_count, sizeof *inherited);
    for (size_t i = 0; i < inherited_count; i++)
        inherited[i] = call_malloc(100);
    setvbuf(stdout, NULL, _IOLBF, 0);
    setvbuf(stdin, NULL, _IONBF, 0);
    puts("ready");
    if (!fgets(line, sizeof line, stdin))
        return 1;
    struct pollfd told = {.fd = 0, .events = POLLIN};
    for (int i = 0; children ? i < children : poll(&told, 1, 0) == 0; i++) {
        pid_t child = fork();
        if (child == 0) {
            live(inherited, inherited_count, own, children);
            _exit(0);
        }
        if (child < 0 || waitpid(child, NULL, 0) != child)
            return 1;
    }
    puts("done");
    while (fgets(line, sizeof line, stdin))
        ;
}
