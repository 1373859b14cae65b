// A process that breathes: it holds KEPT MiB all along, and takes BREATH MiB more every other second. It prints a line
// once it has breathed for the first time, and one for each line of standard input thereafter: how often it has breathed.
//
// usage: breathe KEPT BREATH [MILLISECONDS]
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// All of it is written to: it is resident.
__attribute__((noipa)) static char *batch(size_t mebibytes) {
    char *block = malloc(mebibytes << 20);
    if (!block)
        exit(3);
    memset(block, 1, mebibytes << 20);
    return block;
}

int main(int count, char **arguments) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    char *kept = batch(strtoul(arguments[1], NULL, 10));
    int milliseconds = count > 3 ? atoi(arguments[3]) : 1000;
    struct pollfd asked = {.fd = 0, .events = POLLIN};
    for (int breaths = 1;; breaths++) {
        char *breath = batch(strtoul(arguments[2], NULL, 10));
        struct timespec pause = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
        nanosleep(&pause, NULL);
        free(breath);
        char line[100];
        if (breaths == 1)
            puts("breathed");
        else if (poll(&asked, 1, 0) == 1 && fgets(line, sizeof line, stdin))
            printf("%d\n", breaths + (kept[0] - 1));
        nanosleep(&pause, NULL);
    }
}
