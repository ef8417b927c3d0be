// The C++ guard: moves, does not copy, closes itself.

#include "check.h"

#include <csignal>
#include <interp_guard.hpp>
#include <type_traits>
#include <utility>
#include <vector>

using interp_guard::guard;

static_assert(!std::is_copy_constructible_v<guard> && !std::is_copy_assignable_v<guard>);
static_assert(std::is_nothrow_move_constructible_v<guard> && std::is_nothrow_move_assignable_v<guard>);
static_assert(sizeof(guard) == sizeof(ig_guard));

static ig_registry *registry;

static std::uint64_t out(std::int64_t id) {
    std::uint64_t count = 0;
    OK(ig_outstanding(registry, id, &count));
    return count;
}

static std::int64_t handled = -1;

extern "C" void on_signal(int) {
    const int before = errno;
    if (auto held = guard::lookup(registry, 7)) {
        handled = held.id();
    }
    errno = before;
}

int main() {
    watchdog(300);
    int seven = 7, eight = 8;
    void *back = nullptr;
    OK(ig_registry_new(4, &registry));
    OK(ig_register_with_id(registry, 7, &seven));
    OK(ig_register_with_id(registry, 8, &eight));

    {
        guard held = guard::lookup(registry, 7);
        CHECK(held && held.id() == 7 && held.interpreter<int>() == &seven && !held.is_closing());
        CHECK(out(7) == 1);
        guard another = held.dup();
        CHECK(another && out(7) == 2);
        guard moved = std::move(held);
        CHECK(!held && moved && out(7) == 2); // NOLINT: looks at what was moved from
        moved = guard::lookup(registry, 8);   // gives up its guard of 7
        CHECK(out(7) == 1 && out(8) == 1 && moved.id() == 8);
        guard &alias = moved;
        moved = std::move(alias);
        CHECK(moved && out(8) == 1);
        OK(moved.close());
        CHECK(moved.close() == IG_INVALID && out(8) == 0);
    }
    CHECK(out(7) == 0);

    {
        std::vector<guard> many;
        for (int i = 0; i < 100; i++) {
            many.push_back(guard::lookup(registry, 7));
        }
        CHECK(out(7) == 100);
    }
    CHECK(out(7) == 0);

    {
        ig_guard raw = guard::lookup(registry, 7).release();
        CHECK(out(7) == 1);
        const guard owner{std::move(raw)};
        CHECK(ig_guard_id(&raw) == -1 && ig_guard_id(owner.get()) == 7);
    }
    CHECK(out(7) == 0);

    ig_status why = IG_OK;
    CHECK(!guard::lookup(registry, 9, &why) && why == IG_NOT_FOUND);
    CHECK(guard().id() == -1 && guard().interpreter() == nullptr && !guard().dup());

    CHECK(std::signal(SIGUSR1, on_signal) != SIG_ERR);
    CHECK(std::raise(SIGUSR1) == 0);
    CHECK(handled == 7 && out(7) == 0);

    OK(ig_close(registry, 7));
    CHECK(!guard::lookup(registry, 7, &why) && why == IG_FINALIZING);
    OK(ig_drain(registry, 7, 0, &back));
    OK(ig_finalize(registry, 8, 0, &back));
    OK(ig_registry_free(registry));
    puts("guard: ok");
    return 0;
}
