#include "tools/flow_calls.h"

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace aftercheck::tools {

pt::FunctionAt FunctionNames::at(const symbols::Symbols& symbols, uint64_t address) {
  const symbols::Location where = symbols.find(address);
  const void* const key = where.function != nullptr ? static_cast<const void*>(where.function) : where.object;
  const auto [known, fresh] = numbers_.try_emplace(key, static_cast<uint32_t>(names_.size()));
  if (fresh)
    names_.push_back(where.function != nullptr ? where.function->name
                     : where.object != nullptr ? "[" + where.object->short_name() + "]"
                                               : "[unknown]");
  return {known->second, where.function != nullptr, where.function != nullptr && where.offset == 0};
}

OutputFile::OutputFile(const std::string& path) : path_(path), file_(std::fopen(path.c_str(), "we")) {
  if (file_ == nullptr) fail(ErrorKind::io, "{}: can't be written: {}", path, errno_text(errno));
}

void OutputFile::write(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), file_.get()) != text.size())
    fail(ErrorKind::io, "{}: can't be written: {}", path_, errno_text(errno));
}

void OutputFile::close() {
  if (std::fclose(file_.release()) != 0)
    fail(ErrorKind::io, "{}: can't be written: {}", path_, errno_text(errno));
}

uint32_t FoldedStacks::child(uint32_t parent, uint32_t function) {
  const uint64_t key = uint64_t{parent} << 32 | function;
  if (const auto known = children_.find(key); known != children_.end()) return known->second;
  if (nodes_.size() >= kMostNodes) {
    cut_ = true;
    return parent;
  }
  const auto fresh = static_cast<uint32_t>(nodes_.size());
  nodes_.push_back({function, parent, 0});
  children_.emplace(key, fresh);
  return fresh;
}

void FoldedStacks::called(uint32_t function) {
  if (path_.size() > kDeepest) {
    cut_ = true;
    path_.push_back(path_.back());
  } else {
    path_.push_back(child(path_.back(), function));
  }
}

void FoldedStacks::returned() { path_.pop_back(); }

void FoldedStacks::replaced(uint32_t function) {
  path_.pop_back();
  called(function);
}

void FoldedStacks::write(const FunctionNames& names, const std::string& root, OutputFile& file) const {
  // `;` and line ends separate, so they can't be part of a name.
  const auto clean = [](std::string name) {
    std::replace_if(
        name.begin(), name.end(), [](char c) { return c == ';' || c == '\n'; }, ':');
    return name;
  };
  for (size_t i = 1; i < nodes_.size(); ++i) {
    if (nodes_[i].instructions == 0) continue;
    std::vector<uint32_t> stack;
    for (size_t at = i; at != 0; at = nodes_[at].parent) stack.push_back(nodes_[at].function);
    std::string line = clean(root);
    for (auto function = stack.rbegin(); function != stack.rend(); ++function)
      line += ";" + clean(names.name(*function));
    file.write(line + fmt::format(" {}\n", nodes_[i].instructions));
  }
}

ChromeTrace::ChromeTrace(const std::string& path, const std::string& process, uint64_t most_calls,
                         const FunctionNames& names)
    : file_(path), names_(names), most_calls_(most_calls) {
  file_.write("{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n");
  event(nlohmann::json{{"ph", "M"}, {"pid", 1}, {"name", "process_name"}, {"args", {{"name", process}}}}.dump(
      -1, ' ', false, nlohmann::json::error_handler_t::replace));
}

void ChromeTrace::event(const std::string& text) {
  file_.write(first_ ? text : ",\n" + text);
  first_ = false;
}

void ChromeTrace::begin_stream(size_t number, const std::string& name) {
  stream_ = number;
  now_ = 0;
  event(nlohmann::json{
      {"ph", "M"}, {"pid", 1}, {"tid", number}, {"name", "thread_name"}, {"args", {{"name", name}}}}
            .dump());
}

void ChromeTrace::begin(uint32_t function) {
  const bool fits = written_ < most_calls_;
  open_.push_back(fits);
  if (!fits) {
    ++left_out_;
    return;
  }
  ++written_;
  const std::string name =
      nlohmann::json(names_.name(function)).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  event(fmt::format("{{\"ph\":\"B\",\"pid\":1,\"tid\":{},\"ts\":{}.{:03},\"name\":{}}}", stream_, now_ / 1000,
                    now_ % 1000, name));
}

void ChromeTrace::end() {
  const bool written = open_.back();
  open_.pop_back();
  if (written)
    event(fmt::format("{{\"ph\":\"E\",\"pid\":1,\"tid\":{},\"ts\":{}.{:03}}}", stream_, now_ / 1000,
                      now_ % 1000));
}

void ChromeTrace::called(uint32_t function) { begin(function); }
void ChromeTrace::returned() { end(); }

void ChromeTrace::replaced(uint32_t function) {
  end();
  begin(function);
}

void ChromeTrace::end_stream() {
  while (!open_.empty()) end();
}

void ChromeTrace::finish() {
  file_.write("\n]}\n");
  file_.close();
}

}  // namespace aftercheck::tools
