// y[o,s,c] = scale · finish(Σ_k x[o, s + k·chunks, c]), s + k·chunks < length: blocked sum of x [outer, length, inner]
// over its middle axis into `chunks` interleaved partial sums, so that neighbouring invocations read neighbouring
// memory. Registers only. Four accumulators: shorter chains of additions, smaller rounding error.
// Constants: T (f32 or vec4<f32>), U (y's element). reduce.ts appends `fn finish(v: T) -> U`, which for inner = 1
// and T = vec4 adds the four lanes. Counts in Ts. Grid: one invocation an element of y.
struct Params { count: u32, length: u32, chunks: u32, inner: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<storage, read_write> y: array<U>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  let j = i / params.inner;
  let c = i - j * params.inner;
  let o = j / params.chunks;
  let s = j - o * params.chunks;
  let terms = (params.length - s + params.chunks - 1u) / params.chunks;
  let step = params.chunks * params.inner;
  var at = (o * params.length + s) * params.inner + c;
  var s0 = T(0.0);
  var s1 = T(0.0);
  var s2 = T(0.0);
  var s3 = T(0.0);
  for (var k = 0u; k < terms / 4u; k++) {
    s0 += x[at];
    s1 += x[at + step];
    s2 += x[at + 2u * step];
    s3 += x[at + 3u * step];
    at += 4u * step;
  }
  for (var k = 0u; k < terms % 4u; k++) {
    s0 += x[at];
    at += step;
  }
  y[i] = finish((s0 + s1) + (s2 + s3)) * params.scale;
}
