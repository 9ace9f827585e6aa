// One step of Adam or RAdam in place, all elementwise; nothing once control says halted:
//   g' = factor g + decay p,  m <- beta1 m + (1 - beta1) g',  v <- beta2 v + (1 - beta2) g'^2,
//   p <- p - m (coefficients.x + coefficients.y / (sqrt(v) + coefficients.z)).
// Constants: T (f32 or vec4<f32>). Grid: one invocation a T.
struct Params { betas: vec2<f32>, complements: vec2<f32>, decay: f32, count: u32 }
@group(0) @binding(0) var<storage, read_write> p: array<T>;
@group(0) @binding(1) var<storage, read> g: array<T>;
@group(0) @binding(2) var<storage, read_write> m: array<T>;
@group(0) @binding(3) var<storage, read_write> v: array<T>;
@group(0) @binding(4) var<storage, read> coefficients: array<f32>;
@group(0) @binding(5) var<storage, read> control: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count || control[2] != 0.0) { return; }
  let gradient = control[0] * g[i] + params.decay * p[i];
  let first = params.betas.x * m[i] + params.complements.x * gradient;
  let second = params.betas.y * v[i] + params.complements.y * gradient * gradient;
  m[i] = first;
  v[i] = second;
  p[i] -= first * (coefficients[0] + T(coefficients[1]) / (sqrt(second) + coefficients[2]));
}
