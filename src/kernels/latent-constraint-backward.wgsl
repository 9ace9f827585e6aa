// dz[b, k, e] = scale dy[b] (2 (m - mean) / K + weight 2 (s - deviation) (z[b, k, e] - m) / ((K - 1) s)), m and s as in
// latent-constraint.wgsl. Where s = 0 all (z - m) are 0 and so is the second term.
// Constants: T (f32 or vec4<f32>). params.length counts Ts. Grid: one invocation a (b, e).
struct Params { groups: u32, k: u32, length: u32, mean: f32, deviation: f32, weight: f32, scale: f32 }
@group(0) @binding(0) var<storage, read> z: array<T>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read_write> dz: array<T>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  let b = i / params.length;
  if (b >= params.groups) { return; }
  let base = b * params.k * params.length + i % params.length;
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
  let free = f32(max(params.k, 2u) - 1u);
  let s = sqrt(variance / free);
  let shared_term = 2.0 * (m - params.mean) / f32(params.k);
  let spread = select(T(0.0), 2.0 * params.weight * (s - params.deviation) / (free * max(s, T(1e-30))), s > T(0.0));
  let factor = params.scale * dy[b];
  for (var k = 0u; k < params.k; k++) {
    let at = base + k * params.length;
    dz[at] = factor * (shared_term + spread * ((z[at] - z0) - offset));
  }
}
