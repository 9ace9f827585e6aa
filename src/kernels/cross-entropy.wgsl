// loss[r] = log(sum over c of exp(x[r, c])) - (1 - smoothing) x[r, label[r]] - smoothing / classes * sum over c of x[r, c]
// norms[r] = (max, sum of exp(x - max)), for the gradient. A label outside 0..classes-1 makes the loss NaN.
// x [rows, classes], labels [rows]. Grid: one invocation a row. `nan` holds the bits of NaN, which WGSL has no literal for.
struct Params { rows: u32, classes: u32, smoothing: f32, nan: u32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read_write> loss: array<f32>;
@group(0) @binding(3) var<storage, read_write> norms: array<vec2<f32>>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(16)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let r = id.x + id.y * groups.x * 16u;
  if (r >= params.rows) { return; }
  let first = r * params.classes;
  var top = -0x1.fffffep+127;
  for (var c = 0u; c < params.classes; c++) { top = max(top, x[first + c]); }
  var sum = 0.0;
  var plain = 0.0;
  for (var c = 0u; c < params.classes; c++) {
    let d = x[first + c] - top;
    sum += exp(d);
    plain += d;
  }
  let label = labels[r];
  let own = x[first + min(label, params.classes - 1u)] - top;
  var y = log(sum) - (1.0 - params.smoothing) * own;
  // A logit may be -inf, and 0 * inf is NaN.
  if (params.smoothing > 0.0) { y -= params.smoothing / f32(params.classes) * plain; }
  if (label >= params.classes) { y = bitcast<f32>(params.nan); }
  loss[r] = y;
  norms[r] = vec2<f32>(top, sum);
}
