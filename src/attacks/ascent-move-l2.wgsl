// One L2 step with momentum, P(u) = clamp(clean + (u − clean)·min(eps, n)/n, 0, 1) with n = ‖u − clean‖:
// z = P(x + step·g/‖g‖), x' = P(x + a (z − x) + (1 − a)(x − old)), a = 1 in the first step; g is the best point's after
// a return to it. reduce.wgsl stands before. Constants: THREADS. Grid: one workgroup an image.
const FIELDS = 9u;
const STEP = 5u;
const FLAGS = 8u;
struct Params { rows: u32, size: u32, a: f32, eps: f32 }
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> old: array<f32>;
@group(0) @binding(2) var<storage, read> gradient: array<f32>;
@group(0) @binding(3) var<storage, read> best_gradient: array<f32>;
@group(0) @binding(4) var<storage, read> clean: array<f32>;
@group(0) @binding(5) var<storage, read> state: array<f32>;
@group(0) @binding(6) var<storage, read> counter: array<u32>;
@group(0) @binding(7) var<uniform> params: Params;

fn g(i: u32, back: bool) -> f32 { return select(gradient[i], best_gradient[i], back); }

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = group.x + group.y * groups.x;
  if (row >= params.rows) { return; }
  let first = row * params.size;
  let end = first + params.size;
  let step = state[row * FIELDS + STEP];
  let back = (u32(state[row * FIELDS + FLAGS]) & 4u) != 0u;
  let a = select(1.0, params.a, counter[0] > 0u);

  var sum = 0.0;
  for (var i = first + lane; i < end; i += u32(THREADS)) { sum += g(i, back) * g(i, back); }
  let scale = step / (sqrt(total(sum, lane)) + 1e-12);

  sum = 0.0;
  for (var i = first + lane; i < end; i += u32(THREADS)) {
    let d = x[i] + scale * g(i, back) - clean[i];
    sum += d * d;
  }
  let n = sqrt(total(sum, lane));
  let shrink = min(params.eps, n) / (n + 1e-12);

  // u − clean, u before the second projection; kept in `old`, whose last use this is.
  sum = 0.0;
  for (var i = first + lane; i < end; i += u32(THREADS)) {
    let here = x[i];
    let z = clamp(clean[i] + (here + scale * g(i, back) - clean[i]) * shrink, 0.0, 1.0);
    let d = here + (z - here) * a + (here - old[i]) * (1.0 - a) - clean[i];
    sum += d * d;
    old[i] = d;
  }
  let m = sqrt(total(sum, lane));
  let shrink_again = min(params.eps, m) / (m + 1e-12);
  for (var i = first + lane; i < end; i += u32(THREADS)) {
    let d = old[i];
    old[i] = x[i];
    x[i] = clamp(clean[i] + d * shrink_again, 0.0, 1.0);
  }
}
