// dx[r, c] = (softmax(x[r])[c] - target[r, c]) dy[r], target = (1 - smoothing) [c = label[r]] + smoothing / classes.
// norms: from the forward kernel. A label outside 0..classes-1 makes the row NaN. Grid: one invocation an element.
struct Params { count: u32, classes: u32, smoothing: f32, nan: u32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read> norms: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> dy: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  let r = i / params.classes;
  let label = labels[r];
  let p = exp(x[i] - norms[r].x) / norms[r].y;
  let wanted = select(0.0, 1.0 - params.smoothing, i % params.classes == label) + params.smoothing / f32(params.classes);
  var g = (p - wanted) * dy[r];
  if (label >= params.classes) { g = bitcast<f32>(params.nan); }
  dx[i] = g;
}
