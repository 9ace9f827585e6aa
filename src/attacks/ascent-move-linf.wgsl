// One L∞ step with momentum, P the clamp to [low, high]: z = P(x + step·sign(g)),
// x' = P(x + a (z − x) + (1 − a)(x − old)), a = 1 in the first step; g is the best point's after a return to it.
// Grid: one invocation an element of x [rows, size].
const FIELDS = 9u;
const STEP = 5u;
const FLAGS = 8u;
struct Params { count: u32, size: u32, a: f32 }
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> old: array<f32>;
@group(0) @binding(2) var<storage, read> gradient: array<f32>;
@group(0) @binding(3) var<storage, read> best_gradient: array<f32>;
@group(0) @binding(4) var<storage, read> low: array<f32>;
@group(0) @binding(5) var<storage, read> high: array<f32>;
@group(0) @binding(6) var<storage, read> state: array<f32>;
@group(0) @binding(7) var<storage, read> counter: array<u32>;
@group(0) @binding(8) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  let s = i / params.size * FIELDS;
  let back = (u32(state[s + FLAGS]) & 4u) != 0u;
  let g = select(gradient[i], best_gradient[i], back);
  let here = x[i];
  let z = clamp(here + state[s + STEP] * sign(g), low[i], high[i]);
  var next = z;
  if (counter[0] > 0u && params.a != 1.0) {
    next = clamp(here + (z - here) * params.a + (here - old[i]) * (1.0 - params.a), low[i], high[i]);
  }
  old[i] = here;
  x[i] = next;
}
