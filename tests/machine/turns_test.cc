// Several vCPUs of one machine, each on a thread of its own, that take turns.
#include <condition_variable>
#include <functional>
#include <mutex>
#include <random>
#include <thread>

#include "machine/dense_exits.h"
#include "tests/machine/machine_guest.h"

namespace aftercheck {
namespace {

using Guest = MachineGuest;
constexpr int kRw = Guest::kRw, kRx = Guest::kRx, kRwx = Guest::kRwx;

// Does what it is told on a thread of its own, while the others wait.
class Worker {
 public:
  Worker() : thread_([this] { work(); }) {}
  ~Worker() {
    {
      const std::lock_guard lock(mutex_);
      ends_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  void operator()(const std::function<void()>& task) {
    std::unique_lock lock(mutex_);
    task_ = &task;
    changed_.notify_all();
    changed_.wait(lock, [this] { return task_ == nullptr; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void()>* task_ = nullptr;
  bool ends_ = false;
  std::thread thread_;

  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return ends_ || task_ != nullptr; });
      if (task_ == nullptr) return;
      (*task_)();
      task_ = nullptr;
      changed_.notify_all();
    }
  }
};

// mov al, [rdi]; syscall | mov [rdi], al; syscall | call rdi; syscall
const Code kLoad = {0x8a, 0x07, 0x0f, 0x05}, kStore = {0x88, 0x07, 0x0f, 0x05},
           kCall = {0xff, 0xd7, 0x0f, 0x05};
constexpr uint64_t kLoadAt = Guest::kCode, kStoreAt = Guest::kCode + 0x10, kCallAt = Guest::kCode + 0x20;

// Pages that change: some beside each other, some with 2 MiB of their own.
constexpr uint64_t kFirst = kMainWindow.start + 0x800000, kFar = 0x400000, kPages = 8;
uint64_t page_at(uint64_t number) {
  return number < kPages / 2 ? kFirst + number * kPageSize : kFirst + (number - kPages / 2 + 1) * kFar;
}

// 1: rdtsc; mov eax, value; dec ecx; jnz 1b; ret: where that traps, others may change the value before it
// goes on.
Code interrupted_function(uint8_t value) {
  return {0x0f, 0x31, 0xb8, value, 0, 0, 0, 0xff, 0xc9, 0x75, 0xf5, 0xc3};
}

struct Page {
  bool mapped = false;
  int prot = 0;
  enum class Holds : uint8_t { nothing, function, interrupted_function } holds = Holds::nothing;
  uint8_t value = 0;  // what its function returns
  uint64_t offset() const { return holds == Holds::interrupted_function ? 3 : 1; }
};

struct Player {
  Worker on_thread;
  std::unique_ptr<Vcpu> vcpu;
};

class Game {
 public:
  // `leaving`: vCPUs that may leave a machine on KVM.
  Game(MachineKind kind, bool leaving, size_t players)
      : guest_(kind, kLoad), leaving_(leaving), players_(players) {
    guest_.put(kStore, kStoreAt);
    guest_.put(kCall, kCallAt);
    for (size_t i = 0; i < players; ++i) begin(i);
  }
  ~Game() {
    for (size_t i = 0; i < players_.size(); ++i) end(i);
  }
  Game(const Game&) = delete;
  Game& operator=(const Game&) = delete;

  // So many instructions have trapped.
  unsigned play(unsigned rounds) {
    for (unsigned round = 0; round < rounds; ++round) {
      INFO("round " << round);
      change(random_() % kPages);
      for (int i = 0; i < 4; ++i) look(random_() % players_.size(), random_() % kPages);
      if (random_() % 64 != 0) continue;
      const size_t leaves = random_() % players_.size();
      end(leaves);
      begin(leaves);
    }
    return trapped_;
  }

 private:
  Guest guest_;
  const bool leaving_;
  std::vector<Player> players_;
  std::array<Page, kPages> pages_;
  std::minstd_rand random_{7};
  unsigned trapped_ = 0;

  void begin(size_t player) {
    Player& p = players_[player];
    p.on_thread([&] {
      p.vcpu = leaving_ ? create_leaving_vcpu(*guest_.machine, guest_.space, guest_.cpu)
                        : guest_.machine->create_vcpu();
      p.vcpu->set_fpu(FpuState::initial());
    });
  }
  void end(size_t player) {
    players_[player].on_thread([&] { players_[player].vcpu.reset(); });
  }

  static Range range(uint64_t number) { return {page_at(number), page_at(number) + kPageSize}; }

  // By the host, as for a system call of a guest thread.
  void change(uint64_t number) {
    Page& page = pages_[number];
    constexpr std::array kProts = {PROT_NONE, PROT_READ, kRw, kRx, kRwx, kRwx};
    const int prot = kProts[random_() % kProts.size()];
    switch (random_() % 4) {
      case 0:
        if (page.mapped) REQUIRE(guest_.space.unmap(range(number)) == 0);
        page = {};
        if (random_() % 2 != 0) return;
        [[fallthrough]];
      case 1:
        if (page.mapped) break;
        REQUIRE(guest_.space.map_anonymous(range(number), prot, false) == 0);
        page = {true, prot};
        break;
      case 2:
        if (!page.mapped) return;
        REQUIRE(guest_.space.protect(range(number), prot) == 0);
        page.prot = prot;
        return;
      default:
        break;
    }
    if (!page.mapped) return;
    page.value = static_cast<uint8_t>(random_());
    page.holds = random_() % 2 == 0 ? Page::Holds::function : Page::Holds::interrupted_function;
    guest_.put(page.offset() == 1 ? function(page.value) : interrupted_function(page.value), page_at(number));
  }

  Exit run(size_t player, uint64_t at, uint64_t rdi, uint8_t al) {
    Registers& r = players_[player].vcpu->registers();
    r = Registers();
    r.rsp = Guest::kStackTop - 0x1000 * (player + 1);
    r.rip = at;
    r.rdi = rdi;
    r.rax = al;
    r.rcx = 3;
    return go_on(player);
  }
  Exit go_on(size_t player) {
    Exit exit;
    players_[player].on_thread([&] { exit = players_[player].vcpu->run(); });
    return exit;
  }

  void expect(const Exit& exit, bool allowed, Access access, uint64_t address) {
    const Exit wanted = allowed ? Exit{.kind = ExitKind::syscall}
                                : Exit{.kind = ExitKind::memory_fault, .address = address, .access = access};
    INFO(describe(exit) << ", not " << describe(wanted));
    REQUIRE(exit == wanted);
  }

  void load(size_t player, uint64_t number) {
    const Page& page = pages_[number];
    const uint64_t at = page_at(number) + page.offset();
    expect(run(player, kLoadAt, at, 0), page.prot != 0, Access::read, at);
    if (page.prot != 0) REQUIRE((players_[player].vcpu->registers().rax & 0xff) == page.value);
  }
  void store(size_t player, uint64_t number) {
    Page& page = pages_[number];
    const uint64_t at = page_at(number) + page.offset();
    const auto value = static_cast<uint8_t>(random_());
    const bool allowed = (page.prot & PROT_WRITE) != 0;
    expect(run(player, kStoreAt, at, value), allowed, Access::write, at);
    if (allowed) page.value = value;
  }
  void call(size_t player, uint64_t number) {
    const Page& page = pages_[number];
    const bool allowed = (page.prot & PROT_EXEC) != 0;
    if (allowed && page.holds == Page::Holds::nothing) return;
    Exit exit = run(player, kCallAt, page_at(number), 0xff);
    while (exit.kind == ExitKind::trapped_instruction) {
      ++trapped_;
      REQUIRE(page.holds == Page::Holds::interrupted_function);
      players_[player].vcpu->registers().rip += exit.instruction.length;
      // Another's turn.
      if (const size_t other = random_() % players_.size(); other != player) store(other, number);
      exit = go_on(player);
    }
    expect(exit, allowed, Access::fetch, page_at(number));
    if (allowed) REQUIRE(players_[player].vcpu->registers().rax == page.value);
  }

  // A player loads, stores or calls, and finds it as everybody has left it.
  void look(size_t player, uint64_t number) {
    const Page& page = pages_[number];
    INFO("player " << player << ", page " << number << ", mapped " << page.mapped << ", prot " << page.prot);
    switch (random_() % 3) {
      case 0:
        return load(player, number);
      case 1:
        return store(player, number);
      default:
        return call(player, number);
    }
  }
};

void turns(MachineKind kind, bool leaving = false) {
  const unsigned trapped = Game(kind, leaving, 3).play(1500);
  // The processor may execute RDTSC.
  if (kind != MachineKind::kvm || leaving) CHECK(trapped > 50);
}

// More vCPUs than a machine could ever have at once, one after the other.
void many_after_each_other(MachineKind kind) {
  Guest guest(kind, kLoad);
  for (uint64_t i = 0; i < 600; ++i) {
    const auto vcpu = guest.machine->create_vcpu();
    FpuState fpu = vcpu->fpu();
    REQUIRE(canonical_fpu(fpu) == canonical_fpu(FpuState::initial()));
    fpu.fxsave[200] = std::byte{1};
    vcpu->set_fpu(fpu);
    vcpu->registers() = Registers();
    vcpu->registers().rip = kLoadAt;
    vcpu->registers().rdi = i % 3 == 0 ? 0x10 : Guest::kData;
    REQUIRE(vcpu->run().kind == (i % 3 == 0 ? ExitKind::memory_fault : ExitKind::syscall));
  }
}

}  // namespace

ON_ALL_MACHINES("vCPUs on threads of their own take turns while mappings change", turns(machine))
ON_MACHINE("vCPUs that may leave KVM take turns while mappings change", kvm, turns(machine, true))
ON_PROCESSORS("many vCPUs, one after the other", many_after_each_other(machine))

}  // namespace aftercheck
