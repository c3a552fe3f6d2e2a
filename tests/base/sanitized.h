// Is this a sanitizer's build, where tests take less of what is slow?
#pragma once

namespace aftercheck::test {

#ifdef AFTERCHECK_SANITIZED
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace aftercheck::test
