// o = softmax(scale q kT) v for each head, without the matrix of scores (online softmax): registers only, one invocation
// a query. Keys go by KEYS at a time.
// q, o [N, queries, heads, D], k, v [N, keys, heads, D] as T; logs [N, heads, queries] = log(sum over keys of exp(scale q k)).
// Constants: T (f32 or vec4<f32>), LANES (1 or 4), D (T a head), KEYS. Grid: one invocation a query and head,
// count = N * heads * queries.
struct Params { queries: u32, keys: u32, heads: u32, count: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> q: array<T>;
@group(0) @binding(1) var<storage, read> k: array<T>;
@group(0) @binding(2) var<storage, read> v: array<T>;
@group(0) @binding(3) var<storage, read_write> o: array<T>;
@group(0) @binding(4) var<storage, read_write> logs: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

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
  let others = n * params.keys * row + (head % params.heads) * D;

  var query: array<T, D>;
  var sum: array<T, D>;
  for (var c = 0u; c < D; c++) { query[c] = q[own + c] * params.scale; }
  var top = -3.4e38;
  var weight = 0.0;
  for (var first = 0u; first < params.keys; first += KEYS) {
    var s: array<f32, KEYS>;
    var next = top;
    for (var j = 0u; j < KEYS; j++) {
      let at = others + min(first + j, params.keys - 1u) * row;
      var product = T();
      for (var c = 0u; c < D; c++) { product += query[c] * k[at + c]; }
      s[j] = select(-3.4e38, total(product), first + j < params.keys);
      next = max(next, s[j]);
    }
    let shrink = exp(top - next);
    top = next;
    weight *= shrink;
    for (var c = 0u; c < D; c++) { sum[c] *= shrink; }
    for (var j = 0u; j < KEYS; j++) {
      let at = others + min(first + j, params.keys - 1u) * row;
      let p = exp(s[j] - top);
      weight += p;
      for (var c = 0u; c < D; c++) { sum[c] += p * v[at + c]; }
    }
  }
  for (var c = 0u; c < D; c++) { o[own + c] = sum[c] * (1.0 / weight); }
  logs[i] = top + log(weight);
}
