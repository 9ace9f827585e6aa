// For each pixel e of group b, over the K latents: m = mean_k z, s = the unbiased standard deviation (two passes;
// 0 for K = 1). MODE 0: parts[b, p] = sum of (m - mean)^2 + weight (s - deviation)^2;
// MODE 1: parts[b, 0, p] = sum of m, parts[b, 1, p] = sum of s; over e = p, p + parts, ...
// Constants: T (f32 or vec4<f32>), MODE; `total` is appended. params.length counts Ts. Grid: one invocation a (b, p).
struct Params { groups: u32, k: u32, length: u32, parts: u32, mean: f32, deviation: f32, weight: f32 }
@group(0) @binding(0) var<storage, read> z: array<T>;
@group(0) @binding(1) var<storage, read_write> parts: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  let b = i / params.parts;
  let p = i % params.parts;
  if (b >= params.groups) { return; }
  var first = T(0.0);
  var second = T(0.0);
  for (var e = p; e < params.length; e += params.parts) {
    let base = b * params.k * params.length + e;
    // The mean as an offset from the first latent: near numbers subtract exactly.
    let z0 = z[base];
    var offset = T(0.0);
    for (var k = 1u; k < params.k; k++) { offset += z[base + k * params.length] - z0; }
    offset /= f32(params.k);
    let m = z0 + offset;
    var variance = T(0.0);
    for (var k = 0u; k < params.k; k++) {
      let d = (z[base + k * params.length] - z0) - offset;
      variance += d * d;
    }
    let s = sqrt(variance / f32(max(params.k, 2u) - 1u));
    if (MODE == 0) {
      first += (m - params.mean) * (m - params.mean) + params.weight * (s - params.deviation) * (s - params.deviation);
    } else {
      first += m;
      second += s;
    }
  }
  if (MODE == 0) {
    parts[i] = total(first);
  } else {
    parts[2u * b * params.parts + p] = total(first);
    parts[(2u * b + 1u) * params.parts + p] = total(second);
  }
}
