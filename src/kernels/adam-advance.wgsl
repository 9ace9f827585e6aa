// One more step: correction = (1 - beta1^t, 1 - beta2^t) by q' = beta q + (1 - beta), which keeps its digits where
// 1 - beta^t would lose them; count = t. Grid: one invocation.
struct Params { betas: vec2<f32>, complements: vec2<f32> }
@group(0) @binding(0) var<storage, read_write> correction: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read_write> count: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(1)
fn main() {
  correction[0] = params.betas * correction[0] + params.complements;
  count[0] = count[0] + 1u;
}
