// A document's pages hold the document, and it holds them: when its last user lets go of it, nothing ends. 6 a second.
// leak: open_document
// half: measured
#include "pace.h"
#include <memory>
#include <string>
#include <vector>

struct Document;

struct Page {
    std::shared_ptr<Document> document;
    std::string text;
};

struct Document {
    std::vector<std::shared_ptr<Page>> pages;
    std::string title;
};

NOINLINE static std::shared_ptr<Document> open_document(unsigned number) {
    auto document = std::make_shared<Document>();
    document->title = "document number " + std::to_string(number);
    for (unsigned i = 0; i < 3 + number % 5; i++) {
        auto page = std::make_shared<Page>();
        page->document = document;
        page->text.assign(150 + below(400), 'p');
        document->pages.push_back(page);
    }
    return document;
}

int main() {
    size_t letters = 0;
    for (unsigned number = 0;; number++) {
        auto document = open_document(number);
        for (auto &page : document->pages) letters += page->text.size();
        rest(160);
    }
}
