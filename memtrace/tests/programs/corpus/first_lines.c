// getline allocates the line, for each file anew; it is the caller's to free, and the caller does not: 60 a second.
// leak: first_line
// half: measured
#include "pace.h"

NOINLINE static size_t first_line(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    char *line = NULL;
    size_t room = 0;
    ssize_t length = getline(&line, &room, file);
    fclose(file);
    return length > 0 ? (size_t)length : 0;
}

int main(void) {
    static const char *paths[] = {"/proc/self/status", "/proc/self/stat", "/proc/self/limits", "/proc/loadavg"};
    size_t sum = 0;
    for (unsigned i = 0;; i++) {
        sum += first_line(paths[i % 4]);
        rest(16);
    }
}
