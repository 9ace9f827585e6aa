// norm = sqrt(sum of `squares`); control = (factor, norm, halted) with factor = min(1, limit / (norm + 1e-6)) as
// torch.nn.utils.clip_grad_norm_, and halted = 1 from the first norm or loss on that is not finite.
// NaN is seen in the bits that are read: drivers may assume that what was computed is none. Grid: one invocation.
struct Params { count: u32, limit: f32 }
@group(0) @binding(0) var<storage, read> squares: array<u32>;
@group(0) @binding(1) var<storage, read> loss: array<u32>;
@group(0) @binding(2) var<storage, read_write> control: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

fn bad(bits: u32) -> bool { return (bits & 0x7f800000u) == 0x7f800000u; }

@compute @workgroup_size(1)
fn main() {
  var total = 0.0;
  var halted = bad(loss[0]);
  for (var i = 0u; i < params.count; i++) {
    halted |= bad(squares[i]);
    total += bitcast<f32>(squares[i]);
  }
  // Finite squares whose sum is not.
  halted |= bad(bitcast<u32>(total));
  if (halted) { control[2] = 1.0; }
  let norm = sqrt(total);
  control[0] = min(1.0, params.limit / (norm + 1e-6));
  control[1] = norm;
}
