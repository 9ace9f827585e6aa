// Follows the flags of ascent-judge: 1 keeps x and its gradient as the best, 2 keeps x as the hit, 4 puts x back to
// the best. Grid: one invocation an element of x [rows, size].
const FIELDS = 9u;
const FLAGS = 8u;
struct Params { count: u32, size: u32 }
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read> gradient: array<f32>;
@group(0) @binding(2) var<storage, read_write> best: array<f32>;
@group(0) @binding(3) var<storage, read_write> best_gradient: array<f32>;
@group(0) @binding(4) var<storage, read_write> hit: array<f32>;
@group(0) @binding(5) var<storage, read> state: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  let flags = u32(state[i / params.size * FIELDS + FLAGS]);
  let here = x[i];
  if ((flags & 1u) != 0u) {
    best[i] = here;
    best_gradient[i] = gradient[i];
  }
  if ((flags & 2u) != 0u) { hit[i] = here; }
  if ((flags & 4u) != 0u) { x[i] = best[i]; }
}
