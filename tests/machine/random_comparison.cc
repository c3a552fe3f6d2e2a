#include "tests/machine/random_comparison.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <span>
#include <thread>

#include "base/error.h"
#include "tests/machine/random_story.h"
#include "x86/decode.h"

namespace aftercheck {
namespace {

// Ends a program that does not end: now and then a RET comes to an address that is left of an earlier call.
class Watchdog {
 public:
  Watchdog() : thread_([this] { watch(); }) {}
  ~Watchdog() {
    {
      const std::lock_guard lock(mutex_);
      ends_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  void begin(Vcpu& vcpu) {
    const std::lock_guard lock(mutex_);
    vcpu_ = &vcpu;
    ++round_;
  }
  // Has it kicked the vCPU?
  bool end() {
    const std::lock_guard lock(mutex_);
    vcpu_->clear_kick();
    vcpu_ = nullptr;
    return std::exchange(kicked_, false);
  }

 private:
  // Seen in two looks on end.
  void watch() {
    using namespace std::chrono_literals;
    uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, 1s, [this] { return ends_; })) {
      if (vcpu_ != nullptr && seen == round_) {
        kicked_ = true;
        vcpu_->kick();
      }
      seen = round_;
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  bool ends_ = false, kicked_ = false;
  Vcpu* vcpu_ = nullptr;
  uint64_t round_ = 0;
  std::thread thread_;
};

// What a single step has led to, by itself; and how many branches had been executed by then.
struct Place {
  uint64_t branches;
  Registers registers;
};

struct Stop {
  Exit exit;
  Registers registers;
  FpuState fpu;
};

// How near a program has come to a place: to its count and RIP, or to its registers too.
enum class Near : uint8_t { nowhere, met, reached };

// What a program has come to.
struct Trace {
  enum class End : uint8_t { ended, refused, endless };
  End end = End::ended;
  std::string why;  // refused
  std::vector<Stop> stops;
  Code memory;
  uint64_t branches = 0, steps = 0;
  // Where a CALL to an address that is not canonical may have pushed before it faulted: some processors do,
  // translated code does (machine/translated/README.md). The program ends there.
  std::optional<Range> pushed;
};

constexpr size_t kMostStops = 12;
constexpr uint64_t kMostSteps = 20'000;

// What is done about an exit: as a kernel and its signal handlers might. False: the program ends there.
class Host {
 public:
  Host(const Laid& laid, CpuModelKind model) : laid_(laid), upper_(model == CpuModelKind::v3) {}

  bool resumes(Vcpu& vcpu, const Exit& exit) {
    const bool goes_on = answers(vcpu, exit);
    if (goes_on && upper_) change_upper(vcpu);
    return goes_on;
  }
  const std::optional<Range>& pushed() const { return pushed_; }

 private:
  const Laid& laid_;
  bool upper_;  // halves of vector registers are there
  unsigned traps_ = 0, stops_ = 0;
  std::optional<Range> pushed_;

  bool answers(Vcpu& vcpu, const Exit& exit) {
    Registers& r = vcpu.registers();
    switch (exit.kind) {
      case ExitKind::breakpoint:
        if (r.rip == laid_.end) return false;
        ++r.rip;
        return true;
      case ExitKind::syscall:
        return true;
      case ExitKind::trapped_instruction:
        r.rip += exit.instruction.length;
        return true;
      case ExitKind::exception:
        if (exit.vector == vector::kGeneralProtection && calls(r.rip)) {
          pushed_ = Range{r.rsp - 8, r.rsp};
          return false;
        }
        return handles(vcpu, exit.vector);
      case ExitKind::memory_fault:
        return exit.access != Access::fetch && skips(r);
      default:
        return false;
    }
  }
  // As a handler does that returns with another state: to the first of three stops each register has that of
  // the one before it, to the second none has any.
  void change_upper(Vcpu& vcpu) {
    const unsigned which = stops_++ % 3;
    if (which == 2) return;
    FpuState fpu = vcpu.fpu();
    constexpr size_t kHalf = 16;
    if (which == 0)
      std::rotate(fpu.upper.begin(), fpu.upper.end() - kHalf, fpu.upper.end());
    else
      fpu.upper.fill(std::byte{0});
    vcpu.set_fpu(fpu);
  }

  bool calls(uint64_t rip) const {
    if (rip < laid_.start || rip >= laid_.start + laid_.code.size()) return false;
    ZydisDecodedInstruction instruction;
    return x86::decode(std::span(laid_.code).subspan(rip - laid_.start), instruction) &&
           instruction.meta.category == ZYDIS_CATEGORY_CALL;
  }

  bool handles(Vcpu& vcpu, uint8_t number) {
    Registers& r = vcpu.registers();
    if (number == vector::kDebug) {
      constexpr unsigned kEnough = 3;
      if (++traps_ == kEnough) r.rflags &= ~rflags::kTrap;
      return true;
    }
    if (number != vector::kX87Error) return skips(r);
    FpuState fpu = vcpu.fpu();
    fpu.fxsave[2] = std::byte{0};  // the exceptions
    fpu.settle_x87();
    vcpu.set_fpu(fpu);
    return true;
  }

  bool skips(Registers& r) const {
    const auto found =
        std::ranges::lower_bound(laid_.instructions, r.rip, {}, &std::pair<uint64_t, uint64_t>::first);
    if (found == laid_.instructions.end() || found->first != r.rip) return false;
    r.rip = found->second;
    return true;
  }
};

// All that programs can write.
template <typename Visit>
void for_each_writable(Visit visit) {
  for (const Site& site : kSites)
    for (const Range range : {site.writable(), site.stack()}) visit(range);
}

std::string differences(const Stop& a, const Stop& b) {
  if (a.exit != b.exit) return fmt::format("    exit: {} | {}\n", describe(a.exit), describe(b.exit));
  std::string text;
  const RegisterWords x = to_words(a.registers), y = to_words(b.registers);
  for (size_t i = 0; i < kRegisterCount; ++i)
    if (x[i] != y[i]) text += fmt::format("    {}: {:#x} | {:#x}\n", kRegisterNames[i], x[i], y[i]);
  const auto& p = a.fpu.fxsave;
  const auto& q = b.fpu.fxsave;
  constexpr size_t kMost = 1000;
  for (size_t at = 0; at < FpuState::kUsed; ++at) {
    // What is told of the last x87 instruction: of AMD's processors only while an exception is pending, and
    // what is left of it depends on when KVM and its host switched between tasks. And the mask of MXCSR;
    // bytes of no register.
    const bool pointers = at >= 6 && at < 24, mask = at >= 28 && at < 32;
    if (pointers || mask || (at >= 32 && at < 160 && at % 16 >= 10)) continue;
    if (p[at] != q[at] && text.size() < kMost)
      text += fmt::format("    fxsave+{}: {:#04x} | {:#04x}\n", at, std::to_integer<unsigned>(p[at]),
                          std::to_integer<unsigned>(q[at]));
  }
  for (size_t at = 0; at < a.fpu.upper.size(); ++at)
    if (a.fpu.upper[at] != b.fpu.upper[at] && text.size() < kMost)
      text +=
          fmt::format("    upper half of ymm{}+{}: {:#04x} | {:#04x}\n", at / 16, at % 16,
                      std::to_integer<unsigned>(a.fpu.upper[at]), std::to_integer<unsigned>(b.fpu.upper[at]));
  return text;
}

std::string memory_differences(const Trace& one, const Trace& other) {
  const Code& a = one.memory;
  const Code& b = other.memory;
  const Range apart = one.pushed.value_or(Range{});
  std::string text;
  size_t at = 0;
  for_each_writable([&](Range range) {
    for (uint64_t address = range.start; address < range.end; ++address, ++at) {
      constexpr size_t kMost = 1000;
      if (a[at] != b[at] && !apart.contains(address) && text.size() < kMost)
        text += fmt::format("    memory at {:#x}: {:#04x} | {:#04x}\n", address, a[at], b[at]);
    }
  });
  return text;
}

// Empty: none. Programs that were refused or endless have nothing to compare.
std::string differences(const Trace& a, const Trace& b) {
  if (a.end != Trace::End::ended || b.end != Trace::End::ended) return {};
  for (size_t i = 0; i < std::min(a.stops.size(), b.stops.size()); ++i) {
    const std::string text = differences(a.stops[i], b.stops[i]);
    if (!text.empty())
      return fmt::format("  at exit {}, {} at {:#x}:\n{}", i + 1, describe(a.stops[i].exit),
                         a.stops[i].registers.rip, text);
  }
  if (a.stops.size() != b.stops.size())
    return fmt::format("  {} exits | {}\n", a.stops.size(), b.stops.size());
  if (a.memory == b.memory) return {};
  const std::string text = memory_differences(a, b);
  return text.empty() ? text : "  at the end:\n" + text;
}

uint64_t mix(uint64_t seed, uint64_t number) {  // SplitMix64's finaliser
  uint64_t x = seed * 0x9e3779b97f4a7c15 + number;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

class Bench {
 public:
  explicit Bench(const ComparisonOptions& options)
      : model_(options.model),
        translated_(create_translated_machine(space_, CpuModel(options.model), options.counts)),
        kvm_(create_kvm_machine(space_, CpuModel(options.model))) {
    if (options.places_every != 0) soft_ = create_soft_machine(space_, CpuModel(options.model));
    RandomNumbers random(mix(options.seed, UINT64_MAX));
    for (const Site& site : kSites) {
      map(code_of(site), PROT_READ | PROT_EXEC);
      map(site.writable(), PROT_READ | PROT_WRITE);
      map(site.read_only(), PROT_READ);
      map(site.stack(), PROT_READ | PROT_WRITE);
      for (uint64_t at = site.read_only().start; at < site.read_only().end; at += 8) {
        const uint64_t word = random.number();
        if (!space_.write(at, &word, sizeof word)) fail(ErrorKind::internal, "no memory at {:#x}", at);
      }
    }
    for_each_writable([&](Range range) {
      for (uint64_t at = range.start; at < range.end; at += 8) {
        const uint64_t word = random.number();
        image_.resize(image_.size() + sizeof word);
        std::memcpy(&image_[image_.size() - sizeof word], &word, sizeof word);
      }
    });
    vcpus_ = {translated_->create_vcpu(), kvm_->create_vcpu()};
    if (soft_ == nullptr) return;
    soft_vcpu_ = soft_->create_vcpu();
    soft_vcpu_->count_branches(true);
  }

  void put(std::span<const Laid> batch) {
    constexpr int kInt3 = 0xcc;
    for (const Site& site : kSites) {
      const Range code = code_of(site);
      check(space_.protect(code, PROT_READ | PROT_WRITE));
      std::memset(reinterpret_cast<void*>(code.start), kInt3, code.size());
    }
    for (const Laid& laid : batch)
      std::memcpy(reinterpret_cast<void*>(laid.start), laid.code.data(), laid.code.size());
    for (const Site& site : kSites) check(space_.protect(code_of(site), PROT_READ | PROT_EXEC));
  }

  Trace translated(const Program& program, const Laid& laid) { return run(*vcpus_[0], program, laid, {}); }
  Trace stepped(const Program& program, const Laid& laid, Story& story) {
    return run(*vcpus_[0], program, laid, {.steps = true, .story = &story});
  }
  // The machines that go to places.
  Vcpu& translated_vcpu() { return *vcpus_[0]; }
  Vcpu& soft_vcpu() { return *soft_vcpu_; }
  Trace run_on(Vcpu& vcpu, const Program& program, const Laid& laid) { return run(vcpu, program, laid, {}); }
  Trace places(Vcpu& vcpu, const Program& program, const Laid& laid, std::vector<Place>& places) {
    return run(vcpu, program, laid, {.steps = true, .places = &places});
  }
  // Stops there, and goes on.
  Trace by_way_of(Vcpu& vcpu, const Program& program, const Laid& laid, const Place& place, Near& near) {
    near = Near::nowhere;
    return run(vcpu, program, laid, {.place = &place, .near = &near});
  }
  // By an instrument.
  Trace observed(const Program& program, const Laid& laid, Story& story) {
    vcpus_[0]->set_instrument(&story);
    Trace trace = run(*vcpus_[0], program, laid, {});
    vcpus_[0]->set_instrument(nullptr);
    return trace;
  }
  const AddressSpace& space() const { return space_; }
  Trace kvm(const Program& program, const Laid& laid) { return run(*vcpus_[1], program, laid, {}); }

 private:
  struct Way {
    bool steps = false;
    Story* story = nullptr;                // steps: told of each
    std::vector<Place>* places = nullptr;  // steps: where each has led
    const Place* place = nullptr;
    Near* near = nullptr;
  };

  CpuModelKind model_;
  AddressSpace space_;
  std::unique_ptr<Machine> translated_, kvm_, soft_;
  std::array<std::unique_ptr<Vcpu>, 2> vcpus_;
  std::unique_ptr<Vcpu> soft_vcpu_;
  Code image_;  // of memory at the start, but for programs' words
  Watchdog watchdog_;

  static void check(int error) {
    if (error != 0) fail(ErrorKind::internal, "no memory for programs: {}", error);
  }
  void map(Range range, int prot) { check(space_.map_anonymous(range, prot, false)); }

  void restore(const Program& program) {
    size_t from = 0;
    for_each_writable([&](Range range) {
      std::memcpy(reinterpret_cast<void*>(range.start), &image_[from], range.size());
      from += range.size();
    });
    for (const auto& [address, word] : program.words)
      std::memcpy(reinterpret_cast<void*>(address), &word, sizeof word);
  }

  // The next exit but `step`.
  Exit step_on(Vcpu& vcpu, Trace& trace, const Way& way) const {
    for (;;) {
      const Registers before = vcpu.registers();
      if (way.story != nullptr) way.story->before(vcpu, space_);
      const Exit exit = vcpu.step();
      if (way.story != nullptr && (exit.kind == ExitKind::step || exit.kind == ExitKind::syscall))
        way.story->completed(vcpu.registers().rip);
      if (way.places != nullptr && exit.kind == ExitKind::step && (before.rflags & rflags::kTrap) == 0)
        way.places->push_back({vcpu.branches(), vcpu.registers()});
      // One iteration of a string instruction is none.
      if (vcpu.registers().rip != before.rip) ++trace.steps;
      if (exit.kind != ExitKind::step) return exit;
      // Single steps are not the guest's own, whose trap it would be after this one.
      if ((before.rflags & rflags::kTrap) != 0)
        return {.kind = ExitKind::exception, .vector = vector::kDebug};
      if (trace.steps > kMostSteps) return {.kind = ExitKind::kick};
    }
  }

  // To the place, past others with its count and RIP; or to another exit.
  static Exit go_to(Vcpu& vcpu, const Place& place, Near& near) {
    for (;;) {
      const Exit exit = vcpu.run_until(place.branches, place.registers.rip);
      const bool there = exit.kind == ExitKind::breakpoint && vcpu.branches() == place.branches &&
                         vcpu.registers().rip == place.registers.rip;
      if (!there) return exit;
      near = Near::met;
      if (canonical_state(vcpu.registers()) != canonical_state(place.registers)) continue;
      near = Near::reached;
      return vcpu.run();
    }
  }

  Trace run(Vcpu& vcpu, const Program& program, const Laid& laid, const Way& way) {
    restore(program);
    vcpu.registers() = program.registers;
    vcpu.registers().rip = laid.start;
    vcpu.set_fpu(program.fpu);
    if (vcpu.counts_branches()) vcpu.reset_branches();
    Trace trace;
    Host host(laid, model_);
    watchdog_.begin(vcpu);
    try {
      for (;;) {
        const Exit exit = way.steps ? step_on(vcpu, trace, way)
                          : way.place != nullptr && *way.near != Near::reached
                              ? go_to(vcpu, *way.place, *way.near)
                              : vcpu.run();
        if (exit.kind == ExitKind::kick) {
          trace.end = Trace::End::endless;
          break;
        }
        trace.stops.push_back({exit, vcpu.registers(), vcpu.fpu()});
        if (trace.stops.size() == kMostStops || !host.resumes(vcpu, exit)) break;
      }
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::unsupported) {
        watchdog_.end();
        throw;
      }
      trace.end = Trace::End::refused;
      trace.why = error.what();
    }
    trace.pushed = host.pushed();
    if (watchdog_.end()) trace.end = Trace::End::endless;
    if (vcpu.counts_branches()) trace.branches = vcpu.branches();
    for_each_writable([&](Range range) {
      trace.memory.insert(trace.memory.end(), reinterpret_cast<uint8_t*>(range.start),
                          reinterpret_cast<uint8_t*>(range.end));
    });
    return trace;
  }
};

struct PlacesOutcome {
  uint64_t steps = 0, shared = 0, places = 0, apart = 0;
  std::string difference;
};

// Where flags that processors leave undefined are told, the soft vCPU gives one thing or another, by where
// its blocks begin; and flags of an earlier instruction behind a LOOPE or LOOPNE that ends because RCX is 0.
// What may come of that is no difference, and said by `apart`.
class Places {
 public:
  Places(Bench& bench, const Program& program, const Laid& laid)
      : bench_(bench), program_(program), laid_(laid), random_(mix(program.seed, 1)) {
    ZydisDecodedInstruction instruction;
    for (const auto& [address, next] : laid.instructions)
      if (x86::decode(std::span(laid.code).subspan(address - laid.start), instruction))
        loops_ = loops_ || instruction.mnemonic == ZYDIS_MNEMONIC_LOOPE ||
                 instruction.mnemonic == ZYDIS_MNEMONIC_LOOPNE;
  }

  PlacesOutcome compare() && {
    if (go_through(bench_.translated_vcpu(), "translated", steps_[0]) &&
        go_through(bench_.soft_vcpu(), "soft", steps_[1]))
      compare_steps();
    return std::move(outcome_);
  }

 private:
  Bench& bench_;
  const Program& program_;
  const Laid& laid_;
  RandomNumbers random_;
  bool loops_ = false;  // LOOPE or LOOPNE is in it
  std::array<std::vector<Place>, 2> steps_;
  PlacesOutcome outcome_;

  // Whether two ways to the end are one; `what` they are.
  bool same(const Trace& a, const Trace& b, bool on_soft, const std::string& what) {
    std::string text = differences(a, b);
    if (text.empty() && a.end != b.end) text = "  one did not come to the end\n";
    if (!text.empty() && on_soft) {
      ++outcome_.apart;
      return false;
    }
    if (text.empty() && a.branches != b.branches) {
      text = fmt::format("  branches: {} | {}\n", a.branches, b.branches);
      if (on_soft && loops_) {
        ++outcome_.apart;
        return false;
      }
    }
    if (!text.empty()) outcome_.difference = what + ":\n" + text;
    return text.empty();
  }

  // Straight to the end, by single steps, and by way of some of these. False: there is a difference, or no
  // end.
  bool go_through(Vcpu& vcpu, const std::string& on, std::vector<Place>& steps) {
    constexpr int kPlaces = 3;
    const bool soft = &vcpu == &bench_.soft_vcpu();
    const Trace straight = bench_.run_on(vcpu, program_, laid_);
    const Trace stepped = bench_.places(vcpu, program_, laid_, steps);
    if (straight.end != Trace::End::ended || stepped.end != Trace::End::ended) return false;
    if (!same(straight, stepped, soft, on + ", straight | by single steps"))
      return outcome_.difference.empty();
    for (int i = 0; i < kPlaces && !steps.empty(); ++i) {
      const Place& place = steps[random_.below(steps.size())];
      const std::string where = fmt::format("{} branches and {:#x}", place.branches, place.registers.rip);
      Near near = Near::nowhere;
      const Trace by_way = bench_.by_way_of(vcpu, program_, laid_, place, near);
      if (!same(straight, by_way, soft, fmt::format("{}, straight | by way of {}", on, where))) {
        if (outcome_.difference.empty()) continue;
        return false;
      }
      if (soft && (near == Near::met || (near == Near::nowhere && loops_))) {
        ++outcome_.apart;
        continue;
      }
      ++outcome_.places;
      if (near == Near::reached) continue;
      outcome_.difference = fmt::format("{}: {} were not reached\n", on, where);
      return false;
    }
    return true;
  }

  // As long as the machines take the same steps.
  void compare_steps() {
    const auto& [a, b] = steps_;
    outcome_.steps = a.size();
    for (size_t& i = outcome_.shared; i < std::min(a.size(), b.size()); ++i) {
      Registers x = a[i].registers, y = b[i].registers;
      x.rflags = y.rflags = 0;
      if (x != y) return;
      if (a[i].branches == b[i].branches) continue;
      outcome_.difference = fmt::format("translated | soft:\n  after {} steps, at {:#x}: {} branches | {}\n",
                                        i + 1, x.rip, a[i].branches, b[i].branches);
      return;
    }
  }
};

struct Outcome {
  Trace translated;
  std::optional<Trace> stepped;
  PlacesOutcome places;
  std::string difference;
};

// What of a program is looked at beside its run to the end.
struct Also {
  bool steps = false, places = false;
};

Outcome compare(Bench& bench, const Program& program, const Laid& laid, Also also) {
  Outcome outcome{bench.translated(program, laid), std::nullopt, {}, {}};
  const Trace kvm = bench.kvm(program, laid);
  std::string text = differences(outcome.translated, kvm);
  if (!text.empty()) outcome.difference = "translated | KVM:\n" + text;
  if (also.places && outcome.difference.empty()) {
    outcome.places = Places(bench, program, laid).compare();
    outcome.difference = outcome.places.difference;
  }
  if (!also.steps) return outcome;
  Story steps_story, told;
  outcome.stepped = bench.stepped(program, laid, steps_story);
  if (!outcome.difference.empty()) return outcome;
  text = differences(outcome.translated, *outcome.stepped);
  const bool ended = outcome.translated.end == Trace::End::ended && outcome.stepped->end == Trace::End::ended;
  if (text.empty() && ended && outcome.translated.branches != outcome.stepped->branches)
    text = fmt::format("  branches: {} | {}\n", outcome.translated.branches, outcome.stepped->branches);
  if (!text.empty()) outcome.difference = "translated | translated, by single steps:\n" + text;
  if (!outcome.difference.empty() || !ended) return outcome;
  const Trace observed = bench.observed(program, laid, told);
  text = differences(outcome.translated, observed);
  if (text.empty() && observed.end == Trace::End::ended && observed.branches != outcome.translated.branches)
    text = fmt::format("  branches: {} | {}\n", outcome.translated.branches, observed.branches);
  if (!text.empty()) outcome.difference = "translated | translated, observed by an instrument:\n" + text;
  if (!text.empty() || observed.end != Trace::End::ended) return outcome;
  text = differences(told, steps_story, bench.space());
  if (!text.empty()) outcome.difference = "what an instrument is told | what single steps show:\n" + text;
  return outcome;
}

// The smallest part of a program, by leaving out instructions, that `fails` still.
class Shrinking {
 public:
  template <typename Fails>
  static std::vector<bool> smallest(const Program& program, Fails fails) {
    std::vector<bool> left(program.items.size(), true);
    for (size_t width = std::max<size_t>(program.items.size() / 2, 1);;
         width = std::max<size_t>(width / 2, 1)) {
      bool smaller = false;
      for (size_t from = 0; from < left.size(); from += width) {
        std::vector<bool> fewer = left;
        for (size_t i = from; i < std::min(from + width, left.size()); ++i)
          if (!program.items[i].keeps) fewer[i] = false;
        settle(program, fewer);
        if (fewer == left || !fails(fewer)) continue;
        left = fewer;
        smaller = true;
      }
      if (width == 1 && !smaller) return left;
    }
  }

 private:
  // What others need stays.
  static void settle(const Program& program, std::vector<bool>& left) {
    const auto& items = program.items;
    for (bool changed = true; changed;) {
      changed = false;
      const auto become = [&](size_t i, bool value) {
        changed = changed || left[i] != value;
        left[i] = value;
      };
      for (size_t i = 0; i < items.size(); ++i) {
        if (items[i].part_of) become(i, left[*items[i].part_of]);
        if (!left[i]) continue;
        for (const size_t needed : items[i].needs) become(needed, true);
      }
    }
  }
};

std::string report(Bench& bench, const Program& program, uint64_t number, const Outcome& outcome, Also also) {
  std::string text =
      fmt::format("program {} (its seed is {:#x}), {}", number, program.seed, outcome.difference);
  const auto again = [&](const std::vector<bool>& left, std::string* difference) {
    const auto laid = lay(program, left);
    if (!laid) return false;
    bench.put(std::span(&*laid, 1));
    const Outcome one = compare(bench, program, *laid, also);
    if (difference != nullptr) *difference = one.difference;
    return !one.difference.empty();
  };
  constexpr int kTimes = 5;
  int times = 0;
  for (int i = 0; i < kTimes; ++i) times += again({}, nullptr) ? 1 : 0;
  text += fmt::format("executed again by itself it differs {} times of {}\n", times, kTimes);
  if (times != kTimes) return text + listing(*lay(program));
  const std::vector<bool> left =
      Shrinking::smallest(program, [&](const std::vector<bool>& fewer) { return again(fewer, nullptr); });
  std::string difference;
  again(left, &difference);
  const auto laid = lay(program, left);
  return text + fmt::format("what is left when others are left out, {}{}from {}\n", difference,
                            listing(*laid), describe(program.registers));
}

}  // namespace

ComparisonResult compare_programs(const ComparisonOptions& options, ComparisonProgress* progress) {
  Bench bench(options);
  static std::map<CpuModelKind, FormTable> tables;  // decoding all opcodes takes a second under sanitizers
  if (!tables.contains(options.model)) tables.emplace(options.model, all_forms(options.model));
  const FormTable& forms = tables.at(options.model);
  ComparisonResult result;
  for (uint64_t batch = options.first / kSlots * kSlots; result.instructions < options.instructions;
       batch += kSlots) {
    std::vector<Program> programs;
    std::vector<Laid> laid;
    for (uint64_t slot = 0; slot < kSlots; ++slot) {
      Program program = make_program(forms, mix(options.seed, batch + slot), slot);
      auto code = lay(program);
      if (!code) fail(ErrorKind::internal, "program {} is larger than a slot", batch + slot);
      programs.push_back(std::move(program));
      laid.push_back(std::move(*code));
    }
    bench.put(laid);
    for (uint64_t slot = 0; slot < kSlots && result.instructions < options.instructions; ++slot) {
      const uint64_t number = batch + slot;
      if (number < options.first) continue;
      if (progress != nullptr && !progress->at(result, number)) return result;
      const auto one_of = [number](uint64_t every) { return every != 0 && number % every == 0; };
      const Also also{.steps = one_of(options.steps_every), .places = one_of(options.places_every)};
      const Outcome outcome = compare(bench, programs[slot], laid[slot], also);
      ++result.programs;
      result.instructions += laid[slot].instructions.size();
      result.exits += outcome.translated.stops.size();
      if (outcome.translated.end == Trace::End::ended) result.branches += outcome.translated.branches;
      if (outcome.translated.end == Trace::End::refused) ++result.refused;
      if (outcome.translated.end == Trace::End::endless) ++result.endless;
      if (outcome.stepped) {
        ++result.stepped;
        result.executed += outcome.stepped->steps;
      }
      if (also.places) {
        ++result.with_places;
        result.steps += outcome.places.steps;
        result.shared_steps += outcome.places.shared;
        result.places += outcome.places.places;
        result.apart += outcome.places.apart;
      }
      if (outcome.difference.empty()) continue;
      result.difference = report(bench, programs[slot], number, outcome, also);
      return result;
    }
  }
  return result;
}

}  // namespace aftercheck
