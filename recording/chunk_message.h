// A Cap'n Proto message as the payload of a chunk.
#pragma once

#include <capnp/serialize.h>

#include <cstdint>

#include "recording/chunk_file.h"

namespace aftercheck::recording {

// Feeds a message to a chunk's compression without gluing its segments together first.
class ChunkStream final : public kj::OutputStream {
 public:
  explicit ChunkStream(ChunkFileWriter& file) : file_(file) {}
  void write(const void* buffer, size_t size) override {
    file_.add({static_cast<const std::byte*>(buffer), size});
  }

 private:
  ChunkFileWriter& file_;
};

// Writes the message as one chunk; `header` needs its kind's own fields only. Gives the payload's length.
// Throws as the writer does.
inline uint64_t write_message(ChunkFileWriter& file, ChunkHeader& header, capnp::MessageBuilder& message) {
  header.raw_length = capnp::computeSerializedSizeInWords(message) * sizeof(capnp::word);
  file.begin(header.raw_length);
  ChunkStream stream(file);
  capnp::writeMessage(stream, message);
  file.end(header);
  return header.raw_length;
}

}  // namespace aftercheck::recording
