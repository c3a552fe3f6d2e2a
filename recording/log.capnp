# The payload of one chunk of DIR/events. docs/recording-format.md says how the columns are filled.
@0xd49f6ed56a8267f4;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("aftercheck::recording::log");

# The payload's root. What every event has is kept in columns, because columns compress several times better than one
# structure per event; what few events have is kept in `extras`.
struct Chunk {
  firstEvent @0 :UInt64;          # number of the first event, counting from 0 over the whole recording
  baseTime @1 :UInt64;            # `times` starts from here, ns since the start of the recording
  shapes @2 :List(Shape);
  shapeIndexes @3 :Data;          # per event: varint, index in `shapes`
  times @4 :Data;                 # per event: signed varint, time minus the time of the event before
  digests @5 :List(UInt32);       # per event, but for those of shortDigests: running register digest
  masks @6 :Data;                 # per event: one bit per slot of its shape, set when the slot changed
  deltas @7 :Data;                # per changed slot: signed varint, value minus the shape's value before
  outputDigests @8 :List(UInt64); # per output
  smallBytes @9 :Data;            # bytes of memory writes shorter than 256 bytes
  bulkBytes @10 :Data;            # bytes of the other memory writes
  extras @11 :List(Extra);        # ordered by `event`
  shortDigests @12 :Data;         # per `preempted` event: two bytes, the low half of its digest
}

# What events have in common: all that is not a number that changes. An event's slots are, in this order: its operands
# (but the first of a system call), the values of its registers, address and length of each memory write, address and
# length of each piece of each output.
struct Shape {
  kind @0 :UInt8;                 # EventKind
  thread @1 :UInt32;
  rip @2 :UInt64;
  number @3 :UInt64;              # system call with operands: operand 0; else 0
  operands @4 :UInt32;            # count, operand 0 included
  registers @5 :Data;             # register numbers
  writes @6 :UInt32;              # count
  outputs @7 :List(Output);

  struct Output {
    stream @0 :UInt8;
    fd @1 :Int32;
    pieces @2 :UInt32;            # count
  }
}

# The rare parts of an event.
struct Extra {
  event @0 :UInt32;               # index of the event in this chunk
  memory @1 :List(MemoryDigest);
  hasFpuDigest @2 :Bool;
  fpuDigest @3 :UInt64;
  fpu @4 :Data;                   # 512 or 768 bytes, or none
  spaceOps @5 :List(SpaceOp);
  patches @6 :List(CodePatch);
  outputSteps @7 :List(OutputStep);
  branchesPlusOne @8 :UInt64;     # 0: they were not counted
}

struct MemoryDigest {
  address @0 :UInt64;
  length @1 :UInt64;
  digest @2 :Data;                # 16 bytes
}

struct SpaceOp {
  kind @0 :UInt8;                 # SpaceOpKind
  shared @1 :Bool;
  prot @2 :UInt32;
  address @3 :UInt64;
  length @4 :UInt64;
  newAddress @5 :UInt64;
  newLength @6 :UInt64;
  blob @7 :Data;                  # 16 bytes, or none: all zero
  blobOffset @8 :UInt64;
  name @9 :Data;                  # not Text: paths need not be UTF-8
  bytes @10 :Data;                # fill_file
}

struct OutputStep {
  kind @0 :UInt8;                 # OutputStepKind
  stream @1 :UInt8;
  before @2 :UInt32;              # how many of the event's outputs come first
  offset @3 :Int64;
  bytes @4 :Data;
}

struct CodePatch {
  address @0 :UInt64;
  kind @1 :UInt8;
  length @2 :UInt8;
  operand @3 :UInt8;
  operandBits @4 :UInt8;
  original @5 :Data;              # 15 bytes
}
