// Gradient of attention for the queries, registers only: one invocation a query, the scores computed again. With
//   p = exp(scale q k - logs),  delta = sum over channels of dy o:   dq = scale * sum over keys of p (dy v - delta) k
// q, o, dy, dq [N, queries, heads, D], k, v [N, keys, heads, D] as T; norms [N, heads, queries] = (logs, delta), written
// for attention-backward-keys.wgsl. Constants and grid: as attention.wgsl.
struct Params { queries: u32, keys: u32, heads: u32, count: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> q: array<T>;
@group(0) @binding(1) var<storage, read> k: array<T>;
@group(0) @binding(2) var<storage, read> v: array<T>;
@group(0) @binding(3) var<storage, read> o: array<T>;
@group(0) @binding(4) var<storage, read> logs: array<f32>;
@group(0) @binding(5) var<storage, read> dy: array<T>;
@group(0) @binding(6) var<storage, read_write> dq: array<T>;
@group(0) @binding(7) var<storage, read_write> norms: array<vec2<f32>>;
@group(0) @binding(8) var<uniform> params: Params;

fn total(v: T) -> f32 {
  let u = vec4<f32>(v);
  return select(u.x, (u.x + u.y) + (u.z + u.w), LANES == 4);
}

@compute @workgroup_size(16)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 16u;
  if (i >= params.count) { return; }
  let t = i % params.queries;
  let head = i / params.queries;
  let n = head / params.heads;
  let row = params.heads * D;
  let own = (n * params.queries + t) * row + (head % params.heads) * D;
  var at = n * params.keys * row + (head % params.heads) * D;

  var query: array<T, D>;
  var cotangent: array<T, D>;
  var sum: array<T, D>;
  var product = T();
  for (var c = 0u; c < D; c++) {
    query[c] = q[own + c] * params.scale;
    cotangent[c] = dy[own + c];
    product += cotangent[c] * o[own + c];
  }
  let delta = total(product);
  let shift = logs[i];
  norms[i] = vec2<f32>(shift, delta);
  for (var j = 0u; j < params.keys; j++) {
    var s = T();
    var g = T();
    for (var c = 0u; c < D; c++) {
      s += query[c] * k[at + c];
      g += cotangent[c] * v[at + c];
    }
    let ds = exp(total(s) - shift) * (total(g) - delta);
    for (var c = 0u; c < D; c++) { sum[c] += ds * k[at + c]; }
    at += row;
  }
  for (var c = 0u; c < D; c++) { dq[own + c] = sum[c] * params.scale; }
}
