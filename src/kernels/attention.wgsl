// o = softmax(scale q kT) v for each head, without the matrix of scores (online softmax). A workgroup does
// THREADS / PARTS queries of a head, and all read KEYS keys at a time from workgroup memory. A query is spread over PARTS
// neighbouring invocations, each with every PARTS-th T of its channels; the text is completed by
// `fn join(x: f32) -> f32`, the sum over the PARTS.
// q, o [N, queries, heads, D], k, v [N, keys, heads, D] as T; logs [N, heads, queries] = log(sum over keys of exp(scale q k)).
// Constants: T (f32 or vec4<f32>), LANES (1 or 4), D (T a head), PARTS (1, 2, 4), WIDTH = D / PARTS, THREADS, KEYS.
// Grid: one workgroup a tile of queries and head, count = N * heads * tiles. Workgroup memory 8 * KEYS * D * LANES bytes.
struct Params { queries: u32, keys: u32, heads: u32, tiles: u32, count: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> q: array<T>;
@group(0) @binding(1) var<storage, read> k: array<T>;
@group(0) @binding(2) var<storage, read> v: array<T>;
@group(0) @binding(3) var<storage, read_write> o: array<T>;
@group(0) @binding(4) var<storage, read_write> logs: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

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
  let own = (n * params.queries + min(t, params.queries - 1u)) * row + (head % params.heads) * D + part;
  let others = n * params.keys * row + (head % params.heads) * D;

  var query: array<T, WIDTH>;
  var sum: array<T, WIDTH>;
  for (var c = 0u; c < WIDTH; c++) { query[c] = q[own + c * PARTS] * params.scale; }
  var top = -0x1.fffffep+127;
  var weight = 0.0;
  for (var first = 0u; first < params.keys; first += KEYS) {
    for (var e = i; e < KEYS * D; e += THREADS) {
      let at = others + min(first + e / D, params.keys - 1u) * row + e % D;
      keyTile[e] = k[at];
      valueTile[e] = v[at];
    }
    workgroupBarrier();
    let count = min(KEYS, params.keys - first);
    for (var j = 0u; j < count; j++) {
      var product = T();
      for (var c = 0u; c < WIDTH; c++) { product += query[c] * keyTile[j * D + c * PARTS + part]; }
      let s = join(total(product));
      if (s > top) {
        let shrink = exp(top - s);
        top = s;
        weight *= shrink;
        for (var c = 0u; c < WIDTH; c++) { sum[c] *= shrink; }
      }
      let p = exp(s - top);
      weight += p;
      for (var c = 0u; c < WIDTH; c++) { sum[c] += p * valueTile[j * D + c * PARTS + part]; }
    }
    workgroupBarrier();
  }
  if (t >= params.queries) { return; }
  for (var c = 0u; c < WIDTH; c++) { o[own + c * PARTS] = sum[c] * (1.0 / weight); }
  if (part == 0u) { logs[head * params.queries + t] = top + log(weight); }
}
