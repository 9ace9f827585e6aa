// One Adam step in place, all elementwise (Kingma and Ba 2015; torch.optim.Adam):
//   m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2,
//   p <- p - rate / q1 * m / (sqrt(v) / sqrt(q2) + eps),  (q1, q2) = correction.
// Constants: T (f32 or vec4<f32>). Grid: one invocation a T.
struct Params { betas: vec2<f32>, complements: vec2<f32>, eps: f32, count: u32 }
@group(0) @binding(0) var<storage, read_write> p: array<T>;
@group(0) @binding(1) var<storage, read> g: array<T>;
@group(0) @binding(2) var<storage, read_write> m: array<T>;
@group(0) @binding(3) var<storage, read_write> v: array<T>;
@group(0) @binding(4) var<storage, read> correction: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read> rate: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  let q = correction[0];
  let first = params.betas.x * m[i] + params.complements.x * g[i];
  let second = params.betas.y * v[i] + params.complements.y * g[i] * g[i];
  m[i] = first;
  v[i] = second;
  p[i] -= (rate[0] / q.x) * first / (sqrt(second) / sqrt(q.y) + T(params.eps));
}
