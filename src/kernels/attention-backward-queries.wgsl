// Gradient of attention for the queries; the scores are computed again. With
//   p = exp(scale q k - logs),  delta = sum over channels of dy o:   dq = scale * sum over keys of p (dy v - delta) k
// q, o, dy, dq [N, queries, heads, D], k, v [N, keys, heads, D] as T; norms [N, heads, queries] = (logs, delta), written
// for attention-backward-keys.wgsl. Constants, `join`, grid and workgroup memory: as attention.wgsl.
struct Params { queries: u32, keys: u32, heads: u32, tiles: u32, count: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> q: array<T>;
@group(0) @binding(1) var<storage, read> k: array<T>;
@group(0) @binding(2) var<storage, read> v: array<T>;
@group(0) @binding(3) var<storage, read> o: array<T>;
@group(0) @binding(4) var<storage, read> logs: array<f32>;
@group(0) @binding(5) var<storage, read> dy: array<T>;
@group(0) @binding(6) var<storage, read_write> dq: array<T>;
@group(0) @binding(7) var<storage, read_write> norms: array<vec2<f32>>;
@group(0) @binding(8) var<uniform> params: Params;

var<workgroup> keyTile: array<T, KEYS * D>;
var<workgroup> valueTile: array<T, KEYS * D>;

fn total(v: T) -> f32 {
  let u = vec4<f32>(v);
  return select(u.x, (u.x + u.y) + (u.z + u.w), LANES == 4);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) i: u32, @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let index = group.x + group.y * groups.x;
  if (index >= params.count) { return; }
  let head = index / params.tiles;
  let t = (index % params.tiles) * (THREADS / PARTS) + i / PARTS;
  let part = i % PARTS;
  let n = head / params.heads;
  let row = params.heads * D;
  let near = min(t, params.queries - 1u);
  let own = (n * params.queries + near) * row + (head % params.heads) * D + part;
  let others = n * params.keys * row + (head % params.heads) * D;

  var query: array<T, WIDTH>;
  var cotangent: array<T, WIDTH>;
  var sum: array<T, WIDTH>;
  var product = T();
  for (var c = 0u; c < WIDTH; c++) {
    query[c] = q[own + c * PARTS] * params.scale;
    cotangent[c] = dy[own + c * PARTS];
    product += cotangent[c] * o[own + c * PARTS];
  }
  let delta = join(total(product));
  let shift = logs[head * params.queries + near];
  for (var first = 0u; first < params.keys; first += KEYS) {
    for (var e = i; e < KEYS * D; e += THREADS) {
      let at = others + min(first + e / D, params.keys - 1u) * row + e % D;
      keyTile[e] = k[at];
      valueTile[e] = v[at];
    }
    workgroupBarrier();
    let count = min(KEYS, params.keys - first);
    for (var j = 0u; j < count; j++) {
      var s = T();
      var g = T();
      for (var c = 0u; c < WIDTH; c++) {
        s += query[c] * keyTile[j * D + c * PARTS + part];
        g += cotangent[c] * valueTile[j * D + c * PARTS + part];
      }
      let ds = exp(join(total(s)) - shift) * (join(total(g)) - delta);
      for (var c = 0u; c < WIDTH; c++) { sum[c] += ds * keyTile[j * D + c * PARTS + part]; }
    }
    workgroupBarrier();
  }
  if (t >= params.queries) { return; }
  for (var c = 0u; c < WIDTH; c++) { dq[own + c * PARTS] = sum[c] * params.scale; }
  if (part == 0u) { norms[head * params.queries + t] = vec2<f32>(shift, delta); }
}
