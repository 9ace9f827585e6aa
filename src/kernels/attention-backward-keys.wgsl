// Gradients of attention for keys and values, registers only: one invocation a key, the scores computed again. With
//   p = exp(scale q k - logs):   dv = sum over queries of p dy,  dk = scale * sum over queries of p (dy v - delta) q
// q, dy [N, queries, heads, D], k, v, dk, dv [N, keys, heads, D] as T, norms [N, heads, queries] = (logs, delta) from
// attention-backward-queries.wgsl. Constants: as attention.wgsl. Grid: one invocation a key and head, count = N * heads * keys.
struct Params { queries: u32, keys: u32, heads: u32, count: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> q: array<T>;
@group(0) @binding(1) var<storage, read> k: array<T>;
@group(0) @binding(2) var<storage, read> v: array<T>;
@group(0) @binding(3) var<storage, read> norms: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> dy: array<T>;
@group(0) @binding(5) var<storage, read_write> dk: array<T>;
@group(0) @binding(6) var<storage, read_write> dv: array<T>;
@group(0) @binding(7) var<uniform> params: Params;

fn total(v: T) -> f32 {
  let u = vec4<f32>(v);
  return select(u.x, (u.x + u.y) + (u.z + u.w), LANES == 4);
}

@compute @workgroup_size(16)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 16u;
  if (i >= params.count) { return; }
  let t = i % params.keys;
  let head = i / params.keys;
  let n = head / params.heads;
  let row = params.heads * D;
  let own = (n * params.keys + t) * row + (head % params.heads) * D;
  var at = n * params.queries * row + (head % params.heads) * D;

  var key: array<T, D>;
  var value: array<T, D>;
  var forKey: array<T, D>;
  var forValue: array<T, D>;
  for (var c = 0u; c < D; c++) {
    key[c] = k[own + c] * params.scale;
    value[c] = v[own + c];
  }
  for (var j = 0u; j < params.queries; j++) {
    var s = T();
    var g = T();
    for (var c = 0u; c < D; c++) {
      s += key[c] * q[at + c];
      g += value[c] * dy[at + c];
    }
    let norm = norms[head * params.queries + j];
    let p = exp(total(s) - norm.x);
    let ds = p * (total(g) - norm.y);
    for (var c = 0u; c < D; c++) {
      forValue[c] += p * dy[at + c];
      forKey[c] += ds * q[at + c];
    }
    at += row;
  }
  for (var c = 0u; c < D; c++) {
    dk[own + c] = forKey[c] * params.scale;
    dv[own + c] = forValue[c];
  }
}
