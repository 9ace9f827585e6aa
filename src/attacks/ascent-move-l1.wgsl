// One L1 step (Croce & Hein 2021, Sec. 3): x' = clean + P(x + step·s/‖s‖₁ − clean), P the projection of
// l1-projection.wgsl; s is the sign of the gradient g where |g| is not below its q-th smallest value,
// q = (1 − sparsity[row].x)·size, and 0 elsewhere. g is the best point's after a return to it. reduce.wgsl and
// l1-projection.wgsl stand before. Constants: THREADS. Grid: one workgroup an image.
const FIELDS = 9u;
const STEP = 5u;
const FLAGS = 8u;
struct Params { rows: u32, size: u32, radius: f32 }
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> delta: array<f32>;
@group(0) @binding(2) var<storage, read> gradient: array<f32>;
@group(0) @binding(3) var<storage, read> best_gradient: array<f32>;
@group(0) @binding(4) var<storage, read> clean: array<f32>;
@group(0) @binding(5) var<storage, read> state: array<f32>;
@group(0) @binding(6) var<storage, read> sparsity: array<vec2<f32>>;
@group(0) @binding(7) var<uniform> params: Params;

fn g(i: u32, back: bool) -> f32 { return select(gradient[i], best_gradient[i], back); }

fn raw(i: u32) -> f32 { return delta[i]; }

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
  let back = (u32(state[row * FIELDS + FLAGS]) & 4u) != 0u;
  let n = f32(params.size);
  let rank = floor(clamp((1.0 - sparsity[row].x) * n, 0.0, n - 1.0)) + 1.0;

  // The value of that rank, bit by bit from the top: bits of positive floats are in the order of the floats.
  var threshold = 0u;
  for (var bit = 0u; bit < 31u; bit++) {
    let half = 1u << (30u - bit);
    let most = threshold | (half - 1u);
    var count = 0.0;
    for (var i = first + lane; i < end; i += u32(THREADS)) {
      count += select(0.0, 1.0, bitcast<u32>(abs(g(i, back))) <= most);
    }
    if (total(count, lane) < rank) { threshold |= half; }
  }

  var chosen = 0.0;
  for (var i = first + lane; i < end; i += u32(THREADS)) {
    let v = g(i, back);
    chosen += select(0.0, 1.0, v != 0.0 && bitcast<u32>(abs(v)) >= threshold);
  }
  let step = state[row * FIELDS + STEP] / (total(chosen, lane) + 1e-10);
  for (var i = first + lane; i < end; i += u32(THREADS)) {
    let v = g(i, back);
    delta[i] = x[i] + select(0.0, step * sign(v), bitcast<u32>(abs(v)) >= threshold) - clean[i];
  }
  storageBarrier();
  l1_project(first, end, lane, params.radius);
}
