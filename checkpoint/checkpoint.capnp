# The payloads of DIR/checkpoints/*: a summary, then a body. docs/recording-format.md says what they mean.
@0xb1f2a37c90d44e15;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("aftercheck::checkpoint_log");

# The root of a file's first chunk.
struct Summary {
  event @0 :UInt64;               # number of the last entry of the log that was applied
  timeNs @1 :UInt64;              # its time, ns since the start of the recording
  workNs @2 :UInt64;              # processor time of the run or replay up to here, ns
  chunkOffset @3 :UInt64;         # the chunk of DIR/events that the next entry is in
  chunkSequence @4 :UInt64;
  chunkFirstEvent @5 :UInt64;
  pages @6 :UInt64;               # that are not as mapping alone would make them
  newPages @7 :UInt64;            # of them no earlier checkpoint had
}

# The root of its second chunk.
struct Body {
  threads @0 :List(Thread);
  mappings @1 :List(Mapping);
  patches @2 :List(Patch);
  files @3 :List(File);
  packs @4 :List(Data);           # 16 bytes each: blobs of the store
  frames @5 :List(Frame);
  runs @6 :List(Run);
}

struct Thread {
  number @0 :UInt32;
  registers @1 :List(UInt64);     # 20, in the order of machine/registers.h
  fpu @2 :Data;                   # 512 or 768 bytes
  digest @3 :UInt64;              # the running digest, all of it
}

struct Mapping {
  address @0 :UInt64;
  length @1 :UInt64;
  prot @2 :UInt32;
  shared @3 :Bool;
  file @4 :Bool;                  # else anonymous
  blob @5 :Data;                  # mapping of a blob: 16 bytes
  offset @6 :UInt64;              # in the blob, or in the file with a number
  number @7 :UInt64;              # mapping of a file with a number, which shared ones always are; else 0
  name @8 :Data;
}

struct Patch {
  address @0 :UInt64;
  kind @1 :UInt8;
  length @2 :UInt8;
  operand @3 :UInt8;
  operandBits @4 :UInt8;
  original @5 :Data;              # 15 bytes
}

# A file with a number; its contents are among the runs.
struct File {
  number @0 :UInt64;
  length @1 :UInt64;
  sized @2 :Bool;                 # the log says how long it is: mappings do not make it longer
}

# A zstd frame in a pack, with up to 16 pages.
struct Frame {
  pack @0 :UInt32;
  offset @1 :UInt64;              # in the pack
  length @2 :UInt32;              # of the frame
  pages @3 :UInt32;
  digest @4 :Data;                # XXH3-128 of the frame
}

# Pages that follow one another, in memory and in a frame.
struct Run {
  file @0 :UInt64;                # 0: guest memory; else the file with this number
  address @1 :UInt64;             # or offset in the file
  frame @2 :UInt32;
  firstPage @3 :UInt32;           # in the frame
  pages @4 :UInt32;
}
