#include "executions.h"

namespace aftercheck::pt::test {

std::vector<Step> random_execution(Random& random, size_t count) {
  std::vector<Step> steps(count);
  uint64_t here = 0x400000;
  const auto jump = [&] {
    switch (random.below(4)) {
      case 0:
        return here = 0x400000 + random.below(1u << 16);
      case 1:
        return here = 0x400000 + random.below(1u << 30);
      case 2:
        return here = 0x7fff'0000'0000 + random.below(1u << 30);
      default:
        return here = here + 16 + random.below(64);
    }
  };
  for (auto& step : steps) {
    const uint64_t roll = random.below(100);
    step.from = here;
    step.taken = random.below(3) != 0;
    if (roll < 80)
      step.kind = Step::conditional;
    else if (roll < 95)
      step.kind = Step::indirect;
    else if (roll < 96)
      step.kind = Step::asynchronous;
    else if (roll < 98)
      step.kind = Step::system_call;
    else if (roll < 99)
      step.kind = Step::fault;
    else
      step.kind = Step::ptwrite;
    if (step.kind == Step::fault) here += 3;  // the handler is elsewhere
    step.address = step.kind == Step::ptwrite ? random.next() : jump();
  }
  return steps;
}

std::vector<uint8_t> encode(const std::vector<Step>& steps, const EncoderOptions& options,
                            const std::function<void(Encoder&, size_t)>& vary) {
  Encoder encoder(options);
  encoder.enable(0x400000);
  for (size_t i = 0; i < steps.size(); ++i) {
    const Step& step = steps[i];
    if (vary) vary(encoder, i);
    switch (step.kind) {
      case Step::conditional:
        encoder.conditional(step.taken, step.address);
        break;
      case Step::indirect:
        encoder.indirect(step.address);
        break;
      case Step::asynchronous:
        encoder.asynchronous(step.from, step.address);
        break;
      case Step::system_call:
        encoder.disable();
        encoder.enable(step.address);
        break;
      case Step::fault:
        encoder.disable_asynchronous(step.from);
        encoder.enable(step.address);
        break;
      case Step::ptwrite:
        encoder.ptwrite(step.address, 8);
        break;
    }
  }
  encoder.disable();
  return encoder.take();
}

EncoderOptions random_options(Random& random) {
  EncoderOptions options;
  options.psb_period = random.below(3) == 0 ? 0 : static_cast<uint32_t>(64 + random.below(4096));
  options.tnt_short_bits = static_cast<uint8_t>(1 + random.below(6));
  options.tnt_long_bits = random.below(2) == 0 ? 0 : static_cast<uint8_t>(1 + random.below(47));
  options.defer_tips = random.below(4) == 0;
  options.ip_style = static_cast<IpStyle>(random.below(3));
  options.pad_before_packet = random.below(3) == 0 ? static_cast<uint8_t>(random.below(20)) : 0;
  options.cbr_in_psb = random.below(2) == 0;
  options.pip_in_psb = random.below(2) == 0;
  options.vmcs_in_psb = random.below(2) == 0;
  options.timing = random.below(2) == 0;
  return options;
}

}  // namespace aftercheck::pt::test
