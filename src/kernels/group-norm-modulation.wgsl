// Gradient of the modulation from the sums of group-norm-backward.wgsl, s0 = sums[n, 0, c], s1 = sums[n, 1, c]:
//   dmodulation[n, c] = scale[c] s1 + bias[c] s0,  dmodulation[n, C + c] = s0
// Constants: T (f32, vec2<f32> or vec4<f32>). Grid: one invocation a T of [N, C], count = N * channels.
struct Params { count: u32, channels: u32 }
@group(0) @binding(0) var<storage, read> sums: array<T>;
@group(0) @binding(1) var<storage, read> scale: array<T>;
@group(0) @binding(2) var<storage, read> bias: array<T>;
@group(0) @binding(3) var<storage, read_write> dmodulation: array<T>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  let c = i % params.channels;
  let at = (i / params.channels) * 2u * params.channels + c;
  let s0 = sums[at];
  dmodulation[at] = scale[c] * sums[at + params.channels] + bias[c] * s0;
  dmodulation[at + params.channels] = s0;
}
