#include "machine/translated/path_teller.h"

namespace aftercheck::translated {

// --- control flow ---

void FlowTeller::hand_over() {
  if (run_count_ != 0) flow_.branches(std::span(runs_).first(run_count_));
  run_count_ = 0;
}

void FlowTeller::put(uint64_t next, bool indirect) {
  runs_[run_count_++] = {outcomes_, next, count_, indirect};
  outcomes_ = 0;
  count_ = 0;
  if (run_count_ == runs_.size()) hand_over();
}

void FlowTeller::tell(const NoteBuffer& notes, const Paths& paths) {
  const uint32_t* at = notes.notes();
  const uint32_t* const end = notes.notes_end();
  if (wants_code_)
    for (const uint32_t* note = at; note != end; ++note) {
      const Path& path = paths[PathNote(*note).number()];
      flow_.executed(path.start, path.end);
    }
  const uint64_t* target = notes.targets();
  uint64_t outcomes = outcomes_;
  uint32_t count = count_;
  while (at != end) {
    BranchRun* run = &runs_[run_count_];
    BranchRun* const runs_end = runs_.data() + runs_.size();
    // Which path comes next can't be foreseen: whether it ends a run is no branch here.
    for (; at != end && run != runs_end; ++at) {
      const PathNote note(*at);
      const uint64_t indirect = note.indirect(), goes_on = indirect - 1;
      outcomes = outcomes << note.conditionals() | note.taken();
      count += note.conditionals();
      *run = {outcomes, *target, count, true};
      target += indirect;
      run += indirect;
      outcomes &= goes_on;
      count &= static_cast<uint32_t>(goes_on);
      if (count > kFull) [[unlikely]] {
        *run++ = {outcomes, paths.behind_conditionals(paths[note.number()]), count, false};
        outcomes = 0;
        count = 0;
      }
    }
    run_count_ = static_cast<size_t>(run - runs_.data());
    if (run == runs_end) hand_over();
  }
  outcomes_ = outcomes;
  count_ = count;
  if (count_ != 0) behind_ = paths.behind_conditionals(paths[PathNote(end[-1]).number()]);
}

void FlowTeller::tell(const Path& path, uint64_t target, const Paths& paths) {
  if (wants_code_) flow_.executed(path.start, path.end);
  outcomes_ = outcomes_ << path.conditionals | (path.taken() ? 1U : 0U);
  count_ += path.conditionals;
  if (path.indirect()) return put(target, true);
  behind_ = paths.behind_conditionals(path);
  if (count_ > kFull) put(behind_, false);
}

void FlowTeller::stop() {
  if (count_ != 0) put(behind_, false);
  hand_over();
}

// --- instruments ---

void InstrumentTeller::hand_over() {
  if (!events_.empty()) instrument_.executed(events_);
  events_.clear();
}

void InstrumentTeller::tell(const NoteBuffer& notes, const Paths& paths) {
  const uint64_t* target = notes.targets();
  for (const uint32_t* at = notes.notes(); at != notes.notes_end(); ++at) {
    const Path& path = paths[PathNote(*at).number()];
    tell(path, path.indirect() ? *target++ : 0, paths);
  }
}

void InstrumentTeller::tell_found(uint64_t instruction) {
  for (const MemoryAccess& access : found) {
    const bool store = access.access == Access::write;
    add({store ? Executed::Kind::store : Executed::Kind::load, false, access.size, instruction,
         access.address});
  }
  found.clear();
}

void InstrumentTeller::tell(const Path& path, uint64_t target, const Paths& paths) {
  using Kind = Executed::Kind;
  if (wants_.blocks) add({Kind::block, false, 0, path.start, path.end});
  const AccessSite* access = paths.accesses.data() + path.first_access;
  const AccessSite* const accesses_end = access + path.accesses;
  const auto tell_accesses = [&](uint64_t up_to) {
    for (; access != accesses_end && access->instruction <= up_to; ++access)
      add({access->store ? Kind::store : Kind::load, false, access->size, access->instruction, *address_++});
  };
  if (wants_.branches) {
    for (unsigned i = 0; i < path.conditionals; ++i) {
      const ConditionalSite& site = paths.conditionals[path.first_conditional + i];
      tell_accesses(site.address);
      const bool taken = path.taken() && i + 1U == path.conditionals;
      add({Kind::conditional, taken, 0, site.address, taken ? path.next : site.next});
    }
  }
  tell_accesses(UINT64_MAX);
  if (!found.empty()) tell_found(path.start);
  if (!wants_.branches) return;
  const uint64_t to = path.indirect() ? target : path.next;
  switch (path.how) {
    case PathEnd::behind:
    case PathEnd::taken:
      break;
    case PathEnd::jump:
      return add({Kind::jump, false, 0, path.last, to});
    case PathEnd::call:
      return add({Kind::call, false, 0, path.last, to});
    case PathEnd::indirect_jump:
      return add({Kind::indirect_jump, false, 0, path.last, to});
    case PathEnd::indirect_call:
      return add({Kind::indirect_call, false, 0, path.last, to});
    case PathEnd::ret:
      return add({Kind::ret, false, 0, path.last, to});
  }
}

// --- both ---

PathTeller::PathTeller(ControlFlow* flow, Instrument* instrument, NoteBuffer& notes) : notes_(notes) {
  if (flow != nullptr) flow_.emplace(*flow);
  if (instrument != nullptr) instrument_.emplace(*instrument);
  clear();
}

void PathTeller::clear() {
  notes_.clear();
  if (instrument_) instrument_->begin(notes_);
}

// Addresses of a path that is not noted yet may be left.
void PathTeller::tell_notes() {
  if (notes_.notes() == notes_.notes_end()) return;
  if (flow_) flow_->tell(notes_, *paths_);
  if (instrument_) instrument_->tell(notes_, *paths_);
}

void PathTeller::drain() {
  tell_notes();
  clear();
}

void PathTeller::went(const Path& path, uint64_t target) {
  tell_notes();
  if (path.start != path.end) {
    if (flow_) flow_->tell(path, target, *paths_);
    if (instrument_) instrument_->tell(path, target, *paths_);
  }
  clear();
}

void PathTeller::executed(uint64_t start, uint64_t end) {
  Path path;
  path.start = start;
  path.end = path.next = end;
  went(path);
}

void PathTeller::stop() {
  drain();
  if (flow_) flow_->stop();
  if (instrument_) instrument_->hand_over();
}

}  // namespace aftercheck::translated
