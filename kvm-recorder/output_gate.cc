// What leaves the guest: noted here, so that it can be shown again, and could be held.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "kvm-recorder/process_tree.h"
#include "kvm-recorder/system_calls.h"
#include "recording/digest.h"

namespace aftercheck {
namespace {

using recording::OutputStep;
using recording::OutputStepKind;

// /dev/null and the like take any number of bytes without looking at them; what can't be read was not put
// out.
bool was_readable(const AddressSpace& space, uint64_t address, uint64_t size) {
  if (!space.accessible(address, size, PROT_READ)) return false;
  const Mapping* mapping = space.find(address + size - 1);
  if (mapping->backing != Backing::file) return true;
  const uint64_t page_in_file = mapping->offset + page_down(address + size - 1) - mapping->start;
  return page_in_file < mapping->file_size;  // beyond is a SIGBUS
}

void add_step(Call& call, uint8_t stream, OutputStepKind kind, int64_t offset) {
  OutputStep step;
  step.kind = kind;
  step.stream = stream;
  step.offset = offset - call.process.descriptors.place(stream).base;
  call.answer.add(std::move(step));
}

void seek(Call& call, uint8_t stream, int64_t to) {
  OutputPlace& place = call.process.descriptors.place(stream);
  if (to == place.at && !has_other_processes(call.process)) return;  // others move it, too
  add_step(call, stream, OutputStepKind::seek, to);
  place.at = to;
}

// Must each output say where it goes?
bool is_positioned(const Call& call, uint8_t stream, const OutputPlace& place) {
  if (!has_other_processes(call.process)) return place.positioned;
  if (place.positioned) call.process.tree->moves_in_output(stream);
  return place.positioned || call.process.tree->moved_in_output(stream);
}

// Where `size` bytes went that were just written through `fd`.
int64_t start_of_output(int fd, int64_t size, std::optional<int64_t> offset) {
  if (!offset) return lseek(fd, 0, SEEK_CUR) - size;
  struct stat status {};
  // pwrite(2), BUGS: with O_APPEND the bytes go to the end, wherever they were to go.
  if ((fcntl(fd, F_GETFL) & O_APPEND) != 0 && fstat(fd, &status) == 0) return status.st_size - size;
  return *offset;
}

// A step before the output where it does not go on from where the last one ended.
void note_place(Call& call, int fd, int64_t size, std::optional<int64_t> offset) {
  const uint8_t stream = call.process.descriptors.stream(fd);
  if (stream == 0) return;
  OutputPlace& place = call.process.descriptors.place(stream);
  if (!place.regular) return;
  if (offset) place.positioned = true;
  if (is_positioned(call, stream, place)) seek(call, stream, start_of_output(fd, size, offset));
  place.at += size;
}

// After an output: a call that says where leaves the descriptor's own position alone.
void back_to_position(Call& call, int fd, std::optional<int64_t> offset) {
  const uint8_t stream = call.process.descriptors.stream(fd);
  if (stream == 0 || !offset || !call.process.descriptors.place(stream).regular) return;
  seek(call, stream, lseek(fd, 0, SEEK_CUR));
}

}  // namespace

void output_gate(Call& call, int fd, std::span<const iovec> pieces, uint64_t length,
                 std::optional<int64_t> offset) {
  const AddressSpace& space = call.process.memory.space();
  recording::Output output;
  output.stream = call.process.descriptors.stream(fd);
  output.fd = fd;
  const auto size_of_all = static_cast<int64_t>(length);
  recording::OutputDigest digest;
  std::vector<std::byte> sent;
  for (const iovec& piece : pieces) {
    const auto address = reinterpret_cast<uint64_t>(piece.iov_base);
    const uint64_t size = std::min<uint64_t>(piece.iov_len, length);
    length -= size;
    if (size == 0) continue;
    const std::byte* bytes = call.buffers.sent(address, size);
    if (bytes == nullptr || !was_readable(space, address, size)) return;
    output.pieces.push_back({address, size});
    digest.update({bytes, size});
    if (call.task.suspended) sent.insert(sent.end(), bytes, bytes + size);
  }
  // Other threads have run since, and may have changed the memory that these bytes came from.
  if (call.task.suspended) return output_gate(call, fd, std::move(sent), offset);
  output.digest = digest.value();
  note_place(call, fd, size_of_all, offset);
  call.answer.add(std::move(output));
  back_to_position(call, fd, offset);
}

void output_gate(Call& call, int fd, std::vector<std::byte> bytes, std::optional<int64_t> offset) {
  OutputStep step;
  step.stream = call.process.descriptors.stream(fd);
  if (step.stream == 0 || bytes.empty()) return;
  note_place(call, fd, static_cast<int64_t>(bytes.size()), offset);
  step.bytes = std::move(bytes);
  call.answer.add(std::move(step));
  back_to_position(call, fd, offset);
}

void output_sought(Call& call, int fd, int64_t from, int64_t to) {
  const uint8_t stream = call.process.descriptors.stream(fd);
  OutputPlace& place = call.process.descriptors.place(stream);
  if (from != to) place.positioned = true;
  if (is_positioned(call, stream, place)) seek(call, stream, to);
}

void output_resized(Call& call, uint8_t stream, int64_t size) {
  call.process.descriptors.place(stream).positioned = true;
  add_step(call, stream, OutputStepKind::resize, size);
}

}  // namespace aftercheck
