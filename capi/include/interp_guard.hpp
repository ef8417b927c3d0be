/*
 * interp-guard for C++17: a guard that closes itself.
 *
 * Everything else is interp_guard.h's. Nothing in here throws or allocates; guard is as signal-safe as the calls it makes.
 */

#ifndef INTERP_GUARD_HPP
#define INTERP_GUARD_HPP

#include "interp_guard.h"

#include <cstdint>
#include <utility>

namespace interp_guard {

/** What a status means, in a sentence for people. */
[[nodiscard]] inline const char *message(ig_status status) noexcept { return ig_status_message(status); }

/**
 * Holds one guard, or none. Moves; does not copy: dup() says that it takes another guard, and may be asked for the status.
 *
 *     if (auto guard = interp_guard::guard::lookup(registry, 7)) {
 *         use(guard.interpreter<interpreter>());
 *     }
 *
 * Context: any, async-signal-safe, the destructor included.
 */
class guard {
public:
    guard() noexcept = default;

    /** Takes over a guard of the C interface, which is zeroed. */
    explicit guard(ig_guard &&raw) noexcept : raw_(std::exchange(raw, ig_guard IG_GUARD_INIT)) {}

    guard(guard &&other) noexcept : guard(std::move(other.raw_)) {}

    guard &operator=(guard &&other) noexcept {
        if (this != &other) {
            close();
            raw_ = std::exchange(other.raw_, ig_guard IG_GUARD_INIT);
        }
        return *this;
    }

    guard(const guard &) = delete;
    guard &operator=(const guard &) = delete;

    ~guard() { close(); }

    /** Takes a guard on interpreter `id`, or holds none; `why`, if given, says why. See ig_lookup. */
    [[nodiscard]] static guard lookup(ig_registry *registry, std::int64_t id, ig_status *why = nullptr) noexcept {
        guard found;
        const ig_status status = ig_lookup(registry, id, &found.raw_);
        if (why != nullptr) {
            *why = status;
        }
        return found;
    }

    /** Takes another guard on the same interpreter; holds none if this one holds none. See ig_guard_dup. */
    [[nodiscard]] guard dup() const noexcept {
        guard another;
        const ig_status status = ig_guard_dup(&raw_, &another.raw_);
        static_cast<void>(status); // not IG_OK exactly if this one holds none
        return another;
    }

    /** Gives the guard up now. IG_INVALID if there is none. See ig_guard_close. */
    ig_status close() noexcept { return *this ? ig_guard_close(&raw_) : IG_INVALID; }

    /** Is a guard held? */
    explicit operator bool() const noexcept { return ig_guard_id(&raw_) >= 0; }

    /** The guarded interpreter's ID; -1 without a guard. */
    [[nodiscard]] std::int64_t id() const noexcept { return ig_guard_id(&raw_); }

    /** The registered pointer, to be used while the guard is held; null without a guard. */
    template <class Interpreter = void>
    [[nodiscard]] Interpreter *interpreter() const noexcept {
        return static_cast<Interpreter *>(ig_guard_interpreter(&raw_));
    }

    /** Has somebody begun to close the interpreter? Then finish soon: a finalizer waits. */
    [[nodiscard]] bool is_closing() const noexcept { return ig_guard_is_closing(&raw_) != 0; }

    /** The guard as the C interface knows it. Still this object's to close. */
    [[nodiscard]] const ig_guard *get() const noexcept { return &raw_; }

    /** Hands the guard over to the C interface, whose caller owes the ig_guard_close. */
    [[nodiscard]] ig_guard release() noexcept { return std::exchange(raw_, ig_guard IG_GUARD_INIT); }

private:
    ig_guard raw_ = IG_GUARD_INIT;
};

} // namespace interp_guard

#endif /* INTERP_GUARD_HPP */
