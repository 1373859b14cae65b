// Twenty ticks a second, busy for a tenth of each: 1500 orders are matched and freed, and what one of them subscribes
// to is kept: 10 KiB/s beside 30,000 allocations a second.
// leak: subscribe
// half: tuned
#include "pace.h"

enum { ORDERS = 1500 };

struct order {
    unsigned price, amount;
    char client[40];
};

static struct subscription {
    struct subscription *next;
    char topic[500];
} *subscriptions;

NOINLINE static struct order *take_order(void) {
    struct order *order = malloc(sizeof *order);
    order->price = below(1000);
    order->amount = below(10);
    order->client[0] = 0;
    return order;
}

NOINLINE static void subscribe(unsigned price) {
    struct subscription *subscription = malloc(sizeof *subscription);
    snprintf(subscription->topic, sizeof subscription->topic, "orders at %u", price);
    subscription->next = subscriptions;
    subscriptions = subscription;
}

int main(void) {
    unsigned long turnover = 0;
    for (;;) {
        struct order *orders[ORDERS];
        for (int i = 0; i < ORDERS; i++) orders[i] = take_order();
        subscribe(orders[turnover % ORDERS]->price);
        for (int i = 0; i < ORDERS; i++) {
            turnover += orders[i]->price * orders[i]->amount;
            free(orders[i]);
        }
        rest(45);
    }
}
