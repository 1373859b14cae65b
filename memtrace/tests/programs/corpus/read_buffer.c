// A buffer that grows to the largest message there is. Messages are up to 96 KiB, large ones are rare. Bound: 96 KiB.
// innocent
// half: tuned
#include "pace.h"

static char *buffer;
static size_t room;

NOINLINE static void make_room(size_t size) {
    if (size <= room) return;
    room = size + size / 8;
    if (room > 96 * 1024) room = 96 * 1024;
    buffer = realloc(buffer, room);
}

NOINLINE static unsigned receive(void) {
    size_t size = 500 + below(1000);
    for (int doublings = 0; doublings < 6 && below(3) == 0; doublings++) size *= 2;
    if (size > 96 * 1024) size = 96 * 1024;
    make_room(size);
    memset(buffer, 1, size);
    char *answer = malloc(64 + size / 16);
    answer[0] = buffer[size - 1];
    unsigned first = (unsigned)answer[0];
    free(answer);
    return first;
}

int main(void) {
    unsigned long received = 0;
    for (;;) {
        received += receive();
        rest(20);
    }
}
