// dz[r, c] = dy[r] Σ_i weights[r, i] [taps[r, i] = c]. Grid: one invocation an element of dz.
struct Params { count: u32, classes: u32 }
@group(0) @binding(0) var<storage, read> taps: array<u32>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> dz: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  let r = i / params.classes;
  let c = i - r * params.classes;
  var sum = 0.0;
  for (var k = 0u; k < 5u; k++) { sum += select(0.0, weights[5u * r + k], taps[5u * r + k] == c); }
  dz[i] = dy[r] * sum;
}
