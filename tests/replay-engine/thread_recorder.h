// Recordings with several threads, made by hand: a recorder whose scheduler is the test. It runs a guest that
// the real one has started, on the translated machine, and answers its few calls itself.
#pragma once

#include <catch2/catch.hpp>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "recording/reader.h"
#include "recording/store.h"
#include "recording/writer.h"
#include "replay-engine/exit_text.h"
#include "replay-engine/guest.h"

namespace aftercheck::test {

class ThreadRecorder {
 public:
  // `from` is a recording whose start is to be this one's; `to` must not exist. Throws Error(host_lacks)
  // where there is no translated machine.
  ThreadRecorder(const std::filesystem::path& from, const std::filesystem::path& to)
      : store_((copy(from, to), to), false),
        guest_({MachineChoice::translated,
                {},
                CpuModel(CpuModelKind::portable),
                {},
                [] { return "made by hand"; }},
               store_),
        writer_(to) {
    recording::Reader reader(from);
    while (const recording::Event* event = reader.next()) {
      using enum recording::EventKind;
      if (event->kind != start && event->kind != continuation) break;
      log(*event);
    }
  }

  Guest& guest() { return guest_; }
  uint64_t events() const { return events_; }

  // Runs the thread to its next exit, or as many instructions at most: the event, without an answer.
  recording::Event run(uint32_t number, uint64_t steps = UINT64_MAX) {
    GuestThread& thread = guest_.thread(number);
    guest_.run(thread);
    Vcpu& vcpu = guest_.vcpu();
    vcpu.reset_branches();
    Exit exit{.kind = ExitKind::step};
    if (steps == UINT64_MAX)
      exit = vcpu.run();
    else
      for (; steps != 0 && exit.kind == ExitKind::step; --steps) exit = vcpu.step();
    recording::Event event;
    event.thread = number;
    event.time_ns = 1000 * events_;
    if (exit.kind == ExitKind::step) {
      event.kind = recording::EventKind::preempted;
      event.operands = {vcpu.registers().rip, vcpu.branches()};
    } else {
      event.kind = kind_of(exit);
      event.rip = vcpu.registers().rip;
      event.operands = operands_of(exit, vcpu.registers());
    }
    event.digest = thread.digest().update(canonical_state(vcpu.registers()));
    return event;
  }

  // What has an answer is answered.
  void log(const recording::Event& event) {
    guest_.apply(event);
    writer_.append(event);
    ++events_;
  }

  recording::Event event_of(uint32_t thread, recording::EventKind kind) const {
    recording::Event event;
    event.kind = kind;
    event.thread = thread;
    event.time_ns = 1000 * events_;
    return event;
  }

  // As clone(2) makes it: `maker` is at that call's exit, not answered.
  recording::Event started(uint32_t number, uint32_t maker, uint64_t stack) {
    recording::Event event = event_of(number, recording::EventKind::thread_start);
    event.operands = {maker, 1000 + number};
    GuestThread& parent = guest_.thread(maker);
    Registers registers = parent.registers();
    registers.rax = 0;
    registers.rsp = stack;
    const RegisterWords words = to_words(registers);
    for (size_t i = 0; i < words.size(); ++i) event.registers.push_back({static_cast<uint8_t>(i), words[i]});
    event.fpu = parent.fpu().bytes();
    return event;
  }

  // All that the guest has in memory.
  void add_digests(recording::Event& event) {
    for (const auto& [start, mapping] : guest_.space().mappings()) {
      std::vector<std::byte> bytes(mapping.end - start);
      if ((mapping.prot & 3) == 3 && bytes.size() <= (1 << 20) && guest_.read(start, bytes))
        event.memory.push_back({start, bytes.size(), recording::digest128(bytes)});
    }
    event.fpu_digest = recording::digest64(canonical_fpu(guest_.thread(event.thread).fpu()));
  }

  void finish() { writer_.finish(); }

 private:
  recording::Store store_;
  Guest guest_;
  recording::Writer writer_;
  uint64_t events_ = 0;

  static void copy(const std::filesystem::path& from, const std::filesystem::path& to) {
    std::filesystem::create_directory(to);
    std::filesystem::copy(from / "meta", to / "meta");
    std::filesystem::copy(from / "store", to / "store", std::filesystem::copy_options::recursive);
  }
};

}  // namespace aftercheck::test
