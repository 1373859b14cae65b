// Fast: 20,000 packets a second are copied in one place; one in 200 is for a closed port, and stays: 40 KiB/s.
// leak: copy_packet
// half: tuned
#include "pace.h"

struct packet {
    unsigned port, length;
    char bytes[];
};

NOINLINE static struct packet *copy_packet(const char *wire, unsigned length) {
    struct packet *packet = malloc(sizeof *packet + length);
    packet->port = below(200);
    packet->length = length;
    memcpy(packet->bytes, wire, length);
    return packet;
}

NOINLINE static unsigned deliver(struct packet *packet) {
    if (packet->port == 0) return 0;
    unsigned length = packet->length;
    free(packet);
    return length;
}

int main(void) {
    char wire[400] = "wire";
    unsigned long delivered = 0;
    for (;;) {
        for (int i = 0; i < 100; i++) delivered += deliver(copy_packet(wire, 390));
        rest(5);
    }
}
