// The loss of cross-entropy.wgsl for many classes on GPUs: one workgroup a row.
// Constants: THREADS (a power of two). Grid: one workgroup a row. Workgroup memory 8 * THREADS bytes.
struct Params { rows: u32, classes: u32, smoothing: f32, nan: u32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read_write> loss: array<f32>;
@group(0) @binding(3) var<storage, read_write> norms: array<vec2<f32>>;
@group(0) @binding(4) var<uniform> params: Params;

var<workgroup> part: array<vec2<f32>, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) i: u32, @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let r = group.x + group.y * groups.x;
  if (r >= params.rows) { return; }
  let first = r * params.classes;
  var highest = -0x1.fffffep+127;
  for (var c = i; c < params.classes; c += THREADS) { highest = max(highest, x[first + c]); }
  part[i] = vec2<f32>(highest);
  workgroupBarrier();
  for (var s = THREADS / 2u; s > 0u; s /= 2u) {
    if (i < s) { part[i] = max(part[i], part[i + s]); }
    workgroupBarrier();
  }
  let top = part[0].x;
  workgroupBarrier();
  var sums = vec2<f32>();
  for (var c = i; c < params.classes; c += THREADS) {
    let d = x[first + c] - top;
    sums += vec2<f32>(exp(d), d);
  }
  part[i] = sums;
  workgroupBarrier();
  for (var s = THREADS / 2u; s > 0u; s /= 2u) {
    if (i < s) { part[i] += part[i + s]; }
    workgroupBarrier();
  }
  if (i != 0u) { return; }
  sums = part[0];
  let label = labels[r];
  let own = x[first + min(label, params.classes - 1u)] - top;
  var y = log(sums.x) - (1.0 - params.smoothing) * own;
  // A logit may be -inf, and 0 * inf is NaN.
  if (params.smoothing > 0.0) { y -= params.smoothing / f32(params.classes) * sums.y; }
  if (label >= params.classes) { y = bitcast<f32>(params.nan); }
  loss[r] = y;
  norms[r] = vec2<f32>(top, sums.x);
}
