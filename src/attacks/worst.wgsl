// y[b, :] = mean of stack[d, b, :] over the `worst` draws d of lowest loss[d, b]; the earlier of equal ones first.
// Grid: one invocation an element of y [batch, size].
struct Params { count: u32, size: u32, batch: u32, draws: u32, worst: u32 }
@group(0) @binding(0) var<storage, read> stack: array<f32>;
@group(0) @binding(1) var<storage, read> loss: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  let b = i / params.size;
  var sum = 0.0;
  for (var d = 0u; d < params.draws; d++) {
    let own = loss[d * params.batch + b];
    var rank = 0u;
    for (var e = 0u; e < params.draws; e++) {
      let other = loss[e * params.batch + b];
      if (other < own || (other == own && e < d)) { rank++; }
    }
    if (rank < params.worst) { sum += stack[d * params.count + i]; }
  }
  y[i] = sum / f32(params.worst);
}
