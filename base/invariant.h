// Assertions on our own state, in every build. A replay that goes on with wrong state gives wrong answers, so
// a broken invariant ends the process at once: no unwinding, no destructors, which would work on that state.
// What guests, files and hosts can bring about is no invariant: that is fail() of base/error.h, and so is a
// bug that a caller means to catch (ErrorKind::internal).
//
//   AFTERCHECK_INVARIANT(next > last, "event {} after event {}", next, last);
#pragma once

#include <fmt/format.h>

#include <exception>
#include <string>
#include <utility>

// Where `condition` is false: writes file, line, condition, the message (fmt's format) and every
// InvariantContext of this thread to standard error, and ends the process with status 70 (EX_SOFTWARE,
// sysexits.h). Otherwise it costs a branch; the arguments are not evaluated. Any thread.
#define AFTERCHECK_INVARIANT(condition, ...)                                               \
  do {                                                                                     \
    if (!(condition)) [[unlikely]]                                                         \
      ::aftercheck::detail::invariant_broken(__FILE__, __LINE__, #condition, __VA_ARGS__); \
  } while (false)

namespace aftercheck {
namespace detail {

[[noreturn]] void end_for_broken_invariant(const char* file, int line, const char* condition,
                                           const std::string& message) noexcept;

template <typename... Args>
[[noreturn, gnu::cold, gnu::noinline]] void invariant_broken(const char* file, int line,
                                                             const char* condition,
                                                             fmt::format_string<Args...> format,
                                                             Args&&... args) noexcept {
  std::string message;
  try {
    message = fmt::format(format, std::forward<Args>(args)...);
  } catch (const std::exception& error) {
    message = error.what();
  }
  end_for_broken_invariant(file, line, condition, message);
}

// A node of the thread's list of contexts.
class InvariantContextNode {
 public:
  using Text = std::string (*)(const InvariantContextNode&);
  InvariantContextNode(const InvariantContextNode&) = delete;
  InvariantContextNode& operator=(const InvariantContextNode&) = delete;
  std::string text() const { return text_(*this); }
  const InvariantContextNode* outer() const { return outer_; }

 protected:
  explicit InvariantContextNode(Text text_of);
  ~InvariantContextNode();

 private:
  const Text text_;
  const InvariantContextNode* const outer_;
};

}  // namespace detail

// While it lives, a broken invariant of this thread also says what `describe` returns: a line or more on
// where the run is (position, event, registers). Registering costs no allocation and two stores. Innermost
// first; they end in the reverse order of their making.
//
//   const InvariantContext context([&] { return fmt::format("replaying event {}", event); });
template <typename Describe>
class [[nodiscard]] InvariantContext final : private detail::InvariantContextNode {
 public:
  explicit InvariantContext(Describe describe)
      : InvariantContextNode([](const InvariantContextNode& node) -> std::string {
          return static_cast<const InvariantContext&>(node).describe_();
        }),
        describe_(std::move(describe)) {}

 private:
  const Describe describe_;
};

}  // namespace aftercheck
