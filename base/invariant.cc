#include "base/invariant.h"

#include <sysexits.h>
#include <unistd.h>

#include <string_view>

#include "base/own_words.h"

namespace aftercheck::detail {
namespace {

thread_local const InvariantContextNode* innermost = nullptr;
thread_local bool failing = false;

// A source's name as people know it: from the top of the tree.
std::string_view within_tree(std::string_view file) {
  constexpr std::string_view kThis = __FILE__, kName = "base/invariant.cc";
  static_assert(kThis.ends_with(kName));
  constexpr std::string_view kTop = kThis.substr(0, kThis.size() - kName.size());
  return file.starts_with(kTop) ? file.substr(kTop.size()) : file;
}

// A context looks into state that may be broken: whatever it does must not hide the rest.
std::string described(const InvariantContextNode& context) {
  try {
    return context.text();
  } catch (const std::exception& error) {
    return fmt::format("(no context: {})", error.what());
  }
}

}  // namespace

InvariantContextNode::InvariantContextNode(Text text_of) : text_(text_of), outer_(innermost) {
  innermost = this;
}
InvariantContextNode::~InvariantContextNode() { innermost = outer_; }

void end_for_broken_invariant(const char* file, int line, const char* condition,
                              const std::string& message) noexcept {
  // What is known is said before the contexts are asked: they may break as well.
  say_on_standard_error(fmt::format("aftercheck: {}:{}: broken invariant: {}\naftercheck:   {}\n",
                                    within_tree(file), line, condition, message));
  if (!failing) {
    failing = true;
    for (const InvariantContextNode* context = innermost; context != nullptr; context = context->outer())
      say_on_standard_error(fmt::format("aftercheck:   {}\n", described(*context)));
    say_on_standard_error(
        "aftercheck: this is a bug of aftercheck; please report it with these lines and the command line\n");
  }
  _exit(EX_SOFTWARE);
}

}  // namespace aftercheck::detail
