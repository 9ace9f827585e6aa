// Gradients of attention for keys and values; the scores are computed again. With p = exp(scale q k - logs):
//   dv = sum over queries of p dy,  dk = scale * sum over queries of p (dy v - delta) q
// A workgroup does THREADS / PARTS keys of a head, and all read KEYS queries at a time from workgroup memory.
// q, dy [N, queries, heads, D], k, v, dk, dv [N, keys, heads, D] as T, norms [N, heads, queries] = (logs, delta) from
// attention-backward-queries.wgsl. Constants, `join` and workgroup memory: as attention.wgsl.
// Grid: one workgroup a tile of keys and head, count = N * heads * tiles.
struct Params { queries: u32, keys: u32, heads: u32, tiles: u32, count: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> q: array<T>;
@group(0) @binding(1) var<storage, read> k: array<T>;
@group(0) @binding(2) var<storage, read> v: array<T>;
@group(0) @binding(3) var<storage, read> norms: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> dy: array<T>;
@group(0) @binding(5) var<storage, read_write> dk: array<T>;
@group(0) @binding(6) var<storage, read_write> dv: array<T>;
@group(0) @binding(7) var<uniform> params: Params;

var<workgroup> queryTile: array<T, KEYS * D>;
var<workgroup> cotangentTile: array<T, KEYS * D>;

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
  let own = (n * params.keys + min(t, params.keys - 1u)) * row + (head % params.heads) * D + part;
  let others = n * params.queries * row + (head % params.heads) * D;

  var key: array<T, WIDTH>;
  var value: array<T, WIDTH>;
  var forKey: array<T, WIDTH>;
  var forValue: array<T, WIDTH>;
  for (var c = 0u; c < WIDTH; c++) {
    key[c] = k[own + c * PARTS] * params.scale;
    value[c] = v[own + c * PARTS];
  }
  for (var first = 0u; first < params.queries; first += KEYS) {
    for (var e = i; e < KEYS * D; e += THREADS) {
      let at = others + min(first + e / D, params.queries - 1u) * row + e % D;
      queryTile[e] = q[at];
      cotangentTile[e] = dy[at];
    }
    workgroupBarrier();
    let count = min(KEYS, params.queries - first);
    for (var j = 0u; j < count; j++) {
      var s = T();
      var g = T();
      for (var c = 0u; c < WIDTH; c++) {
        s += key[c] * queryTile[j * D + c * PARTS + part];
        g += value[c] * cotangentTile[j * D + c * PARTS + part];
      }
      let norm = norms[head * params.queries + first + j];
      let p = exp(join(total(s)) - norm.x);
      let ds = p * (join(total(g)) - norm.y);
      for (var c = 0u; c < WIDTH; c++) {
        forValue[c] += p * cotangentTile[j * D + c * PARTS + part];
        forKey[c] += ds * queryTile[j * D + c * PARTS + part];
      }
    }
    workgroupBarrier();
  }
  if (t >= params.keys) { return; }
  for (var c = 0u; c < WIDTH; c++) {
    dk[own + c * PARTS] = forKey[c] * params.scale;
    dv[own + c * PARTS] = forValue[c];
  }
}
