// Containers of C++ that hold blocks: a vector of shared pointers, a map. Built as the other programs are, it prints "ready" and ends
// when its standard input does.
#include <cstdio>
#include <map>
#include <memory>
#include <vector>

struct Widget {
    char rest[232] = {1};
};

std::vector<std::shared_ptr<Widget>> g_widgets;
std::map<int, Widget *> g_by_number;

int main() {
    g_widgets.reserve(8192);
    for (int i = 0; i < 8000; i++)
        g_widgets.push_back(std::shared_ptr<Widget>(new Widget));
    for (int i = 0; i < 3000; i++)
        g_by_number[i] = reinterpret_cast<Widget *>(new char[360]);
    std::puts("ready");
    std::fflush(stdout);
    while (std::getchar() != EOF)
        ;
}
