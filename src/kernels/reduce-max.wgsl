// y[o,c] = max_r x[o,r,c] and index[o,c] = the first r that has it, x [outer, length, inner]. Registers only.
// Grid: one invocation an element of y.
struct Params { count: u32, length: u32, inner: u32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> index: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  let o = i / params.inner;
  var at = o * params.length * params.inner + (i - o * params.inner);
  var best = x[at];
  var where_ = 0u;
  for (var r = 1u; r < params.length; r++) {
    at += params.inner;
    let v = x[at];
    if (v > best) { best = v; where_ = r; }
  }
  y[i] = best;
  index[i] = where_;
}
