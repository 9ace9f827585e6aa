// One step of gradient descent with momentum in place, all elementwise; nothing once control says halted:
//   g' = factor g + decay p,  m <- momentum m + g',  p <- p - coefficients.x d,
//   d = g' + momentum m (Nesterov) or m.
// Constants: T (f32 or vec4<f32>), NESTEROV. Grid: one invocation a T.
struct Params { momentum: f32, decay: f32, count: u32 }
@group(0) @binding(0) var<storage, read_write> p: array<T>;
@group(0) @binding(1) var<storage, read> g: array<T>;
@group(0) @binding(2) var<storage, read_write> m: array<T>;
@group(0) @binding(3) var<storage, read> coefficients: array<f32>;
@group(0) @binding(4) var<storage, read> control: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count || control[2] != 0.0) { return; }
  let gradient = control[0] * g[i] + params.decay * p[i];
  let first = params.momentum * m[i] + gradient;
  m[i] = first;
  var direction = first;
  if (NESTEROV) { direction = gradient + params.momentum * first; }
  p[i] -= coefficients[0] * direction;
}
